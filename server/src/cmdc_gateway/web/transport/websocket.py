"""uvicorn's WebSocket protocol with limits: no behavior of a peer makes memory grow without bound (WS-5, WS-6).

It also keeps the URL, which may contain `?api_key=`, out of the log (WS-1), and answers a malformed handshake with the
error body of HTTP-2.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import secrets
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from cmdc_gateway.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    HeadersTooLarge,
    Internal,
    UpgradeRequired,
    UriTooLong,
)
from cmdc_gateway.web.errors import STATUS, error_body
from cmdc_gateway.web.transport import raw_errors
from cmdc_gateway.web.transport.handle import TransportHandle, extensions
from cmdc_gateway.web.transport.limits import HttpLimits
from cmdc_gateway.web.transport.lingering import LingeringTransport

# uvicorn logs the URL of every handshake at level info, and websockets every frame at level debug. A filter survives a
# later configuration of logging; a level does not.
_LOGGER = logging.getLogger("uvicorn.error.websocket")
_LOGGER.setLevel(logging.WARNING)
_LOGGER.addFilter(lambda record: record.levelno >= logging.WARNING)


def ws_protocol(limits: HttpLimits) -> type[LimitedWebSocketProtocol]:
    """Return the class for `uvicorn.Config(ws=…)`. It needs `http_protocol`, which checks the head of the handshake."""
    return type("WebSocketProtocol", (LimitedWebSocketProtocol,), {"limits": limits})


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection. `ws_protocol` binds `limits`."""

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
        self.conn = _Connection(self.limits)
        self._fragments = bytearray()
        self._paused_for_pongs = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, LingeringTransport), "LimitedHttpProtocol hands its own over"
        self._connection = transport
        transport.peer_is_sending = False
        super().connection_made(transport)

    def shutdown(self) -> None:
        if self._connection.lingering:
            self._connection.abort()
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self.handshake_complete and self.initial_response is None:
            super().data_received(data)
        elif self.handshake_initiated:
            # RFC 6455, 4.1: a client sends nothing before the handshake is done.
            self._connection.abort()
        else:
            super().data_received(data)
            if not self.handshake_initiated:
                self._reject_handshake()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            handle = TransportHandle(
                abort=self._connection.abort,
                reset=self._connection.reset,
                buffered_bytes=self._connection.get_write_buffer_size,
                is_closing=self._connection.is_closing,
                pusher=lambda: self._push,
            )
            self.scope["extensions"] = {**self.scope.get("extensions", {}), **extensions(handle)}

    def _push(self, frames: bytes) -> bool:
        """Write whole frames without waiting (`Push`)."""
        if not self.writable.is_set() or self.close_sent or self.conn.state is not State.OPEN:
            return False
        self.transport.write(frames)
        return True

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            del self.request, self.response  # free them and their headers: they are not read again
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # else uvicorn takes a rejection for a missing response and logs an error

    def _reject_handshake(self) -> None:
        """Answer a request that websockets could not parse; uvicorn would leave it unanswered and the connection open."""
        self.handshake_complete = self.close_sent = True
        rejection = b"".join(self.conn.data_to_send())
        error = BadRequest("the WebSocket handshake is invalid: it must have no body and an ASCII URL")
        self.transport.write(rejection or raw_errors.response(error, self.default_headers))
        self._connection.peer_is_sending = True
        self._connection.close()

    # -- messages ------------------------------------------------------------------------------------------------------

    def handle_cont(self, event: Frame) -> None:
        # Joined on arrival: a million empty fragments would be a million objects.
        self._fragments += event.data
        if event.fin:
            self.frames.append(bytes(self._fragments))
            self._fragments.clear()
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        data = b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        event: ASGIReceiveEvent
        if self.curr_msg_data_type == "text":
            try:
                event = {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                self.conn.fail(CloseCode.INVALID_DATA, "a text frame must be UTF-8")
                self.handle_parser_exception()
                return
        else:
            event = {"type": "websocket.receive", "bytes": data}
        self.queue.put_nowait(event)
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def handle_parser_exception(self) -> None:
        # The peer may still be sending its message: close so that it can read the reason.
        self._connection.peer_is_sending = True
        super().handle_parser_exception()

    # -- pings: a peer that sends them without reading gets no more pongs than fit into the buffer -----------------------

    def handle_ping(self) -> None:
        super().handle_ping()
        if not self.writable.is_set() and not self._paused_for_pongs:
            self._paused_for_pongs = True
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._paused_for_pongs:
            self._paused_for_pongs = False
            if not self.read_paused:
                self.transport.resume_reading()


class _Connection(ServerProtocol):
    """The WebSocket connection without I/O. It rejects handshakes with a JSON body."""

    def __init__(self, limits: HttpLimits) -> None:
        super().__init__(max_size=limits.ws_message_bytes, logger=_LOGGER)
        self._limits = limits

    def reject(self, status: StatusLike, text: str) -> Response:
        del text  # It quotes header values, which may be credentials.
        error = self._error(HTTPStatus(status))
        answer, content = HTTPStatus(STATUS[error.code]), error_body(error)
        headers = Headers([(name.decode(), value.decode()) for name, value in raw_errors.headers(content)])
        headers["Date"] = email.utils.formatdate(usegmt=True)
        return Response(answer.value, answer.phrase, headers, content)

    def _error(self, status: HTTPStatus) -> GatewayError:
        match status:
            case HTTPStatus.FORBIDDEN:
                return Forbidden("the WebSocket was rejected")
            case HTTPStatus.REQUEST_URI_TOO_LONG:
                return UriTooLong(self._limits.url_bytes)
            case HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                return HeadersTooLarge("a header of the WebSocket handshake is too long")
            case HTTPStatus.UPGRADE_REQUIRED:
                return UpgradeRequired()
            case HTTPStatus.INTERNAL_SERVER_ERROR:
                incident = secrets.token_hex(8)
                _LOGGER.error("WebSocket handshake failed: incident %s", incident)
                return Internal(incident)
            case _:
                return BadRequest("the WebSocket handshake is invalid (RFC 6455, 4.1)")
