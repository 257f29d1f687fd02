"""uvicorn's HTTP protocol with the limits of HTTP-5 and the error bodies of HTTP-2.

uvicorn limits neither the time nor the size of a request's head, answers malformed requests in plain text, and loses
responses to clients that are still sending. `LimitedHttpProtocol` adds what is missing there and nothing that a route
could do: what a request means, and who may send it, is decided by the application.

States. `_phase` follows the parser:

    idle ──first byte──▶ head ──headers complete──▶ body ──message complete──▶ idle
                          └──WebSocket upgrade──▶ upgraded (the connection belongs to `LimitedWebSocketProtocol`)

Requests may be pipelined: `_pending_responses` counts those that were parsed and whose response is not complete. A
response to an earlier request is never overtaken or cut off by an error about a later one.

Ownership. One instance owns one connection. uvicorn owns the parser, the request cycles and the keep-alive timer; this
class owns the byte counters, one timer, and `_connection`, the `LingeringTransport` through which everything is written
and closed. The application gets a `TransportHandle`, never the transport itself.

Invariants:

- At most one timer runs: for the head, for the body, or for the rest of a body that is no longer needed. None runs while
  the application works on a request that has arrived completely, or while uvicorn's keep-alive timer runs.
- A byte of the head counts once, and before it is stored: the URL, the number of fields and their size are checked in the
  parser's callbacks. Chunk extensions and trailers, of which the parser keeps a part, are counted as `_overhead`.
- Once `_error` is set nothing more is read, and the error is the last response of the connection.

On failure. A callback raises, the parser stops, uvicorn calls `send_400_response`, and `_reject` answers with the error
that was raised or a general 400. If a body breaks off after its response has begun, the connection closes: only a missing
end tells the client. If the application fails or returns without a response, `_with_response` sends `internal`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NoReturn

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from cmdc_gateway.errors import BadRequest, GatewayError, HeadersTooLarge, Internal, RequestTimeout, UriTooLong
from cmdc_gateway.web.errors import STATUS, error_body
from cmdc_gateway.web.transport import raw_errors
from cmdc_gateway.web.transport.handle import TransportHandle, extensions
from cmdc_gateway.web.transport.limits import HttpLimits
from cmdc_gateway.web.transport.lingering import LingeringTransport
from cmdc_gateway.web.transport.request_head import check_head

# uvicorn warns about each malformed request without naming the client, so a hostile client could fill the disk. A filter
# survives a later configuration of logging; a level does not.
_LOGGER = logging.getLogger("uvicorn.error.http")
_LOGGER.addFilter(lambda record: record.levelno >= logging.ERROR)
# Bytes of a request line besides its URL: method, version, spaces, and an empty line before it.
_REQUEST_LINE_SPARE = 64
_SEND_BUFFER_BYTES = 128 * 1024


class _Pipeline(list[tuple[RequestResponseCycle, ASGI3Application]]):
    """Pipelined requests. Nearly always empty, and an empty deque takes 760 bytes per connection."""

    __slots__ = ()

    def appendleft(self, request: tuple[RequestResponseCycle, ASGI3Application]) -> None:
        self.insert(0, request)


def http_protocol(limits: HttpLimits) -> type[LimitedHttpProtocol]:
    """Return the class for `uvicorn.Config(http=…)`."""
    return type("HttpProtocol", (LimitedHttpProtocol,), {"limits": limits})


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection. `http_protocol` binds `limits`."""

    limits: ClassVar[HttpLimits]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _LOGGER
        self.pipeline = _Pipeline()  # type: ignore[assignment]
        self.access_log = False  # It would contain the whole URL, and with it `?api_key=` (WS-1).
        self._phase: Literal["idle", "head", "body", "upgraded"] = "idle"
        self._pending_responses = 0
        self._parse_error: GatewayError | None = None
        self._error: GatewayError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._messages_begun = 0
        self._head_bytes = 0
        self._field_count = 0
        self._field_bytes = 0
        self._body_bytes = 0
        self._overhead = 0

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._connection = LingeringTransport(transport, self.limits.linger_seconds)
        _tune(transport)
        self._handle = TransportHandle(
            abort=transport.abort,
            reset=self._connection.reset,
            buffered_bytes=transport.get_write_buffer_size,
            is_closing=transport.is_closing,
            pusher=self._pusher,
        )
        super().connection_made(self._connection)
        self._start_timer(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to keep the connection: a client may close its half after its last request.

        A client that is gone looks the same. So a response that has not begun gets a short time, and a stream ends.
        """
        if self._pending_responses == 0 or self._phase != "idle" or self.cycle.response_started:
            return False
        self.cycle.keep_alive = False
        self._cancel_timer()
        self._start_timer(self.limits.linger_seconds)
        return True

    def shutdown(self) -> None:
        if self._connection.lingering:
            self._connection.abort()
        else:
            super().shutdown()

    def handle_websocket_upgrade(self) -> None:
        self._phase = "upgraded"
        self._cancel_timer()
        super().handle_websocket_upgrade()

    # -- received data -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        phase_before, body_bytes_before, self._messages_begun = self._phase, self._body_bytes, 0
        super().data_received(data)
        if self._error is not None:
            return
        if self._phase == "head":
            # If the data also contains earlier requests, the head's share is unknown, and at most the length of the data.
            if self._messages_begun == 0 or (self._messages_begun == 1 and phase_before == "idle"):
                self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes + len(self.url) + _REQUEST_LINE_SPARE:
                self._reject(self._head_too_long())
            elif self._timer is None:
                self._start_timer(self.limits.header_seconds)
        elif self._phase == "body":
            self._count_overhead(len(data), has_body=self._body_bytes != body_bytes_before)
        elif self._phase == "idle" and self._timer is None and self._pending_responses == 0:
            # An empty line, or the rest of a body that was answered early: uvicorn has stopped its keep-alive timer.
            self._start_timer(self.limits.header_seconds)

    def _count_overhead(self, size: int, *, has_body: bool) -> None:
        """Limit data that is neither head nor body: chunk extensions and trailers, of which the parser keeps a part."""
        self._overhead = 0 if has_body or self._messages_begun else self._overhead + size
        if self._overhead > self.limits.header_bytes:
            self._reject(self._head_too_long())
        elif self._timer is None:
            self._start_timer(self.limits.body_seconds)

    # -- callbacks of the parser: an error raised here stops it, and `send_400_response` is called ------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = extensions(self._handle)
        self._phase = "head"
        self._messages_begun += 1
        self._head_bytes = self._field_count = self._field_bytes = self._body_bytes = self._overhead = 0
        if self.cycle is not None:  # pyright: ignore[reportUnnecessaryComparison]
            self._cancel_timer()  # The first request's time began with the connection; that of a later one begins now.

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._fail(UriTooLong(self.limits.url_bytes))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_count += 1
        self._field_bytes += len(name) + len(value) + len(b": \r\n")
        if self._field_count > self.limits.header_fields:
            self._fail(HeadersTooLarge(f"the request has more than {self.limits.header_fields} header fields"))
        if self._field_bytes > self.limits.header_bytes:
            self._fail(self._head_too_long())
        if self._phase == "head":  # Trailers are counted and dropped: they must not appear among the headers.
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        asks_for_upgrade = self.parser.should_upgrade()
        websocket = asks_for_upgrade and self._should_upgrade()
        length = self._checked_length(self.parser.get_http_version(), asks_for_upgrade, websocket=websocket)
        if b"#" in self.url:
            # A proxy that filters by URL may read it differently (RFC 9112, 3.2).
            self._fail(BadRequest("the URL must not contain a fragment (#…)"))
        if websocket:
            self.url = self._origin_form()
        super().on_headers_complete()
        self._cancel_timer()
        self._phase = "body"
        self._connection.peer_is_sending = True
        if websocket:
            return
        self._pending_responses += 1
        if asks_for_upgrade or length > self.limits.body_bytes:
            # After an upgrade that is ignored, the parser drops the data that follows.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_bytes:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self._connection.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._cancel_timer()
        self._phase = "idle"
        self._connection.peer_is_sending = False

    def _checked_length(self, version: str, asks_for_upgrade: bool, *, websocket: bool) -> int:
        try:
            length = check_head(
                self.headers, version, "websocket" if websocket else "other" if asks_for_upgrade else "none"
            )
        except BadRequest as error:
            self._fail(error)
        if version == "1.0":
            # RFC 9110, 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that
            # expectation." https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
            self.expect_100_continue = False
        if websocket and self._pending_responses:
            self._fail(BadRequest("a WebSocket handshake cannot be pipelined; wait for the previous response"))
        return length

    def _should_upgrade(self) -> bool:
        # RFC 9110, 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
        return self.parser is not None and self.parser.get_http_version() != "1.0" and super()._should_upgrade()

    def _origin_form(self) -> bytes:
        """Return the URL without scheme and host, which websockets would take for a part of the path."""
        parsed = httptools.parse_url(self.url)
        if not parsed.path:
            self._fail(BadRequest("the URL has no path"))
        return parsed.path + (b"?" + parsed.query if parsed.query else b"")

    def _unsupported_upgrade_warning(self) -> None:
        """Such a request is answered as if it had not asked for an upgrade (RFC 9110, 7.8); no warning is needed."""

    # -- the application -----------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, _with_response(cycle, app))

    def _pusher(self) -> Callable[[bytes], bool]:
        """Return a `Push` for the current response.

        The ASGI way is a coroutine for each message, which costs as much as the system call that sends it.
        """
        cycle, flow, connection = self._active, self.flow, self._connection

        def push(chunk: bytes) -> bool:
            if flow.write_paused or cycle.disconnected or not cycle.chunked_encoding or connection.is_closing():
                return False
            connection.write(chunk)
            return True

        return push

    # -- errors --------------------------------------------------------------------------------------------------------

    def _head_too_long(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"the header block is longer than {self.limits.header_bytes} bytes")

    def _fail(self, error: GatewayError) -> NoReturn:
        """Stop the parser. The error is kept because httptools raises one of its own."""
        self._parse_error = error
        raise error

    def send_400_response(self, msg: str) -> None:
        del msg  # uvicorn's text is always the same
        self._reject(self._parse_error or BadRequest("the request is not valid HTTP/1.1"))

    def _reject(self, error: GatewayError) -> None:
        """Send the error after the responses to earlier requests, then close."""
        self._error = error
        self._cancel_timer()
        self.flow.pause_reading()
        if self._phase == "body" and not self._cancel_request():
            self._connection.close()
        elif self._pending_responses == 0:
            self._send_error(error)

    def _cancel_request(self) -> bool:
        """Disconnect the application from the request whose body is broken. Returns False if its response has begun."""
        if self.cycle.response_started:
            return False
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            del self.pipeline[0]
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._pending_responses -= 1
        return True

    def _send_error(self, error: GatewayError) -> None:
        self.transport.write(raw_errors.response(error, self.server_state.default_headers))
        self._connection.peer_is_sending = True
        self._connection.close()

    def on_response_complete(self) -> None:
        self._pending_responses -= 1
        super().on_response_complete()
        if self._error is not None:
            if self._pending_responses == 0:
                self._send_error(self._error)
        elif self._phase == "body" and self.cycle.response_complete and not self._connection.is_closing():
            # The rest of this body is not needed any more, so it gets less time.
            self._cancel_timer()
            self._start_timer(self.limits.linger_seconds)

    # -- the timer -----------------------------------------------------------------------------------------------------

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self._phase == "head":
            self._reject(RequestTimeout("header block"))
        elif self._phase == "body" and not self.cycle.response_complete:
            # `read_body` raises RequestTimeout; whatever the response is, it is the last one of this connection.
            self.cycle.keep_alive = False
        else:
            self._connection.close()


def _with_response(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """Wrap the application: if it fails or sends no response, `internal` is sent; uvicorn's own error is plain text."""

    async def wrapped(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        failure: Exception | None = None
        try:
            await app(scope, receive, send)
        except Exception as error:
            if cycle.response_started or cycle.disconnected:
                raise
            failure = error
        if cycle.response_started or cycle.disconnected:
            return
        incident = secrets.token_hex(8)
        _LOGGER.error("no response was sent: incident %s", incident, exc_info=failure)
        error = Internal(incident)
        content = error_body(error)
        headers = raw_errors.headers(content)
        await send({"type": "http.response.start", "status": STATUS[error.code], "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})

    return wrapped


def _tune(transport: asyncio.Transport) -> None:
    """Send events without delay, and buffer little for a client that does not read."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        # Nagle's algorithm would delay an event by the 40 ms for which a client delays its ACK. asyncio disables it only
        # for sockets created with an explicit IPPROTO_TCP.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # By default the system buffers several MB. Progress of a slow client becomes visible when a third of the buffer is
        # free; a client without progress is disconnected (SSE-10).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
