"""Checks of runs and their events, over SSE and WebSocket."""
