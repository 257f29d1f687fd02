"""A line that breaks: a proxy that ends each connection after a number of bytes that chance gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Literal
from urllib.parse import urlsplit


@dataclass(slots=True)
class Cutting:
    """The proxy: where it listens, and how often it has cut, in either direction."""

    url: str
    connections: int = 0
    cuts: int = 0


@asynccontextmanager
async def cutting(
    target: str, *, seed: int, mean: int, ways: tuple[Literal["reset", "end"], ...] = ("reset", "end")
) -> AsyncGenerator[Cutting]:
    """Let through `mean` bytes of each connection, on average, to and fro together."""
    chance = Random(seed)
    port = urlsplit(target).port
    proxy = Cutting("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        left, way = int(chance.expovariate(1 / mean)), chance.choice(ways)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)

        def let_through(size: int) -> int:
            nonlocal left
            allowed = min(size, left)
            left -= allowed
            return allowed

        pumps = [
            asyncio.ensure_future(_pump(reader, far_writer, let_through)),
            asyncio.ensure_future(_pump(far_reader, writer, let_through)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            if left <= 0:
                proxy.cuts += 1
            if left <= 0 and way == "reset":
                writer.transport.abort()
            far_writer.transport.abort()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield proxy


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, let_through: Callable[[int], int]) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(65536):
            allowed = let_through(len(piece))
            writer.write(piece[:allowed])
            await writer.drain()
            if allowed < len(piece):
                return
