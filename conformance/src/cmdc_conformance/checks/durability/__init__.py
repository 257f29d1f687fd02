"""Checks that kill, stop and restart the server."""
