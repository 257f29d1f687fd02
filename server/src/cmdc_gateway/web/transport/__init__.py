"""uvicorn's protocol classes with the limits of this server, and what they need: lingering close, raw errors."""
