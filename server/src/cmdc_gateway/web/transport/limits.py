"""The limits of HTTP-5 and WS-5 for one connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Sizes in bytes, times in seconds. The defaults are those of HTTP-5."""

    body_bytes: int = 1_048_576
    header_bytes: int = 32_768
    header_fields: int = 100
    url_bytes: int = 8_192
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    ws_message_bytes: int = 1_048_576
    linger_seconds: float = 5.0
    """How long a closing connection may make no progress, so that the peer can read the response."""
