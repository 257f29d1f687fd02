"""A server that sends whatever bytes a test specifies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from cmdc_client import AsyncClient, AsyncSession, Client, Session

Step = bytes | float | Literal["cut", "wait"]
"""A step of a response: send bytes, sleep for seconds, `cut` (reset the connection), or `wait` until the client closes it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was received."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(slots=True)
class FaultyServer:
    """What the server has received. `left` is set when a client has closed a connection in the step `wait`."""

    url: str = ""
    requests: list[Request] = field(default_factory=list[Request])
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def received(self, method: str, end: str) -> list[Request]:
        """Return the requests with this method whose path ends with `end`."""
        return [each for each in self.requests if each.method == method and each.path.endswith(end)]


@asynccontextmanager
async def faulty_server(respond: Callable[[Request], Iterable[Step]]) -> AsyncGenerator[FaultyServer]:
    """Serve on loopback; `respond` returns the steps for each request, one request per connection."""
    server = FaultyServer()
    open_connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_connections.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await _request(reader)
            server.requests.append(request)
            for step in respond(request):
                match step:
                    case "cut":
                        writer.transport.abort()
                    case "wait":
                        await reader.read()
                        server.left.set()
                    case bytes():
                        writer.write(step)
                        await writer.drain()
                    case _:
                        await asyncio.sleep(step)
            writer.close()
            await writer.wait_closed()
        open_connections.discard(writer)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server
        while open_connections:
            for connection in open_connections:
                connection.transport.abort()
            await asyncio.sleep(0.001)


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.splitlines()
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return Request(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def http(status: int, body: bytes | dict[str, Any], kind: str = "application/json", **headers: str) -> bytes:
    """A complete response. Write `Retry_After` for the header `Retry-After`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    return f"HTTP/1.1 {status} X\r\n{''.join(lines)}\r\n".encode() + content


def error(status: int, code: str, **members: Any) -> bytes:
    """An error response of the protocol."""
    return http(status, {"error": code, "message": "no", **members})


def stream(*parts: bytes | str, complete: bool = True) -> bytes:
    """A response with an event stream, in chunks; without the last chunk if it is not `complete`."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    encoded = [part.encode() if isinstance(part, str) else part for part in (": hi\n", *parts)]
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in encoded if part]
    return head + b"".join(chunks) + (b"0\r\n\r\n" if complete else b"")


def frame(name: str, seq: int | None = None, epoch: str = "e", **data: Any) -> str:
    """An event as a frame; without a seq it has no id, as in the base protocol."""
    members = data if seq is None else {"requestId": "r1", **data}
    cursor = f"id: {epoch}.{seq}\n" if seq is not None else ""
    return f"{cursor}event: {name}\ndata: {json.dumps(members)}\n\n"


def run_of(*words: str, ids: bool = True, first: int = 1) -> list[str]:
    """The frames of a run whose answer has these words."""
    usage = {"promptTokens": 1, "completionTokens": 1, "totalTokens": 2}
    last = {"role": "assistant", "content": "".join(words)}
    extended = {"costUsd": 0.5} if ids else {}
    events: Sequence[tuple[str, dict[str, Any]]] = [
        ("prompt_received", {"text": "hi"}),
        ("agent_start", {}),
        ("message_start", {}),
        *[("message_delta", {"delta": word}) for word in words],
        ("agent_end", {"messageCount": 2, "lastMessage": last, "tokenUsage": usage, **extended}),
    ]
    return [frame(name, first + at if ids else None, **data) for at, (name, data) in enumerate(events)]


def accepted(cursor: str | None = "e.0", *, request_id: str = "r1", queued: bool = False) -> bytes:
    """The response to a prompt; without a cursor, as in the base protocol."""
    members = {"requestId": request_id, "sessionId": "s", "queued": queued}
    return http(202, members if cursor is None else {**members, "cursor": cursor})


def capabilities(*extended: str) -> bytes:
    """The capabilities of a server with these extended features."""
    limits = {"bodyBytes": 1, "headerBytes": 1, "queuedPrompts": 1, "wsMessageBytes": 1, "replayEvents": None}
    limits |= {"heartbeatMs": 1, "graceMs": 1, "rpm": 0}
    body: dict[str, Any] = {
        "protocol": "0.1",
        "extended": extended,
        "models": [],
        "tools": [],
        "plugins": [],
        "durability": "memory",
    }
    return http(200, {**body, "limits": limits})


def handle(client: AsyncClient, session_id: str = "s") -> AsyncSession:
    """A session object for which no request has been sent."""
    return AsyncSession(client.sessions._transport, session_id)  # pyright: ignore[reportPrivateUsage]


def sync_handle(client: Client) -> Session:
    """A session object for which no request has been sent."""
    return Session(client.sessions._transport, "s")  # pyright: ignore[reportPrivateUsage]


def open_connections_of(session: AsyncSession | Session) -> int:
    """Return how many connections the client of this session has open."""
    internals: Any = session
    return len(internals._transport._http._transport._pool.connections)
