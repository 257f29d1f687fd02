"""Clients that read a session's events: one raw connection to the event stream, and one WebSocket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from cmdc_conformance.wire.event import names
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from cmdc_testkit.events import EventParser, ProtocolViolation, ReceivedEvent, json_object, websocket_event
from cmdc_testkit.gateways import KEY


@dataclass(slots=True)
class EventStream:
    """One connection to `GET …/events` whose response head has been read. `parser` has parsed everything read so far."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    parser: EventParser = field(default_factory=EventParser)
    _unread: list[ReceivedEvent] = field(default_factory=list[ReceivedEvent])

    async def chunk(self) -> bytes:
        """Read the next chunk of the body as it was sent; empty at the end of the stream."""
        size = int(await self.reader.readline(), 16)
        chunk = await self.reader.readexactly(size)
        if await self.reader.readexactly(2) != b"\r\n":
            raise ProtocolViolation("a chunk is longer than announced")
        return chunk

    async def next(self) -> ReceivedEvent | None:
        """Read the next event; None if the server has ended the stream."""
        while not self._unread:
            chunk = await self.chunk()
            if not chunk:
                if not self.parser.between_frames:
                    raise ProtocolViolation("the stream ended within a frame")
                return None
            self._unread += self.parser.feed(chunk)
        return self._unread.pop(0)

    async def until(self, name: str) -> list[ReceivedEvent]:
        """Read events up to and including the next one of this name."""
        events: list[ReceivedEvent] = []
        while not events or events[-1].name != name:
            event = await self.next()
            if event is None:
                raise ProtocolViolation(f"the stream ended without {name}: {names(events)}")
            events.append(event)
        return events

    async def rest(self) -> list[ReceivedEvent]:
        """Read events until the server ends the stream."""
        events: list[ReceivedEvent] = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    async def heartbeat(self) -> None:
        """Wait for the next heartbeat."""
        before = self.parser.heartbeats
        while self.parser.heartbeats == before:
            self._unread += self.parser.feed(await self.chunk())

    async def body(self) -> dict[str, Any]:
        """Read the JSON body of a response that is not a stream."""
        return json_object(await self.reader.readexactly(int(self.headers["content-length"])))

    def abort(self) -> None:
        """Drop the connection."""
        self.writer.transport.abort()


@asynccontextmanager
async def event_stream(
    port: int,
    session_id: str,
    query: str = "",
    *,
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
    buffer: int = 2**16,
    window: int | None = None,
) -> AsyncGenerator[EventStream]:
    """Request a session's events on a new connection and read the response head.

    `buffer` is the number of bytes that are read ahead, `window` the size of the kernel's receive buffer.
    """
    connection = socket.socket()
    connection.setblocking(False)
    if window is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=buffer)
    try:
        writer.write(events_request(session_id, query, key=key, headers=headers))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = (line.partition(": ") for line in head[1:] if line)
        received = {name.lower(): value for name, _, value in fields}
        yield EventStream(int(head[0].split()[1]), received, reader, writer)
    finally:
        writer.transport.abort()


def events_request(
    session_id: str, query: str = "", *, key: str | None = KEY, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return the bytes of a request for a session's events."""
    fields = {"Host": "gateway", **({"X-API-Key": key} if key else {}), **(headers or {})}
    lines = [f"GET /v1/sessions/{session_id}/events{query} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


class WebSocketClient:
    """An open WebSocket. Events that arrive before an acknowledgement are kept for `next` (WS-2, WS-4)."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.received: list[dict[str, Any]] = []
        self._unread: list[ReceivedEvent] = []

    async def act(self, action: str, **members: Any) -> dict[str, Any]:
        """Send an action and return its acknowledgement."""
        return await self.send(json.dumps({"action": action, **members}))

    async def send(self, frame: str | bytes) -> dict[str, Any]:
        """Send a frame unchanged and return its acknowledgement."""
        await self.socket.send(frame)
        return await self.acknowledgement()

    async def acknowledgement(self) -> dict[str, Any]:
        """Receive the next message that is not an event."""
        while True:
            message = await self._message()
            if "event" not in message:
                return message
            self._unread.append(websocket_event(message))

    async def next(self) -> ReceivedEvent:
        """Receive the next event. Raises ProtocolViolation for any other message."""
        if self._unread:
            return self._unread.pop(0)
        return websocket_event(await self._message())

    async def until(self, name: str) -> list[ReceivedEvent]:
        """Read events up to and including the next one of this name."""
        events = [await self.next()]
        while events[-1].name != name:
            events.append(await self.next())
        return events

    async def closed(self) -> int:
        """Receive until the server closes the connection; return the close code."""
        with suppress(ConnectionClosed):
            while True:
                await self._message()
        assert self.socket.close_code is not None
        return self.socket.close_code

    async def _message(self) -> dict[str, Any]:
        raw = await self.socket.recv()
        if not isinstance(raw, str):
            raise ProtocolViolation("a binary message")
        message = json_object(raw)
        self.received.append(message)
        return message


@asynccontextmanager
async def open_websocket(
    port: int, session_id: str, query: str = "", *, key: str | None = KEY, **options: Any
) -> AsyncGenerator[WebSocketClient]:
    """Open a session's WebSocket; `options` are those of `websockets.connect`."""
    headers = {"X-API-Key": key} if key else {}
    address = f"ws://127.0.0.1:{port}/v1/sessions/{session_id}/ws{query}"
    plain = {"compression": None, "proxy": None, "max_size": None, "max_queue": None}
    options = {"additional_headers": headers, **plain, **options}
    async with connect(address, **options) as socket:
        yield WebSocketClient(socket)


async def wait_until(true: Callable[[], object], within: float = 10) -> None:
    """Wait until a condition holds for a gateway in this process; raise TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - the gateway has no event for it
            await asyncio.sleep(0.002)
