"""Servers that are none: a suite that finds anything right with them is not judging."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _always(status: str, body: bytes) -> Connected:
    """Answers every request alike."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = await reader.readuntil(b"\r\n\r\n")
            for line in asked.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.partition(b":")[2]))
            writer.write(head + (b"" if asked.startswith(b"HEAD ") else body))

    return answer


async def _silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        pass


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def _hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    return


NULL_SERVERS: dict[str, Connected] = {
    "200 to everything": _always("200 OK", b"{}"),
    "200 and ok to everything": _always("200 OK", b'{"status": "ok", "ok": true}'),
    "404 to everything": _always("404 Not Found", b'{"error": "not_found", "message": "there is nothing here"}'),
    "401 to everything": _always("401 Unauthorized", b'{"error": "unauthorized", "message": "who are you?"}'),
    "500 to everything": _always("500 Internal Server Error", b'{"error": "internal", "message": "again"}'),
    "silence": _silence,
    "echo": _echo,
    "hanging up": _hang_up,
}


@asynccontextmanager
async def serving(connected: Connected) -> AsyncGenerator[str]:
    """Such a server on loopback; its URL."""
    open_ones: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio makes a task for each connection"
        open_ones.add(task)
        task.add_done_callback(open_ones.discard)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
                await connected(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # Also connections that asyncio has accepted and not yet handed on are tasks, of its own.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in open_ones:
                task.cancel()
            await asyncio.wait(others, timeout=0.1)
