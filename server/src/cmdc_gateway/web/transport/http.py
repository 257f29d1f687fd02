"""uvicorn's HTTP protocol, bounded (HTTP-5), and with errors as everywhere else (HTTP-2).

It deliberately adds nothing that a route could do: it counts and times what comes before a request is handed on, and
refuses what must not be handed on at all.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from cmdc_gateway.errors import BadRequest, GatewayError, HeadersTooLarge, Internal, RequestTimeout, UriTooLong
from cmdc_gateway.web.errors import STATUS, error_body
from cmdc_gateway.web.transport import raw_errors
from cmdc_gateway.web.transport.lingering import LingeringTransport

if TYPE_CHECKING:
    from cmdc_gateway.web.transport.limits import HttpLimits

# uvicorn warns of each request that is malformed, without saying whose it was: a hostile client could fill the disk with
# that. A filter stays when logging is configured again; a level does not.
_LOGGER = logging.getLogger("uvicorn.error.http")
_LOGGER.addFilter(lambda record: record.levelno >= logging.ERROR)
# What a request line has beside its URL: method, version, spaces, and an empty line before it.
_REQUEST_LINE_SPARE = 64
_SYSTEM_BUFFER_BYTES = 128 * 1024


class _Pipeline(list[tuple[RequestResponseCycle, ASGI3Application]]):
    """Requests that wait for the answers before theirs. Hardly ever are there any, and an empty deque has 760 bytes."""

    __slots__ = ()

    def appendleft(self, request: tuple[RequestResponseCycle, ASGI3Application]) -> None:
        self.insert(0, request)


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection. Subclasses bind `limits`; see `http_protocol` in `web/limits.py`."""

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
        self.access_log = False  # It has the whole URL, and with it `?api_key=` (WS-1).
        self._phase: Literal["idle", "head", "body", "upgraded"] = "idle"
        self._unanswered = 0
        self._reason: GatewayError | None = None
        self._refusal: GatewayError | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._begun = 0
        self._head_bytes = 0
        self._fields = 0
        self._field_bytes = 0
        self._body_bytes = 0
        self._overhead = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._closing = LingeringTransport(transport, self.limits.linger_seconds)
        _tune(transport)
        self._handle: dict[object, object] = {
            "abort": transport.abort,
            "reset": self._closing.reset,
            "buffered": transport.get_write_buffer_size,
            "closing": transport.is_closing,
            "pusher": self._pusher,
        }
        super().connection_made(self._closing)
        self._arm(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to go on answering: a client may end its half of the connection with its last request.

        One that has gone altogether looks the same, so what has not begun to be answered has a short time to be, and a
        stream ends.
        """
        if self._unanswered == 0 or self._phase != "idle" or self.cycle.response_started:
            return False
        self.cycle.keep_alive = False
        self._disarm()
        self._arm(self.limits.linger_seconds)
        return True

    def shutdown(self) -> None:
        if self._closing.lingering:
            self._closing.abort()
        else:
            super().shutdown()

    def handle_websocket_upgrade(self) -> None:
        self._phase = "upgraded"
        self._disarm()
        super().handle_websocket_upgrade()

    # What arrives

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        before, body_bytes, self._begun = self._phase, self._body_bytes, 0
        super().data_received(data)
        if self._refusal is not None:
            return
        if self._phase == "head":
            # Where earlier requests came in the same piece, the head's share is unknown, and bounded by the piece.
            if self._begun == 0 or (self._begun == 1 and before == "idle"):
                self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes + len(self.url) + _REQUEST_LINE_SPARE:
                self._refuse(self._too_many_bytes())
            elif self._deadline is None:
                self._arm(self.limits.header_seconds)
        elif self._phase == "body":
            self._count_overhead(len(data), took_body=self._body_bytes != body_bytes)
        elif self._phase == "idle" and self._deadline is None and self._unanswered == 0:
            # An empty line, or the rest of a body whose answer was early: uvicorn has stopped its keep-alive timer.
            self._arm(self.limits.header_seconds)

    def _count_overhead(self, size: int, *, took_body: bool) -> None:
        """Bound what is neither head nor body: extensions of chunks, and trailers, of which the parser keeps a part."""
        self._overhead = 0 if took_body or self._begun else self._overhead + size
        if self._overhead > self.limits.header_bytes:
            self._refuse(self._too_many_bytes())
        elif self._deadline is None:
            self._arm(self.limits.body_seconds)

    # What the parser finds. An error raised here makes it stop, and `send_400_response` is called.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"cmdc.transport": self._handle}
        self._phase = "head"
        self._begun += 1
        self._head_bytes = self._fields = self._field_bytes = self._body_bytes = self._overhead = 0
        if self.cycle is not None:  # pyright: ignore[reportUnnecessaryComparison]
            self._disarm()  # The first request's time began with the connection, that of the others begins now.

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._stop(UriTooLong(self.limits.url_bytes))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._field_bytes += len(name) + len(value) + len(b": \r\n")
        if self._fields > self.limits.header_fields:
            self._stop(HeadersTooLarge(f"the request has more than {self.limits.header_fields} header fields"))
        if self._field_bytes > self.limits.header_bytes:
            self._stop(self._too_many_bytes())
        if self._phase == "head":  # Trailers are counted and dropped: they must not appear among the headers.
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        upgrade = self.parser.should_upgrade()
        length = self._checked_length(self.parser.get_http_version(), upgrade=upgrade)
        if b"#" in self.url:
            # Whoever stands before this server and judges URLs may read it otherwise (RFC 9112, 3.2).
            self._stop(BadRequest("a URL is sent without its fragment (#…)"))
        if upgrade and self._should_upgrade():
            self.url = self._origin_form()
        super().on_headers_complete()
        self._disarm()
        self._phase = "body"
        self._closing.peer_is_sending = True
        if upgrade and self._should_upgrade():
            return
        self._unanswered += 1
        if upgrade or length > self.limits.body_bytes:
            # After another upgrade than ours the parser drops what follows.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_bytes:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self._closing.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._disarm()
        self._phase = "idle"
        self._closing.peer_is_sending = False

    def _checked_length(self, version: str, *, upgrade: bool) -> int:
        """Give the announced length of the body, after a look at what llhttp lets through and RFC 9112 does not."""
        hosts, length, codings = 0, 0, list[bytes]()
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                codings.append(value.lower())
        if version not in {"1.0", "1.1"}:
            self._stop(BadRequest(f"HTTP/{version} is not spoken here; send HTTP/1.1"))
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._stop(BadRequest("a request needs exactly one Host header"))
        if codings and (codings != [b"chunked"] or version == "1.0"):
            self._stop(BadRequest("the only Transfer-Encoding is chunked, once, with HTTP/1.1"))
        if version == "1.0":
            # RFC 9110, 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that
            # expectation." https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
            self.expect_100_continue = False
        if upgrade:
            if not self._should_upgrade() and (length or codings):
                self._stop(BadRequest("a request with a body cannot ask for an Upgrade"))
            if self._should_upgrade() and self._unanswered:
                self._stop(BadRequest("a WebSocket handshake cannot be sent before the last answer has arrived"))
        return length

    def _should_upgrade(self) -> bool:
        # RFC 9110, 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
        return self.parser is not None and self.parser.get_http_version() != "1.0" and super()._should_upgrade()

    def _origin_form(self) -> bytes:
        """The URL without the scheme and host that it may begin with: websockets takes them for its path."""
        parsed = httptools.parse_url(self.url)
        if not parsed.path:
            self._stop(BadRequest("the URL has no path"))
        return parsed.path + (b"?" + parsed.query if parsed.query else b"")

    def _unsupported_upgrade_warning(self) -> None:
        """Such a request is answered as if it had not asked (RFC 9110, 7.8), and needs no warning."""

    # What the application leaves unsaid

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, _never_silent(cycle, app))

    def _pusher(self) -> Callable[[bytes], bool]:
        """A way to write chunks of the answer that is under way, without waiting: it returns False where it would have to.

        What ASGI has for this is a coroutine for each message, which costs as much as the system's call to send it.
        """
        cycle, flow, closing = self._active, self.flow, self._closing

        def push(chunk: bytes) -> bool:
            if flow.write_paused or cycle.disconnected or not cycle.chunked_encoding or closing.is_closing():
                return False
            closing.write(chunk)
            return True

        return push

    # Refusing

    def _too_many_bytes(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"the header block is longer than {self.limits.header_bytes} bytes")

    def _stop(self, error: GatewayError) -> None:
        self._reason = error
        raise error

    def send_400_response(self, msg: str) -> None:
        del msg  # uvicorn has one for all
        self._refuse(self._reason or BadRequest("this is not a valid HTTP/1.1 request"))

    def _refuse(self, error: GatewayError) -> None:
        """Answer with an error and close, after the answers to earlier requests."""
        self._refusal = error
        self._disarm()
        self.flow.pause_reading()
        if self._phase == "body" and not self._withdraw():
            self._closing.close()
        elif self._unanswered == 0:
            self._answer_refusal(error)

    def _withdraw(self) -> bool:
        """Take the request whose body is broken from the application; False if the answer to it has begun."""
        if self.cycle.response_started:
            return False
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            del self.pipeline[0]
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._unanswered -= 1
        return True

    def _answer_refusal(self, error: GatewayError) -> None:
        self.transport.write(raw_errors.response(error, self.server_state.default_headers))
        self._closing.peer_is_sending = True
        self._closing.close()

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        if self._refusal is not None:
            if self._unanswered == 0:
                self._answer_refusal(self._refusal)
        elif self._phase == "body" and self.cycle.response_complete and not self._closing.is_closing():
            # Nobody waits for the rest of the body any more, so it has less time.
            self._disarm()
            self._arm(self.limits.linger_seconds)

    # Time

    def _arm(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._deadline_passed)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _deadline_passed(self) -> None:
        self._deadline = None
        if self._phase == "head":
            self._refuse(RequestTimeout("header block"))
        elif self._phase == "body" and not self.cycle.response_complete:
            # `read_body` says so; whatever is answered, it is the last answer of this connection.
            self.cycle.keep_alive = False
        else:
            self._closing.close()


def _never_silent(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """The application, with an answer in JSON where it fails or forgets to answer; uvicorn's own is plain text."""

    async def answered(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
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
        _LOGGER.error("a request was left without an answer: incident %s", incident, exc_info=failure)
        error = Internal(incident)
        content = error_body(error)
        headers = raw_errors.headers(content)
        await send({"type": "http.response.start", "status": STATUS[error.code], "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})

    return answered


def _tune(transport: asyncio.Transport) -> None:
    """Send events at once, and keep little for a client that does not read."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        # Nagle's algorithm would hold an event back for the 40 ms in which a client delays its ACK. asyncio turns it off
        # itself only for sockets that were made with IPPROTO_TCP spelled out.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The system would buffer some MB. It asks for more when a third of that is free again: a slow client's progress
        # is seen in these steps, and one that makes none is closed (SSE-10).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SYSTEM_BUFFER_BYTES)
