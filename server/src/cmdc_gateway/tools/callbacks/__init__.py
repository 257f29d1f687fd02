"""Callback tools: clients register them at runtime, and each call is an HTTP request to their URL (CB-1 to CB-5)."""
