"""Strict readers for tests: of event streams byte by byte, and of WebSockets message by message.

They forgive nothing, and share nothing with the code they judge: what a frame looks like and which members an event has
is written down here once more, from §4 to §6 of the protocol.
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
# The members of each event's data, and the types they may have (§4).
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
    """The server sent what the protocol does not allow."""


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event as a reader got it, its members checked (§4, EVT-5)."""

    id: str
    event: str
    data: dict[str, Any]

    def __post_init__(self) -> None:
        if not _CURSOR.fullmatch(self.id):
            raise NotStrict(f"{self.id!r} is no cursor of an event")
        if self.event not in MEMBERS:
            raise NotStrict(f"there is no event {self.event!r}")
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
    """Takes the bytes of an event stream, in pieces of any size, and gives its events (SSE-2, SSE-3).

    Stricter than the standard: lines end with LF, a frame is `id`, `event`, `data` in this order and nothing else, and a
    comment stands between frames and is not followed by a blank line.
    """

    def __init__(self) -> None:
        self.heartbeats = 0
        self._rest = b""
        self._frame: list[str] = []

    @property
    def between_frames(self) -> bool:
        """Nothing is left over: the stream may end here."""
        return not self._rest and not self._frame

    def feed(self, piece: bytes) -> list[SeenEvent]:
        """The events that are complete now. Raises NotStrict."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        taken = (self._take(line) for line in lines)
        return [event for event in taken if event is not None]

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
    """A JSON object. Raises NotStrict."""
    value: object = json.loads(text)
    if not isinstance(value, dict):
        raise NotStrict(f"{text[:80]!r} is not a JSON object")
    return cast("dict[str, Any]", value)


@dataclass(slots=True)
class EventStream:
    """One raw connection to `GET …/events`, after its head. `parser` has seen all that was read."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    parser: StreamParser = field(default_factory=StreamParser)
    _waiting: list[SeenEvent] = field(default_factory=list[SeenEvent])

    async def piece(self) -> bytes:
        """The next chunk of the body as it was sent; empty at the stream's end."""
        size = int(await self.reader.readline(), 16)
        piece = await self.reader.readexactly(size)
        if await self.reader.readexactly(2) != b"\r\n":
            raise NotStrict("a chunk is longer than announced")
        return piece

    async def next(self) -> SeenEvent | None:
        """The next event; None when the stream has ended by itself, at the end of a frame."""
        while not self._waiting:
            piece = await self.piece()
            if not piece:
                if not self.parser.between_frames:
                    raise NotStrict("the stream ended within a frame")
                return None
            self._waiting += self.parser.feed(piece)
        return self._waiting.pop(0)

    async def until(self, name: str) -> list[SeenEvent]:
        """The events up to the next one of this name."""
        events: list[SeenEvent] = []
        while not events or events[-1].event != name:
            event = await self.next()
            if event is None:
                raise NotStrict(f"the stream ended without {name}: {names(events)}")
            events.append(event)
        return events

    async def rest(self) -> list[SeenEvent]:
        """Every event until the stream ends by itself."""
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
        """The JSON body of an answer that is no stream."""
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
    """Ask for a session's events on a connection of its own; returns once the head of the answer is there.

    `buffer` is what is read ahead here, `window` what the system takes before it is read.
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
        told = {name.lower(): value for name, _, value in fields}
        yield EventStream(int(head[0].split()[1]), told, reader, writer)
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
    """An open WebSocket. Events that arrive while an acknowledgement is awaited are kept for `next` (WS-2, WS-4)."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.received: list[dict[str, Any]] = []
        self._waiting: list[SeenEvent] = []

    async def act(self, action: str, **members: Any) -> dict[str, Any]:
        """Send an action; its acknowledgement."""
        return await self.send(json.dumps({"action": action, **members}))

    async def send(self, frame: str | bytes) -> dict[str, Any]:
        """Send a frame as it is; what answers it."""
        await self.socket.send(frame)
        return await self.acknowledgement()

    async def acknowledgement(self) -> dict[str, Any]:
        """The next message that is no event."""
        while True:
            message = await self._message()
            if "event" not in message:
                return message
            self._waiting.append(_seen(message))

    async def next(self) -> SeenEvent:
        """The next event. Raises NotStrict for a message that is none."""
        if self._waiting:
            return self._waiting.pop(0)
        return _seen(await self._message())

    async def until(self, name: str) -> list[SeenEvent]:
        """The events up to the next one of this name."""
        events = [await self.next()]
        while events[-1].event != name:
            events.append(await self.next())
        return events

    async def closed(self) -> int:
        """Read on until the server closes; its close code."""
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
    """Wait until something is true of the gateway in this process."""
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - it tells it no other way
            await asyncio.sleep(0.002)


def script(*replies: Mapping[str, Any]) -> str:
    """A prompt that tells the scripted model what to answer (§10)."""
    return f"```script\n{json.dumps({'replies': replies})}\n```"


def call(name: str, **args: Any) -> dict[str, Any]:
    """A tool call for a script's reply."""
    return {"name": name, "args": args}


def names(events: Iterable[SeenEvent]) -> list[str]:
    """The events' names."""
    return [event.event for event in events]


def text_of(events: Iterable[SeenEvent]) -> str:
    """The answer text that the events carry."""
    return "".join(event.data["delta"] for event in events if event.event == "message_delta")
