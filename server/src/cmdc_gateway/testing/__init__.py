"""Contract tests for authors of stores and providers: subclass one, and run it with pytest."""
