"""A client that costs little, so that it is not what is measured: plain sockets, looked at after the clock has stopped."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from benchmarks.processes import KEY, Server

_PATIENCE_SECONDS = 120.0
_READ_BYTES = 256 * 1024
_LAST_CHUNK = b"0\r\n\r\n"


def call(server: Server, method: str, path: str, body: object = None, *, accept: str | None = None) -> tuple[int, Any]:
    """One request on a connection of its own: the status, and the JSON of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE_SECONDS) as connection:
        connection.sendall(request(method, path, body, close=True, accept=accept))
        raw = b""
        while piece := connection.recv(_READ_BYTES):
            raw += piece
    head, _, content = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), json.loads(content or b"null")


def request(method: str, path: str, body: object = None, *, close: bool = False, accept: str | None = None) -> bytes:
    """The bytes of a request."""
    content = b"" if body is None else json.dumps(body).encode()
    described = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if content else ""
    ending = ("Connection: close\r\n" if close else "") + (f"Accept: {accept}\r\n" if accept else "")
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n{described}{ending}\r\n"
    return head.encode() + content


def new_session(server: Server, **settings: Any) -> str:
    """A session, for the scripted model unless the settings say otherwise. The reference needs none to be made."""
    session_id = uuid4().hex
    if server.name == "gateway":
        status, answer = call(
            server, "POST", "/v1/sessions", {"model": "scripted:x", "sessionId": session_id, **settings}
        )
        assert status == 201, answer
    return session_id


def script(text: list[str], delay_ms: int = 0, **more: Any) -> str:
    """A prompt that makes the scripted model say these pieces."""
    return "```script\n" + json.dumps({"replies": [{"text": text, "delayMs": delay_ms, **more}]}) + "\n```"


@dataclass(slots=True, eq=False)
class Stream:
    """One reader of a session's events, and all that it was sent."""

    connection: socket.socket
    pieces: list[bytes] = field(default_factory=list[bytes])
    ended: bool = False

    def take(self) -> int:
        """Read what has come; return how many bytes that was."""
        piece = self.connection.recv(_READ_BYTES)
        self.pieces.append(piece)
        if piece.endswith(_LAST_CHUNK) or not piece:
            self.ended = True
        return len(piece)

    @property
    def body(self) -> bytes:
        """What came, without HTTP."""
        raw = b"".join(self.pieces)
        at = raw.index(b"\r\n\r\n") + 4
        parts: list[bytes] = []
        while True:
            end = raw.index(b"\r\n", at)
            size = int(raw[at:end], 16)
            if size == 0:
                return b"".join(parts).replace(b": heartbeat\n", b"")
            parts.append(raw[end + 2 : end + 2 + size])
            at = end + size + 4


class Crowd:
    """Readers of one session, or of many: one stream for each path, all open."""

    def __init__(self, server: Server, paths: list[str]) -> None:
        self._poll = select.epoll()
        self.streams: list[Stream] = []
        self._by_number: dict[int, Stream] = {}
        self._open = len(paths)
        for path in paths:
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE_SECONDS)
            connection.sendall(request("GET", path))
            self._join(Stream(connection))
        for stream in self.streams:  # one that has its headers misses nothing
            while b"\r\n\r\n" not in b"".join(stream.pieces):
                stream.take()
            assert stream.pieces[0].startswith(b"HTTP/1.1 200"), stream.pieces[0]
            stream.connection.setblocking(False)

    def _join(self, stream: Stream) -> None:
        self.streams.append(stream)
        self._by_number[stream.connection.fileno()] = stream
        self._poll.register(stream.connection.fileno(), select.EPOLLIN)

    def wait(self) -> None:
        """Return when something has come."""
        if not self._poll.poll(_PATIENCE_SECONDS):
            raise TimeoutError("nothing comes")

    def read(self, seconds: float, came: Callable[[Stream, int], None] | None = None) -> None:
        """Read what has come; wait for it so long at most. `came` hears of every piece and its size."""
        for number, _ in self._poll.poll(seconds):
            stream = self._by_number[number]
            size = stream.take()
            if came is not None:
                came(stream, size)
            if stream.ended:
                self._poll.unregister(number)
                self._open -= 1

    def read_to_the_end(self, came: Callable[[Stream, int], None] | None = None) -> None:
        """Return when every stream has ended."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._open:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._open} streams have not ended")
            self.read(1.0, came)

    def close(self) -> None:
        """Leave."""
        self._poll.close()
        for stream in self.streams:
            stream.connection.close()


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a stream had it."""

    id: str
    name: str
    data: dict[str, Any]


