"""uvicorn's protocol classes with this server's limits, and what they need: lingering close, raw errors."""
