"""HTTP/1.1 on one connection, with limits (HTTP-2, HTTP-5)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

from minimal_gateway.errors import ApiError, bad_request, encode

BODY_BYTES = 1024 * 1024
HEADER_BYTES = 32 * 1024
HEADER_FIELDS = 100
URL_BYTES = 8 * 1024
HEADER_SECONDS = 10.0
BODY_SECONDS = 30.0
STALLED_SECONDS = 30.0
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64 * 1024 * 1024

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.([01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, list[str]]
    keep_alive: bool
    body: bytes = b""
    cors: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    def header(self, name: str) -> str | None:
        """The value of a header; None if it is missing."""
        values = self.headers.get(name)
        return ", ".join(values) if values else None


class Disconnected(Exception):
    """The client has disconnected, or reads nothing."""


class Connection:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        writer.transport.set_write_buffer_limits(high=64 * 1024)

    # -- requests ---------------------------------------------------------------------------------------------------------

    async def head(self) -> Request:
        """Read the head of the next request. Raises ApiError or Disconnected."""
        started = bool(self._buffer)
        try:
            async with asyncio.timeout(HEADER_SECONDS):
                while b"\r\n\r\n" not in self._buffer:
                    self._check_head(self._buffer)
                    self._buffer += await self._more()
                    started = True
        except TimeoutError:
            if not started:
                raise Disconnected from None
            raise ApiError("request_timeout", "the header block did not arrive in time") from None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self._check_head(head)
        return _parse(head.lstrip(b"\r\n").decode("latin-1"))

    def _check_head(self, head: bytes) -> None:
        line, _, fields = head.lstrip(b"\r\n").partition(b"\r\n")
        if len(line) > URL_BYTES + 32:
            raise ApiError("uri_too_long", f"the URL is longer than {URL_BYTES} bytes")
        if len(fields) > HEADER_BYTES or fields.count(b"\r\n") >= HEADER_FIELDS:
            raise ApiError("headers_too_large", f"more than {HEADER_BYTES} bytes or {HEADER_FIELDS} header fields")

    async def body(self, request: Request) -> bytes:
        """Read the body of the latest request. Raises ApiError or Disconnected."""
        lengths = request.headers.get("content-length", [])
        codings = request.headers.get("transfer-encoding", [])
        if len(lengths) + len(codings) > 1 or any(coding.lower() != "chunked" for coding in codings):
            raise bad_request("a body needs one Content-Length, or Transfer-Encoding: chunked")
        if lengths and not re.fullmatch(r"[0-9]{1,18}", lengths[0]):
            raise bad_request("Content-Length is not a number")
        if lengths and int(lengths[0]) > BODY_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._chunks() if codings else await self._take(int(lengths[0]) if lengths else 0)
        except TimeoutError:
            raise ApiError("request_timeout", "the body did not arrive in time") from None

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = re.fullmatch(rb"([0-9A-Fa-f]{1,8})(?:;.*)?", await self._line())
            if size is None:
                raise bad_request("a chunk of the body has no size")
            if len(body) + int(size[1], 16) > BODY_BYTES:
                raise _too_large()
            if int(size[1], 16) == 0:
                break
            body += await self._take(int(size[1], 16))
            if await self._line():
                raise bad_request("a chunk of the body is longer than it says")
        while await self._line():  # trailers are ignored
            pass
        return body

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > HEADER_BYTES:
                raise bad_request("a line of the body is too long")
            self._buffer += await self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def _take(self, size: int) -> bytes:
        parts = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        missing = size - len(parts[0])
        while missing:
            more = await self._more()
            parts.append(more[:missing])
            self._buffer = more[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    async def read(self, size: int) -> bytes:
        """Read this many bytes after an upgrade. Raises Disconnected."""
        return await self._take(size)

    async def _more(self) -> bytes:
        try:
            data = await self._reader.read(64 * 1024)
        except ConnectionError:
            raise Disconnected from None
        if not data:
            raise Disconnected
        return data

    async def wait_until_disconnected(self) -> None:
        """Wait until the client disconnects."""
        try:
            while True:
                await self._more()
        except Disconnected:
            return

    # -- responses --------------------------------------------------------------------------------------------------------

    async def respond(
        self, request: Request | None, status: int, value: object, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a complete response. `value` is its JSON body; None for no body."""
        body = b"" if value is None else encode(value)
        kind = {} if value is None else {"Content-Type": "application/json"}
        self.start(request, status, {**kind, "Content-Length": str(len(body)), **(headers or {})})
        if request is None or request.method != "HEAD":
            self.write(body)
        await self.drain()

    async def send_error(self, request: Request | None, error: ApiError, *, last: bool) -> None:
        closing = {"Connection": "close"} if last else {}
        await self.respond(request, error.status, error.body, {**error.headers, **closing})

    def start(self, request: Request | None, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of a response."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in {**(request.cors if request else {}), **headers}.items()]
        self.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))

    def write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        """Wait until most of what was written is sent. Raises Disconnected, also if the client reads nothing."""
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await self._writer.drain()
        except (ConnectionError, TimeoutError):
            self._writer.transport.abort()
            raise Disconnected from None

    async def close(self) -> None:
        """Close the connection, after a client that is still sending has read the response."""
        try:
            self._writer.write_eof()
            async with asyncio.timeout(_LINGER_SECONDS):
                received = 0
                while received < _LINGER_BYTES and (data := await self._reader.read(64 * 1024)):
                    received += len(data)
        except (OSError, TimeoutError):
            pass
        self.end()

    def end(self) -> None:
        """Close the connection once what was written is sent."""
        self._writer.close()


def _parse(head: str) -> Request:
    first, *lines = head.split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise bad_request("not an HTTP/1.1 request")
    if len(line[2]) > URL_BYTES:
        raise ApiError("uri_too_long", f"the URL is longer than {URL_BYTES} bytes")
    headers: dict[str, list[str]] = {}
    for text in lines:
        found = _FIELD.fullmatch(text)
        if found is None:
            raise bad_request("a header field is malformed")
        headers.setdefault(found[1].lower(), []).append(found[2])
    if len(headers.get("host", [])) != 1:
        raise bad_request("a request needs exactly one Host")
    asked = ", ".join(headers.get("connection", [])).lower()
    return Request(line[1], line[2], headers, keep_alive=line[3] == "1" and "close" not in asked)


def _too_large() -> ApiError:
    return ApiError("payload_too_large", f"the body is longer than {BODY_BYTES} bytes")
