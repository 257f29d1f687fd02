"""A proxy that closes every connection after a random number of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Literal
from urllib.parse import urlsplit


@dataclass(slots=True)
class CuttingProxy:
    """The proxy: its URL, and how many connections it has accepted and cut."""

    url: str
    connections: int = 0
    cuts: int = 0


@asynccontextmanager
async def cutting_proxy(
    target: str, *, seed: int, mean: int, methods: tuple[Literal["reset", "end"], ...] = ("reset", "end")
) -> AsyncGenerator[CuttingProxy]:
    """Forward `mean` bytes per connection on average, both directions together, and then cut it."""
    random = Random(seed)
    port = urlsplit(target).port
    proxy = CuttingProxy("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        left, method = int(random.expovariate(1 / mean)), random.choice(methods)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)

        def take(size: int) -> int:
            nonlocal left
            allowed = min(size, left)
            left -= allowed
            return allowed

        pumps = [
            asyncio.ensure_future(_pump(reader, upstream_writer, take)),
            asyncio.ensure_future(_pump(upstream_reader, writer, take)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            if left <= 0:
                proxy.cuts += 1
            if left <= 0 and method == "reset":
                writer.transport.abort()
            upstream_writer.transport.abort()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield proxy


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, take: Callable[[int], int]) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            allowed = take(len(chunk))
            writer.write(chunk[:allowed])
            await writer.drain()
            if allowed < len(chunk):
                return
