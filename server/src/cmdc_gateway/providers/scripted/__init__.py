"""The scripted model: it produces every event of a run without a language model."""
