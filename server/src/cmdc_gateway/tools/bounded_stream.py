"""A connection from which only so much is read, whatever the peer calls it.

A limit on a body bounds neither interim answers, headers and trailers nor the framing of chunks: a peer can send these
for ever, and reading them costs more than reading a body.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpcore

# What is read at once is taken apart at once, and 64 KiB of chunks of a byte take a fifth of a second.
_PIECE_BYTES = 8 * 1024


class TooMuchRead(Exception):
    """The peer has sent more than will be read."""


class BoundedStream(httpcore.AsyncNetworkStream):
    """The stream, of which at most `limit` bytes are read. Raises `TooMuchRead` beyond."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, limit: int) -> None:
        self._stream = stream
        self._left = limit

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's interface
        data = await self._stream.read(min(max_bytes, _PIECE_BYTES), timeout)
        self._left -= len(data)
        if self._left < 0:
            raise TooMuchRead
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
