"""Reading a request's body within the limits of HTTP-5."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from cmdc_gateway.errors import PayloadTooLarge, RequestTimeout
from cmdc_gateway.web.transport.limits import HttpLimits


async def read_body(receive: Receive, headers: Iterable[tuple[bytes, bytes]], limits: HttpLimits) -> bytes:
    """Return the body. A body whose Content-Length exceeds the limit is rejected unread.

    `LimitedHttpProtocol` closes the connection after such an error.

    Raises:
        PayloadTooLarge: the body is, or is announced as, longer than `limits.body_bytes`.
        RequestTimeout: the body did not arrive within `limits.body_seconds`.
        ClientDisconnect: the client disconnected before the end of the body.
    """
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > limits.body_bytes:
            raise PayloadTooLarge(limits.body_bytes)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _receive_all(receive, limits.body_bytes)
    except TimeoutError:
        raise RequestTimeout("body") from None


async def _receive_all(receive: Receive, limit: int) -> bytes:
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
