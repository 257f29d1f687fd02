"""A WebSocket frame by frame, for what no well-behaved client does: it answers no ping, and reads when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.uri import parse_uri

from cmdc_conformance.findings import Blocked, NotExercised
from cmdc_conformance.raw import connected
from cmdc_conformance.wire import Http

_PIECE = 64 * 1024


class Bare:
    """An open connection. `close_code` is what the server closed it with, once that has been read."""

    def __init__(self, protocol: ClientProtocol, reader: asyncio.StreamReader) -> None:
        self._protocol = protocol
        self._reader = reader
        self.close_code: int | None = None

    async def frames(self) -> AsyncIterator[Frame]:
        """What comes, to the end of the connection, however that is."""
        try:
            while self.close_code is None and (piece := await self._reader.read(_PIECE)):
                self._protocol.receive_data(piece)
                for event in self._protocol.events_received():
                    if isinstance(event, Frame):
                        if (closed := self._protocol.close_rcvd) is not None:
                            self.close_code = closed.code
                        yield event
        except OSError:
            return


@asynccontextmanager
async def bare(http: Http, session: str, *, narrow: bool = False) -> AsyncGenerator[Bare]:
    """Open the WebSocket of a session, with the key of `http`, and read no further. Raises Blocked, NotExercised."""
    if urlsplit(http.url).scheme != "http":
        raise NotExercised("needs plain HTTP")
    path = f"/v1/sessions/{session}/ws"
    http.watch.evidence.note(f"→ GET {path} (upgrade)")
    async with connected(http, narrow=narrow) as (reader, writer):
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
        protocol.events_received()  # the answer
        http.watch.evidence.note("← 101")
        yield Bare(protocol, reader)
