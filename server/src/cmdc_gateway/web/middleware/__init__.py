"""ASGI middleware around every request: request log, CORS, exceptions, authentication."""
