"""A WebSocket frame by frame, for clients that misbehave: it answers no ping, and reads only when asked to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.uri import parse_uri

from cmdc_conformance.findings import Blocked, NotExercised
from cmdc_conformance.wire.http import ApiClient
from cmdc_conformance.wire.raw_http import open_connection

_CHUNK = 64 * 1024


class RawWebSocket:
    """An open WebSocket. `close_code` is the server's, once its close frame was read."""

    def __init__(self, protocol: ClientProtocol, reader: asyncio.StreamReader) -> None:
        self._protocol = protocol
        self._reader = reader
        self.close_code: int | None = None

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield frames until the connection ends, cleanly or not."""
        try:
            while self.close_code is None and (chunk := await self._reader.read(_CHUNK)):
                self._protocol.receive_data(chunk)
                for event in self._protocol.events_received():
                    if isinstance(event, Frame):
                        if (closed := self._protocol.close_rcvd) is not None:
                            self.close_code = closed.code
                        yield event
        except OSError:
            return


@asynccontextmanager
async def raw_websocket(http: ApiClient, session: str, *, small_buffer: bool = False) -> AsyncGenerator[RawWebSocket]:
    """Open the WebSocket of a session without reading from it. Raises Blocked or NotExercised."""
    if urlsplit(http.url).scheme != "http":
        raise NotExercised("needs plain HTTP")
    path = f"/v1/sessions/{session}/ws"
    http.observer.evidence.note(f"→ GET {path} (upgrade)")
    async with open_connection(http, small_buffer=small_buffer) as (reader, writer):
        protocol = ClientProtocol(parse_uri(f"ws{http.url.removeprefix('http')}{path}"), max_size=None)
        request = protocol.connect()
        for name, value in http.credentials.items():
            request.headers[name] = value
        protocol.send_request(request)
        writer.write(b"".join(protocol.data_to_send()))
        try:
            async with asyncio.timeout(http.deadline):
                protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as failure:
            raise Blocked(f"GET {path} was not upgraded: {type(failure).__name__} {failure}") from None
        if protocol.handshake_exc is not None:
            raise Blocked(f"GET {path} was not upgraded: {protocol.handshake_exc}")
        protocol.events_received()  # the handshake response
        http.observer.evidence.note("← 101")
        yield RawWebSocket(protocol, reader)
