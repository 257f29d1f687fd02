"""A server that answers whatever a test makes up, down to the byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from cmdc_client import AsyncClient, AsyncSession, Client, Session

Part = bytes | float | Literal["cut", "wait"]
"""What is done next: bytes are sent, a number of seconds waited; `cut` resets the line, `wait` waits for the client."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(slots=True)
class Wayward:
    """What the server has seen. `left` is set when a client has closed a line that was to `wait`."""

    url: str = ""
    requests: list[Request] = field(default_factory=list[Request])
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def asked(self, method: str, end: str) -> list[Request]:
        """The requests of this method to a path that ends so."""
        return [each for each in self.requests if each.method == method and each.path.endswith(end)]


@asynccontextmanager
async def wayward(answer: Callable[[Request], Iterable[Part]]) -> AsyncGenerator[Wayward]:
    """A server on loopback; each connection carries one request."""
    seen = Wayward()
    lines: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await _request(reader)
            seen.requests.append(request)
            for part in answer(request):
                match part:
                    case "cut":
                        writer.transport.abort()
                    case "wait":
                        await reader.read()
                        seen.left.set()
                    case bytes():
                        writer.write(part)
                        await writer.drain()
                    case _:
                        await asyncio.sleep(part)
            writer.close()
            await writer.wait_closed()
        lines.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield seen
        while lines:
            for line in lines:
                line.transport.abort()
            await asyncio.sleep(0.001)


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.splitlines()
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return Request(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def http(status: int, body: bytes | dict[str, Any], kind: str = "application/json", **headers: str) -> bytes:
    """An answer, whole. `Retry_After` stands for `Retry-After`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    return f"HTTP/1.1 {status} X\r\n{''.join(lines)}\r\n".encode() + content


def refusal(status: int, code: str, **members: Any) -> bytes:
    """An error answer of the protocol."""
    return http(status, {"error": code, "message": "no", **members})


def stream(*pieces: bytes | str, whole: bool = True) -> bytes:
    """An event stream in chunks; one that is not whole just stops."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    encoded = [piece.encode() if isinstance(piece, str) else piece for piece in (": hi\n", *pieces)]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in encoded if piece]
    return head + b"".join(chunks) + (b"0\r\n\r\n" if whole else b"")


def frame(name: str, seq: int | None = None, epoch: str = "e", **data: Any) -> str:
    """An event as SSE; without a seq it has no id, as in the base protocol."""
    members = data if seq is None else {"requestId": "r1", **data}
    cursor = f"id: {epoch}.{seq}\n" if seq is not None else ""
    return f"{cursor}event: {name}\ndata: {json.dumps(members)}\n\n"


def run_of(*words: str, ids: bool = True, first: int = 1) -> list[str]:
    """The frames of a run that says these words."""
    usage = {"promptTokens": 1, "completionTokens": 1, "totalTokens": 2}
    last = {"role": "assistant", "content": "".join(words)}
    extended = {"costUsd": 0.5} if ids else {}
    parts: Sequence[tuple[str, dict[str, Any]]] = [
        ("prompt_received", {"text": "hi"}),
        ("agent_start", {}),
        ("message_start", {}),
        *[("message_delta", {"delta": word}) for word in words],
        ("agent_end", {"messageCount": 2, "lastMessage": last, "tokenUsage": usage, **extended}),
    ]
    return [frame(name, first + at if ids else None, **data) for at, (name, data) in enumerate(parts)]


def accepted(cursor: str | None = "e.0", *, request_id: str = "r1", queued: bool = False) -> bytes:
    """The answer to a prompt; without a cursor, as in the base protocol."""
    members = {"requestId": request_id, "sessionId": "s", "queued": queued}
    return http(202, members if cursor is None else {**members, "cursor": cursor})


def capabilities(*extended: str) -> bytes:
    """The answer of a server that says what it can do."""
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
    """A session of a server that has not been asked whether there is one."""
    return AsyncSession(client.sessions._transport, session_id)  # pyright: ignore[reportPrivateUsage]


def sync_handle(client: Client) -> Session:
    """A session of a server that has not been asked whether there is one."""
    return Session(client.sessions._transport, "s")  # pyright: ignore[reportPrivateUsage]


def connections(session: AsyncSession | Session) -> int:
    """How many connections its client has open."""
    held: Any = session
    return len(held._transport._http._transport._pool.connections)
