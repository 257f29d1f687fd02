"""One HTTP/1.1 connection of the callback server: h11 parses, asyncio transports, and this module enforces the limits.

A body needs a Content-Length; chunked bodies are rejected, because no caller of tools sends them. Folded header lines are
rejected too, although h11 accepts them, because proxies disagree about what they mean.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import h11

from cmdc_client.callbacks.response_cache import Response

MAX_HEAD: Final = 32 * 1024
"""The longest request head, in bytes."""

MAX_FIELDS: Final = 100
"""The highest number of headers."""

_CHUNK: Final = 64 * 1024
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_FOLDED_LINE: Final = re.compile(rb"\n[ \t]")


class RequestRejected(Exception):
    """A request that is answered with an error, after which the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The limits, in seconds, for waiting for a request, for receiving its head and its body, and for responding."""

    idle: float = 30.0
    head: float = 10.0
    body: float = 30.0
    response: float = 30.0


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body. Header names are in lower case."""

    method: str
    headers: dict[str, str]

    @property
    def content_length(self) -> int:
        return int(self.headers.get("content-length", "0"))


class HttpConnection:
    """A connection on which requests are read and answered in turn.

    `read_head`, `read_body` and `send` are called in this order for each request, as long as `reusable` is true.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeouts: Timeouts) -> None:
        self._reader = reader
        self._writer = writer
        self._timeouts = timeouts
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._answering_head = False

    @property
    def reusable(self) -> bool:
        """Whether another request may be read, after the response to the last one was sent."""
        return self._protocol.our_state is h11.IDLE

    async def read_head(self) -> RequestHead | None:
        """Return the head of the next request; None if there is none. Raises RequestRejected."""
        if not self._protocol.trailing_data[0]:
            try:
                async with asyncio.timeout(self._timeouts.idle):
                    if not await self._receive():
                        return None
            except TimeoutError:
                return None
        try:
            async with asyncio.timeout(self._timeouts.head):
                request = await self._next_request()
        except TimeoutError:
            raise RequestRejected(408, "the headers took too long to arrive") from None
        if request is None:
            return None
        self._answering_head = request.method == b"HEAD"
        return _checked_head(request)

    async def read_body(self, head: RequestHead, limit: int) -> bytes:
        """Return the body of the request. Raises RequestRejected, or ConnectionError if the connection is lost."""
        if head.content_length > limit:
            raise RequestRejected(413, f"the body is longer than {limit} bytes")
        if self._protocol.they_are_waiting_for_100_continue:
            self._writer.write(
                self._protocol.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            )
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeouts.body):
                while not isinstance(event := self._next_event(), h11.EndOfMessage):
                    if isinstance(event, h11.Data):
                        body += event.data
                    elif not await self._receive():
                        raise ConnectionResetError("the connection was closed within a request")
        except TimeoutError:
            raise RequestRejected(408, "the body took too long to arrive") from None
        return bytes(body)

    async def send(self, response: Response, *, close: bool) -> None:
        """Send a response, and say whether the connection is closed after it. Raises OSError or TimeoutError."""
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(response.body))),
            *([("Allow", "POST")] if response.status == 405 else []),
            *([("Connection", "close")] if close else []),
        ]
        reason = HTTPStatus(response.status).phrase.encode()
        events = [
            h11.Response(status_code=response.status, headers=headers, reason=reason),
            *([] if self._answering_head else [h11.Data(data=response.body)]),
            h11.EndOfMessage(),
        ]
        self._writer.write(b"".join(self._protocol.send(event) or b"" for event in events))
        async with asyncio.timeout(self._timeouts.response):
            await self._writer.drain()
        if self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()

    async def discard_input(self, limit: int) -> None:
        """Read and discard up to `limit` bytes, until the client closes its side.

        If the connection were closed while the client still sends, it would be reset, and the response could be lost.
        """
        self._writer.write_eof()
        for _ in range(limit // _CHUNK):
            if not await self._reader.read(_CHUNK):
                return

    async def _receive(self) -> bool:
        """Pass what has arrived to the parser. Returns False if the client has closed its side."""
        data = await self._reader.read(_CHUNK)
        if data:
            self._protocol.receive_data(data)
        return bool(data)

    async def _next_request(self) -> h11.Request | None:
        while True:
            head, *_ = _END_OF_HEAD.split(self._protocol.trailing_data[0], maxsplit=1)
            if len(head) > MAX_HEAD:
                raise RequestRejected(431, f"the headers are longer than {MAX_HEAD} bytes")
            if _FOLDED_LINE.search(head):
                raise RequestRejected(400, "malformed request: folded header lines are not supported")
            event = self._next_event()
            if isinstance(event, h11.Request):
                return event
            if not await self._receive():
                return None

    def _next_event(self) -> object:
        try:
            return self._protocol.next_event()
        except h11.RemoteProtocolError as error:
            raise RequestRejected(400, f"malformed request: {error}") from None


def _checked_head(request: h11.Request) -> RequestHead:
    if request.http_version not in (b"1.0", b"1.1"):
        raise RequestRejected(400, "malformed request: only HTTP/1.1 is supported")
    if len(request.headers) > MAX_FIELDS:
        raise RequestRejected(431, f"the request has more than {MAX_FIELDS} headers")
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "transfer-encoding" in headers:
        raise RequestRejected(411, "the request must have a Content-Length instead of a Transfer-Encoding")
    return RequestHead(request.method.decode("ascii"), headers)
