"""What drives the server under test: sessions over each transport or the Python client, a scripted model, hosted tools."""