def events(body: bytes) -> list[Event]:
    """The events of a stream's body."""
    found: list[Event] = []
    for frame in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        found.append(Event(fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


def check_run(body: bytes, text: list[str]) -> int:
    """See that a body is one whole run that says these pieces, each as its own event; return how many events it has."""
    listed = events(body)
    names = [event.name for event in listed]
    assert names[0] == "prompt_received", names[:3]
    assert names[-1] == "agent_end", listed[-3:]
    assert [event.data["delta"] for event in listed if event.name == "message_delta"] == text
    assert listed[-1].data["lastMessage"]["content"] == "".join(text)
    numbers = [int(event.id.rpartition(".")[2]) for event in listed if event.id]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    return len(listed)


_UPGRADE = (
    "GET /v1/sessions/{session}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def open_socket(server: Server, session_id: str) -> socket.socket:
    """A WebSocket on a session."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE_SECONDS)
    connection.sendall(_UPGRADE.format(session=session_id, key=KEY).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # one byte at a time: what follows is a frame
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return connection


def read_messages(sockets: list[socket.socket], last: bytes) -> list[bytes]:
    """What each was sent, up to the message that has this in it."""
    poll = select.epoll()
    received = {connection.fileno(): list[bytes]() for connection in sockets}
    by_number = {connection.fileno(): connection for connection in sockets}
    for number in received:
        poll.register(number, select.EPOLLIN)
    left = len(sockets)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while left:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} WebSockets have not been sent everything")
        for number, _ in poll.poll(1.0):
            received[number].append(by_number[number].recv(_READ_BYTES))
            tail = b"".join(received[number][-2:])
            if last in tail and tail.endswith(b"}"):
                poll.unregister(number)
                left -= 1
    poll.close()
    return [b"".join(pieces) for pieces in received.values()]


def check_messages(raw: bytes, text: list[str]) -> int:
    """See that frames are one whole run that says these pieces; return how many events it has."""
    found: list[dict[str, Any]] = []
    at = 0
    while at < len(raw):
        size, skip = raw[at + 1], 2
        if size == 126:
            size, skip = int.from_bytes(raw[at + 2 : at + 4], "big"), 4
        elif size == 127:
            size, skip = int.from_bytes(raw[at + 2 : at + 10], "big"), 10
        assert raw[at] == 0x81, "a whole text message"
        found.append(json.loads(raw[at + skip : at + skip + size]))
        at += skip + size
    assert [event["data"]["delta"] for event in found if event["event"] == "message_delta"] == text
    numbers = [int(event["id"].rpartition(".")[2]) for event in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return len(found)


class Callers:
    """Connections that send one request over and over, each as soon as its answer has come."""

    def __init__(self, server: Server, requests: list[bytes]) -> None:
        self._server = server
        self._requests = requests

    def call(self, times: int) -> list[tuple[int, bytes]]:
        """Have each request answered so many times; all answers, as status and body."""
        answers: list[tuple[int, bytes]] = []
        poll = select.epoll()
        calls: dict[int, _Calls] = {}
        for content in self._requests:
            connection = socket.create_connection(("127.0.0.1", self._server.port), timeout=_PATIENCE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            calls[connection.fileno()] = _Calls(connection, content, times)
            poll.register(connection.fileno(), select.EPOLLIN)
            connection.sendall(content)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while calls:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(calls)} connections wait for an answer")
            for number, _ in poll.poll(1.0):
                if calls[number].take(answers):
                    poll.unregister(number)
                    calls.pop(number).connection.close()
        poll.close()
        return answers


@dataclass(slots=True)
class _Calls:
    """One connection of them."""

    connection: socket.socket
    content: bytes
    left: int
    received: bytes = b""

    def take(self, answers: list[tuple[int, bytes]]) -> bool:
        """Read what has come, and ask again if that was an answer; True after the last."""
        piece = self.connection.recv(_READ_BYTES)
        assert piece, "the connection was closed"
        self.received += piece
        head, gap, content = self.received.partition(b"\r\n\r\n")
        if not gap or len(content) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return False
        answers.append((int(head.split(b" ", 2)[1]), content))
        self.received = b""
        self.left -= 1
        if self.left:
            self.connection.sendall(self.content)
        return not self.left
