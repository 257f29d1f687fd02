"""uvicorn's WebSocket protocol, bounded: nothing a peer does or leaves undone grows without end (WS-5, WS-6).

It also keeps the URL, which may hold `?api_key=`, out of the log (WS-1), and answers a bad handshake as HTTP-2 wants it.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

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
from cmdc_gateway.web.transport.lingering import LingeringTransport

if TYPE_CHECKING:
    from cmdc_gateway.web.transport.limits import HttpLimits

# uvicorn logs the URL of every handshake as information, and websockets every frame for debugging. A filter stays when
# logging is configured again; a level does not.
_LOGGER = logging.getLogger("uvicorn.error.websocket")
_LOGGER.setLevel(logging.WARNING)
_LOGGER.addFilter(lambda record: record.levelno >= logging.WARNING)


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection. Subclasses bind `limits`; see `ws_protocol` in `web/limits.py`."""

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
        self._rest = bytearray()
        self._pongs_wait = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, LingeringTransport), "http_protocol makes it"
        self._closing = transport
        transport.peer_is_sending = False
        super().connection_made(transport)

    def shutdown(self) -> None:
        if self._closing.lingering:
            self._closing.abort()
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self.handshake_complete and self.initial_response is None:
            super().data_received(data)
        elif self.handshake_initiated:
            # RFC 6455, 4.1: a client sends nothing before the handshake is done.
            self._closing.abort()
        else:
            super().data_received(data)
            if not self.handshake_initiated:
                self._refuse_handshake()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope["extensions"] = {
                **self.scope.get("extensions", {}),
                "cmdc.transport": {
                    "abort": self._closing.abort,
                    "reset": self._closing.reset,
                    "buffered": self._closing.get_write_buffer_size,
                    "push": self._push,
                },
            }

    def _push(self, frames: bytes) -> bool:
        """Write whole frames without waiting; return False, and write nothing, where it would have to wait."""
        if not self.writable.is_set() or self.close_sent or self.conn.state is not State.OPEN:
            return False
        self.transport.write(frames)
        return True

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            del self.request, self.response  # read no more, and all their headers with them
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # else uvicorn takes the refusal for no answer, and logs an error each time

    def _refuse_handshake(self) -> None:
        """Say what uvicorn would leave unsaid, with the connection open: websockets could not read the request."""
        self.handshake_complete = self.close_sent = True
        refused = b"".join(self.conn.data_to_send())
        error = BadRequest("this is not a valid WebSocket handshake: it has no body, and only ASCII in its URL")
        self.transport.write(refused or raw_errors.response(error, self.default_headers))
        self._closing.peer_is_sending = True
        self._closing.close()

    # Messages

    def handle_cont(self, event: Frame) -> None:
        # Joined as they come: a million fragments of nothing would be a million objects.
        self._rest += event.data
        if event.fin:
            self.frames.append(bytes(self._rest))
            self._rest.clear()
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
        # The peer may be in the middle of its message: close so that it can read why.
        self._closing.peer_is_sending = True
        super().handle_parser_exception()

    # Pings: a peer that sends them and never reads gets no more pongs than fit.

    def handle_ping(self) -> None:
        super().handle_ping()
        if not self.writable.is_set() and not self._pongs_wait:
            self._pongs_wait = True
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pongs_wait:
            self._pongs_wait = False
            if not self.read_paused:
                self.transport.resume_reading()


class _Connection(ServerProtocol):
    """The peer's frames; what it refuses it refuses in JSON."""

    def __init__(self, limits: HttpLimits) -> None:
        super().__init__(max_size=limits.ws_message_bytes, logger=_LOGGER)
        self._limits = limits

    def reject(self, status: StatusLike, text: str) -> Response:
        del text  # It quotes header values, and those may be credentials.
        error = self._error(HTTPStatus(status))
        answered, content = HTTPStatus(STATUS[error.code]), error_body(error)
        headers = Headers([(name.decode(), value.decode()) for name, value in raw_errors.headers(content)])
        headers["Date"] = email.utils.formatdate(usegmt=True)
        return Response(answered.value, answered.phrase, headers, content)

    def _error(self, status: HTTPStatus) -> GatewayError:
        match status:
            case HTTPStatus.FORBIDDEN:
                return Forbidden("this WebSocket was refused")
            case HTTPStatus.REQUEST_URI_TOO_LONG:
                return UriTooLong(self._limits.url_bytes)
            case HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                return HeadersTooLarge("a header of this WebSocket handshake is too long")
            case HTTPStatus.UPGRADE_REQUIRED:
                return UpgradeRequired()
            case HTTPStatus.INTERNAL_SERVER_ERROR:
                incident = secrets.token_hex(8)
                _LOGGER.error("a WebSocket handshake failed: incident %s", incident)
                return Internal(incident)
            case _:
                return BadRequest("this is not a valid WebSocket handshake (RFC 6455, 4.1)")
