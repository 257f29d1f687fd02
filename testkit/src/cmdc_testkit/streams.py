"""Strict readers for tests: of event streams byte by byte, and of WebSockets message by message.

They share no code with the server: the format of frames and the members of events are specified here independently.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from cmdc_testkit.gateways import KEY

TERMINAL = frozenset({"agent_end", "agent_abort"})
HEARTBEAT = ": heartbeat"

_WHOLE = (int,)
_TEXT = (str,)
# The members of each event's data, and their types.
MEMBERS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "prompt_received": {"text": _TEXT},
    "agent_start": {},
    "thinking_start": {},
    "thinking_delta": {"delta": _TEXT},
    "message_start": {},
    "message_delta": {"delta": _TEXT},
    "tool_calls": {"count": _WHOLE},
    "approval_required": {
        "approvalId": _TEXT,
        "toolName": _TEXT,
        "args": (dict,),
        "hint": _TEXT,
        "requestedAt": _WHOLE,
        "callId": _TEXT,
        "digest": _TEXT,
        "expiresAt": (int, type(None)),
    },
    "approval_resolved": {"approvalId": _TEXT, "status": _TEXT},
    "tool_execution_start": {"toolName": _TEXT, "callId": _TEXT, "args": (dict,)},
    "ask_user": {"ref": _TEXT, "question": _TEXT, "options": (list, type(None))},
    "tool_execution_end": {"toolName": _TEXT, "callId": _TEXT, "status": _TEXT, "result": _TEXT},
    "error": {"reason": _TEXT},
    "agent_end": {
        "messageCount": _WHOLE,
        "lastMessage": (dict, type(None)),
        "tokenUsage": (dict,),
        "costUsd": (int, float),
    },
    "agent_abort": {"reason": _TEXT},
}

_CURSOR = re.compile(r"[0-9a-z]{1,32}\.[1-9][0-9]*", re.ASCII)


class NotStrict(Exception):
    """The server violated the protocol."""


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """A received event, whose members have been checked (EVT-5)."""

    id: str
    event: str
    data: dict[str, Any]

    def __post_init__(self) -> None:
        if not _CURSOR.fullmatch(self.id):
            raise NotStrict(f"{self.id!r} is not the cursor of an event")
        if self.event not in MEMBERS:
            raise NotStrict(f"unknown event {self.event!r}")
        expected = {**MEMBERS[self.event], "requestId": _TEXT}
        if set(self.data) != set(expected):
            raise NotStrict(f"{self.event} has the members {sorted(self.data)}")
        for name, kinds in expected.items():
            if type(self.data[name]) not in kinds:
                raise NotStrict(f"{self.event}.{name} is {self.data[name]!r}")
        if self.data.get("delta") == "":
            raise NotStrict(f"{self.event} with an empty delta")

    @property
    def seq(self) -> int:
        return int(self.id.rpartition(".")[2])

    @property
    def epoch(self) -> str:
        return self.id.rpartition(".")[0]

    @property
    def request_id(self) -> str:
        return self.data["requestId"]

    @property
    def terminal(self) -> bool:
        return self.event in TERMINAL


class StreamParser:
    """Parses an event stream from pieces of any size (SSE-2, SSE-3).

    Stricter than the standard: lines end with LF; a frame has exactly `id`, `event` and `data`, in this order; comments
    occur only between frames and are not followed by a blank line.
    """

    def __init__(self) -> None:
        self.heartbeats = 0
        self._rest = b""
        self._frame: list[str] = []

    @property
    def between_frames(self) -> bool:
        """Whether no frame is incomplete, so that the stream may end here."""
        return not self._rest and not self._frame

    def feed(self, piece: bytes) -> list[SeenEvent]:
        """Return the events completed by this piece. Raises NotStrict."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        parsed_lines = (self._take(line) for line in lines)
        return [event for event in parsed_lines if event is not None]

    def _take(self, raw: bytes) -> SeenEvent | None:
        line = raw.decode()
        if "\r" in line:
            raise NotStrict(f"CR in {line!r}")
        if line.startswith(":"):
            if self._frame or line != HEARTBEAT:
                raise NotStrict(f"the comment {line!r} after {self._frame}")
            self.heartbeats += 1
            return None
        if line:
            self._frame.append(line)
            return None
        frame, self._frame = self._frame, []
        return _event(frame)


def _event(frame: list[str]) -> SeenEvent:
    fields = [line.partition(": ") for line in frame]
    if [name for name, _, _ in fields] != ["id", "event", "data"]:
        raise NotStrict(f"a frame of {frame}")
    (_, _, cursor), (_, _, name), (_, _, data) = fields
    return SeenEvent(cursor, name, parsed(data))


