"""Raw HTTP/1.1 connections: bytes are sent unchanged, responses are parsed strictly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from cmdc_testkit.gateways import KEY

_TIMEOUT_SECONDS = 20

ConnectionEnd = Literal["open", "closed", "reset"]


class InvalidResponse(AssertionError):
    """The server sent something that is not an HTTP/1.1 response."""


@dataclass(frozen=True, slots=True)
class RawResponse:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class RawConnection:
    """One connection to a server on loopback."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes. A closed connection is not an error here: reading the response reports it."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    async def read_response(
        self, *, to_head: bool = False, within: float = _TIMEOUT_SECONDS
    ) -> RawResponse | ConnectionEnd:
        """Read the next final response, or return how the connection ended. `to_head`: the response has no body."""
        try:
            async with asyncio.timeout(within):
                while (response := await self._read(to_head=to_head)).status == 100:
                    pass
                return response
        except asyncio.IncompleteReadError as cut:
            if cut.partial:
                raise InvalidResponse(f"cut short: {cut.partial[:200]!r}") from None
            return "closed"
        except ConnectionError:
            return "reset"
        except TimeoutError:
            return "open"

    async def _read(self, *, to_head: bool) -> RawResponse:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if version != "HTTP/1.1" or not rest[:3].isdigit() or rest[3:4] != " ":
            raise InvalidResponse(f"not a status line: {first[:200]!r}")
        headers: dict[str, str] = {}
        for line in filter(None, lines):
            name, colon, value = line.partition(": ")
            if not colon or (name.lower() in headers and name.lower() in ("content-length", "transfer-encoding")):
                raise InvalidResponse(f"not a header field: {line[:200]!r}")
            headers[name.lower()] = value
        status = int(rest[:3])
        return RawResponse(status, headers, await self._body(status, headers, to_head=to_head))

    async def _body(self, status: int, headers: Mapping[str, str], *, to_head: bool) -> bytes:
        if to_head or status < 200 or status in (204, 304):
            return b""
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            raise InvalidResponse(f"a response without a length: {headers}")
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            if await self.reader.readexactly(2) != b"\r\n":
                raise InvalidResponse("a chunk is longer than its size")
        await self.reader.readexactly(2)
        return body

    async def read_end(self, within: float = _TIMEOUT_SECONDS) -> ConnectionEnd:
        """Wait until the connection ends and return how. Raises InvalidResponse for any data."""
        try:
            async with asyncio.timeout(within):
                more = await self.reader.read(1000)
        except ConnectionError:
            return "reset"
        except TimeoutError:
            return "open"
        if more:
            raise InvalidResponse(f"unexpected data: {more[:200]!r}")
        return "closed"


@asynccontextmanager
async def connect(port: int, *chunks: bytes) -> AsyncGenerator[RawConnection]:
    """Connect and send these bytes, each chunk in its own packet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = RawConnection(reader, writer)
    try:
        for chunk in chunks:
            await connection.send(chunk)
            await asyncio.sleep(0)
        yield connection
    finally:
        writer.transport.abort()


def request(
    method: str | bytes,
    target: str | bytes,
    *fields: bytes,
    body: bytes | None = None,
    key: str | None = KEY,
    version: bytes = b"HTTP/1.1",
) -> bytes:
    """Return the bytes of a request, with every argument unchanged."""
    lines = [b" ".join((_bytes(method), _bytes(target), version))]
    lines += [b"Host: gateway"] if version == b"HTTP/1.1" else []
    lines += [b"X-API-Key: " + key.encode()] if key else []
    lines += fields
    if body is not None:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body or b""])


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
