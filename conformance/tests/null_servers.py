"""Servers that are not gateways. The suite must not find a single requirement that they fulfill."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _always(status: str, body: bytes) -> Handler:
    """Return the same response to every request."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            for line in request.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.partition(b":")[2]))
            writer.write(head + (b"" if request.startswith(b"HEAD ") else body))

    return respond


async def _silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        pass


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def _hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    return


NULL_SERVERS: dict[str, Handler] = {
    "200 to everything": _always("200 OK", b"{}"),
    "200 and ok to everything": _always("200 OK", b'{"status": "ok", "ok": true}'),
    "404 to everything": _always("404 Not Found", b'{"error": "not_found", "message": "nothing is here"}'),
    "401 to everything": _always("401 Unauthorized", b'{"error": "unauthorized", "message": "who are you?"}'),
    "500 to everything": _always("500 Internal Server Error", b'{"error": "internal", "message": "again"}'),
    "silence": _silence,
    "echo": _echo,
    "hanging up": _hang_up,
}


@asynccontextmanager
async def serving(handle: Handler) -> AsyncGenerator[str]:
    """Run a server on loopback; yield its URL."""
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs each connection in a task"
        connections.add(task)
        task.add_done_callback(connections.discard)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # asyncio also has tasks for connections that it accepted but has not passed on yet.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in connections:
                task.cancel()
            await asyncio.wait(others, timeout=0.1)
