"""CMDC Gateway: an AI agent behind HTTP, SSE and WebSocket."""

from typing import Final

__version__: Final = "0.1.0"
