"""The bounds of HTTP-5, and what uvicorn leaves open around them.

uvicorn bounds neither the time nor the size of a request's head, answers malformed requests in plain text, and loses
answers to clients that are still sending. `http_protocol` and `ws_protocol` are its protocols with that mended;
`read_body` is how routes take a body. What a request means, and who may send it, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from cmdc_gateway.errors import PayloadTooLarge, RequestTimeout
from cmdc_gateway.web.transport.http import LimitedHttpProtocol
from cmdc_gateway.web.transport.websocket import LimitedWebSocketProtocol


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How much of everything one connection may take; the defaults are those of HTTP-5."""

    body_bytes: int = 1_048_576
    header_bytes: int = 32_768
    header_fields: int = 100
    url_bytes: int = 8_192
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    ws_message_bytes: int = 1_048_576
    linger_seconds: float = 5.0
    """How long a connection that is being closed may stay without progress, so that the peer can read the answer."""


def http_protocol(limits: HttpLimits) -> type[LimitedHttpProtocol]:
    """What to give to `uvicorn.Config(http=…)`."""
    return type("HttpProtocol", (LimitedHttpProtocol,), {"limits": limits})


def ws_protocol(limits: HttpLimits) -> type[LimitedWebSocketProtocol]:
    """What to give to `uvicorn.Config(ws=…)`. It needs `http_protocol` beside it, which checks the handshake's head."""
    return type("WebSocketProtocol", (LimitedWebSocketProtocol,), {"limits": limits})


async def read_body(receive: Receive, headers: Iterable[tuple[bytes, bytes]], limits: HttpLimits) -> bytes:
    """Read a request's body within the bounds of HTTP-5.

    A body that is announced as too long is refused before it is asked for. Raises `PayloadTooLarge`, `RequestTimeout`,
    and Starlette's `ClientDisconnect` when the client leaves in between. `http_protocol` closes the connection after
    such an answer.
    """
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > limits.body_bytes:
            raise PayloadTooLarge(limits.body_bytes)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _joined(receive, limits.body_bytes)
    except TimeoutError:
        raise RequestTimeout("body") from None


async def _joined(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            raise PayloadTooLarge(limit)
        more = message.get("more_body", False)
    return bytes(body)
