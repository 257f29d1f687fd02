"""ASGI middleware round every request: authentication, the request log, CORS, errors."""