def parsed(text: str | bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON object. Raises NotStrict."""
    value: object = json.loads(text)
    if not isinstance(value, dict):
        raise NotStrict(f"{text[:80]!r} is not a JSON object")
    return cast("dict[str, Any]", value)


@dataclass(slots=True)
class EventStream:
    """A raw connection to `GET …/events`, after its headers. `parser` has processed everything read so far."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    parser: StreamParser = field(default_factory=StreamParser)
    _waiting: list[SeenEvent] = field(default_factory=list[SeenEvent])

    async def piece(self) -> bytes:
        """The next chunk of the body; empty at the end of the stream."""
        size = int(await self.reader.readline(), 16)
        piece = await self.reader.readexactly(size)
        if await self.reader.readexactly(2) != b"\r\n":
            raise NotStrict("a chunk is longer than announced")
        return piece

    async def next(self) -> SeenEvent | None:
        """The next event; None if the stream ended after a complete frame."""
        while not self._waiting:
            piece = await self.piece()
            if not piece:
                if not self.parser.between_frames:
                    raise NotStrict("the stream ended within a frame")
                return None
            self._waiting += self.parser.feed(piece)
        return self._waiting.pop(0)

    async def until(self, name: str) -> list[SeenEvent]:
        """The events up to and including the next one of this name."""
        events: list[SeenEvent] = []
        while not events or events[-1].event != name:
            event = await self.next()
            if event is None:
                raise NotStrict(f"the stream ended without {name}: {names(events)}")
            events.append(event)
        return events

    async def rest(self) -> list[SeenEvent]:
        """All events until the server ends the stream."""
        events: list[SeenEvent] = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    async def heartbeat(self) -> None:
        """Wait for the next heartbeat."""
        before = self.parser.heartbeats
        while self.parser.heartbeats == before:
            self._waiting += self.parser.feed(await self.piece())

    async def body(self) -> dict[str, Any]:
        """The JSON body of a response that is not a stream."""
        return parsed(await self.reader.readexactly(int(self.headers["content-length"])))

    def leave(self) -> None:
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
    """Request a session's events on a new connection; yields once the response headers have arrived.

    `buffer` is the size of the read buffer here, `window` that of the socket's receive buffer, in bytes.
    """
    connecting = socket.socket()
    connecting.setblocking(False)
    if window is not None:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    await asyncio.get_running_loop().sock_connect(connecting, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connecting, limit=buffer)
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
    """The bytes of a request for a session's events."""
    fields = {"Host": "gateway", **({"X-API-Key": key} if key else {}), **(headers or {})}
    lines = [f"GET /v1/sessions/{session_id}/events{query} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


class Conversation:
    """An open WebSocket. Events that arrive before an acknowledgment are kept for `next` (WS-2, WS-4)."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.received: list[dict[str, Any]] = []
        self._waiting: list[SeenEvent] = []

    async def act(self, action: str, **members: Any) -> dict[str, Any]:
        """Send an action; return its acknowledgment."""
        return await self.send(json.dumps({"action": action, **members}))

    async def send(self, frame: str | bytes) -> dict[str, Any]:
        """Send a raw message; return its acknowledgment."""
        await self.socket.send(frame)
        return await self.acknowledgement()

    async def acknowledgement(self) -> dict[str, Any]:
        """The next message that is not an event."""
        while True:
            message = await self._message()
            if "event" not in message:
                return message
            self._waiting.append(_seen(message))

    async def next(self) -> SeenEvent:
        """The next event. Raises NotStrict for any other message."""
        if self._waiting:
            return self._waiting.pop(0)
        return _seen(await self._message())

    async def until(self, name: str) -> list[SeenEvent]:
        """The events up to and including the next one of this name."""
        events = [await self.next()]
        while events[-1].event != name:
            events.append(await self.next())
        return events

    async def closed(self) -> int:
        """Read until the server closes; return its close code."""
        with suppress(ConnectionClosed):
            while True:
                await self._message()
        assert self.socket.close_code is not None
        return self.socket.close_code

    async def _message(self) -> dict[str, Any]:
        raw = await self.socket.recv()
        if not isinstance(raw, str):
            raise NotStrict("a binary message")
        message = parsed(raw)
        self.received.append(message)
        return message


def _seen(message: Mapping[str, Any]) -> SeenEvent:
    if set(message) != {"event", "data", "id"}:
        raise NotStrict(f"a message with the members {sorted(message)}")
    return SeenEvent(message["id"], message["event"], message["data"])


@asynccontextmanager
async def conversation(
    port: int, session_id: str, query: str = "", *, key: str | None = KEY, **options: Any
) -> AsyncGenerator[Conversation]:
    """Open a WebSocket on a session; `options` are those of `websockets.connect`."""
    headers = {"X-API-Key": key} if key else {}
    address = f"ws://127.0.0.1:{port}/v1/sessions/{session_id}/ws{query}"
    plain = {"compression": None, "proxy": None, "max_size": None, "max_queue": None}
    options = {"additional_headers": headers, **plain, **options}
    async with connect(address, **options) as socket:
        yield Conversation(socket)


async def eventually(true: Callable[[], object], within: float = 10) -> None:
    """Wait until a condition of the gateway in this process is true."""
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)


def script(*replies: Mapping[str, Any]) -> str:
    """A prompt that makes the scripted model give these replies."""
    return f"```script\n{json.dumps({'replies': replies})}\n```"


def call(name: str, **args: Any) -> dict[str, Any]:
    """A tool call for a script's reply."""
    return {"name": name, "args": args}


def names(events: Iterable[SeenEvent]) -> list[str]:
    """The names of events."""
    return [event.event for event in events]


def text_of(events: Iterable[SeenEvent]) -> str:
    """The answer text in the events."""
    return "".join(event.data["delta"] for event in events if event.event == "message_delta")
