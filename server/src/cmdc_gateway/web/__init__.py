"""The gateway over HTTP: who may ask, what was asked, and the streams."""
