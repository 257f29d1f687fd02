"""A cheap client on plain sockets. It verifies what it received after the measurement, so that it does not affect it."""

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

_TIMEOUT_SECONDS = 120.0
_READ_BYTES = 256 * 1024
_LAST_CHUNK = b"0\r\n\r\n"


def call(server: Server, method: str, path: str, body: object = None, *, accept: str | None = None) -> tuple[int, Any]:
    """Send one request on a new connection; return the status and the JSON body of the response."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=_TIMEOUT_SECONDS) as connection:
        connection.sendall(request(method, path, body, close=True, accept=accept))
        raw = b""
        while data := connection.recv(_READ_BYTES):
            raw += data
    head, _, content = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), json.loads(content or b"null")


def request(method: str, path: str, body: object = None, *, close: bool = False, accept: str | None = None) -> bytes:
    """Encode a request."""
    content = b"" if body is None else json.dumps(body).encode()
    described = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if content else ""
    ending = ("Connection: close\r\n" if close else "") + (f"Accept: {accept}\r\n" if accept else "")
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n{described}{ending}\r\n"
    return head.encode() + content


def new_session(server: Server, **settings: Any) -> str:
    """Create a session with the scripted model, or with these settings; return its id. The reference needs no creation."""
    session_id = uuid4().hex
    if server.name == "gateway":
        status, answer = call(
            server, "POST", "/v1/sessions", {"model": "scripted:x", "sessionId": session_id, **settings}
        )
        assert status == 201, answer
    return session_id


def script(text: list[str], delay_ms: int = 0, **more: Any) -> str:
    """A prompt that makes the scripted model send these chunks."""
    return "```script\n" + json.dumps({"replies": [{"text": text, "delayMs": delay_ms, **more}]}) + "\n```"


@dataclass(slots=True, eq=False)
class Stream:
    """One reader of a session's events, with everything it received."""

    connection: socket.socket
    chunks: list[bytes] = field(default_factory=list[bytes])
    ended: bool = False

    def receive(self) -> int:
        """Receive available bytes; return their number."""
        data = self.connection.recv(_READ_BYTES)
        self.chunks.append(data)
        if data.endswith(_LAST_CHUNK) or not data:
            self.ended = True
        return len(data)

    @property
    def body(self) -> bytes:
        """The response body, without chunked encoding and heartbeats."""
        raw = b"".join(self.chunks)
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
    """Open streams, one for each path."""

    def __init__(self, server: Server, paths: list[str]) -> None:
        self._poll = select.epoll()
        self.streams: list[Stream] = []
        self._by_number: dict[int, Stream] = {}
        self._open = len(paths)
        for path in paths:
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=_TIMEOUT_SECONDS)
            connection.sendall(request("GET", path))
            self._join(Stream(connection))
        for stream in self.streams:  # a stream whose headers have arrived misses no event
            while b"\r\n\r\n" not in b"".join(stream.chunks):
                stream.receive()
            assert stream.chunks[0].startswith(b"HTTP/1.1 200"), stream.chunks[0]
            stream.connection.setblocking(False)

    def _join(self, stream: Stream) -> None:
        self.streams.append(stream)
        self._by_number[stream.connection.fileno()] = stream
        self._poll.register(stream.connection.fileno(), select.EPOLLIN)

    def wait(self) -> None:
        """Return when a stream has data."""
        if not self._poll.poll(_TIMEOUT_SECONDS):
            raise TimeoutError("no stream has received data")

    def read(self, seconds: float, on_data: Callable[[Stream, int], None] | None = None) -> None:
        """Receive available data, waiting `seconds` at most; call `on_data` with each stream and its number of bytes."""
        for number, _ in self._poll.poll(seconds):
            stream = self._by_number[number]
            size = stream.receive()
            if on_data is not None:
                on_data(stream, size)
            if stream.ended:
                self._poll.unregister(number)
                self._open -= 1

    def read_to_the_end(self, on_data: Callable[[Stream, int], None] | None = None) -> None:
        """Receive until every stream has ended."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while self._open:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._open} streams have not ended")
            self.read(1.0, on_data)

    def close(self) -> None:
        """Close all connections."""
        self._poll.close()
        for stream in self.streams:
            stream.connection.close()


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    id: str
    name: str
    data: dict[str, Any]


def events(body: bytes) -> list[Event]:
    """Parse the events of a stream's body."""
    found: list[Event] = []
    for frame in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        found.append(Event(fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


def check_run(body: bytes, text: list[str]) -> int:
    """Assert that a body is one complete run with these deltas; return its number of events."""
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
    """Open a WebSocket on a session."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=_TIMEOUT_SECONDS)
    connection.sendall(_UPGRADE.format(session=session_id, key=KEY).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # byte by byte, so as not to consume the first frame
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return connection


def read_messages(sockets: list[socket.socket], last: bytes) -> list[bytes]:
    """Receive on all sockets until each has a message that contains `last`; return the bytes of each."""
    poll = select.epoll()
    received = {connection.fileno(): list[bytes]() for connection in sockets}
    by_number = {connection.fileno(): connection for connection in sockets}
    for number in received:
        poll.register(number, select.EPOLLIN)
    left = len(sockets)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while left:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} WebSockets did not receive everything")
        for number, _ in poll.poll(1.0):
            received[number].append(by_number[number].recv(_READ_BYTES))
            tail = b"".join(received[number][-2:])
            if last in tail and tail.endswith(b"}"):
                poll.unregister(number)
                left -= 1
    poll.close()
    return [b"".join(chunks) for chunks in received.values()]


def check_messages(raw: bytes, text: list[str]) -> int:
    """Assert that frames are one complete run with these deltas; return its number of events."""
    found: list[dict[str, Any]] = []
    at = 0
    while at < len(raw):
        size, skip = raw[at + 1], 2
        if size == 126:
            size, skip = int.from_bytes(raw[at + 2 : at + 4], "big"), 4
        elif size == 127:
            size, skip = int.from_bytes(raw[at + 2 : at + 10], "big"), 10
        assert raw[at] == 0x81, "an unfragmented text message"
        found.append(json.loads(raw[at + skip : at + skip + size]))
        at += skip + size
    assert [event["data"]["delta"] for event in found if event["event"] == "message_delta"] == text
    numbers = [int(event["id"].rpartition(".")[2]) for event in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return len(found)


class Callers:
    """Connections that repeat one request, each as soon as its response has arrived."""

    def __init__(self, server: Server, requests: list[bytes]) -> None:
        self._server = server
        self._requests = requests

    def call(self, times: int) -> list[tuple[int, bytes]]:
        """Send each request `times` times; return all responses as status and body."""
        answers: list[tuple[int, bytes]] = []
        poll = select.epoll()
        calls: dict[int, _Calls] = {}
        for content in self._requests:
            connection = socket.create_connection(("127.0.0.1", self._server.port), timeout=_TIMEOUT_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            calls[connection.fileno()] = _Calls(connection, content, times)
            poll.register(connection.fileno(), select.EPOLLIN)
            connection.sendall(content)
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while calls:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(calls)} connections got no response")
            for number, _ in poll.poll(1.0):
                if calls[number].receive(answers):
                    poll.unregister(number)
                    calls.pop(number).connection.close()
        poll.close()
        return answers


@dataclass(slots=True)
class _Calls:
    """One connection."""

    connection: socket.socket
    content: bytes
    left: int
    received: bytes = b""

    def receive(self, answers: list[tuple[int, bytes]]) -> bool:
        """Receive available bytes and repeat the request after a complete response; return whether it was the last."""
        data = self.connection.recv(_READ_BYTES)
        assert data, "the connection was closed"
        self.received += data
        head, gap, content = self.received.partition(b"\r\n\r\n")
        if not gap or len(content) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return False
        answers.append((int(head.split(b" ", 2)[1]), content))
        self.received = b""
        self.left -= 1
        if self.left:
            self.connection.sendall(self.content)
        return not self.left
