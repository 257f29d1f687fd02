"""A limit on everything that is read from a connection.

A limit on the body excludes interim responses, headers, trailers and the framing of chunks. A peer can send those forever,
and they cost more to parse than a body.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpcore

from cmdc_gateway.tools.callbacks.errors import ByteLimitExceeded

# Everything that one read returns is parsed without a pause, and 64 KiB of one-byte chunks take 0.2 s.
_READ_BYTES = 8 * 1024


class ByteLimitedStream(httpcore.AsyncNetworkStream):
    """A stream from which at most `limit` bytes can be read. Then reading raises `ByteLimitExceeded`."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, limit: int) -> None:
        self._stream = stream
        self._remaining = limit

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's interface
        data = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._remaining -= len(data)
        if self._remaining < 0:
            raise ByteLimitExceeded
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return await self._stream.start_tls(ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
