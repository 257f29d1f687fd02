"""Lose the connection repeatedly without missing an event; then resume the session from another client."""

import asyncio
import os
from contextlib import closing, suppress
from urllib.parse import urlsplit

from cmdc_client import AsyncClient, MessageDelta
from scripted import MODEL, scripted

WORDS = [f"{number} " for number in range(1, 41)]
PROMPT = scripted("Count to forty.", {"text": WORDS, "delayMs": 5})
GATEWAY = urlsplit(os.environ.get("CMDC_BASE_URL", "http://127.0.0.1:4000"))


class UnreliableProxy:
    """A TCP proxy to the gateway that drops each connection after 1,500 response bytes, even in the middle of an event."""

    cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(GATEWAY.hostname, GATEWAY.port)
        forward = asyncio.create_task(self._pump(reader, upstream_writer, 1_000_000))
        self.cuts += await self._pump(upstream_reader, writer, 1_500)
        forward.cancel()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, left: int) -> bool:
        with closing(target), suppress(ConnectionError):
            while left and (data := await source.read(left)):
                target.write(data)
                await target.drain()
                left -= len(data)
        return not left


async def main() -> None:
    """Read a run through the proxy; the client needs no special setup."""
    proxy = UnreliableProxy()
    async with await asyncio.start_server(proxy.serve, "127.0.0.1") as server:
        host, port = server.sockets[0].getsockname()
        async with AsyncClient(f"http://{host}:{port}") as client:
            session = await client.sessions.create(model=MODEL)
            events = [event async for event in session.run(PROMPT)]
    words = [event.delta for event in events if isinstance(event, MessageDelta)]
    print(f"{''.join(words)}\n{len(events)} events in order, through {proxy.cuts} dropped connections")
    assert proxy.cuts > 0
    assert words == WORDS
    assert [event.seq for event in events] == list(range(1, len(events) + 1))

    # To resume from another program or on another day, only the session id and the last event id are needed.
    async with AsyncClient() as client, await client.sessions.get(session.id) as session:
        rest = [event async for event in session.events(after=events[9].id)]
        print(f"resumed after event {events[9].id}: {len(rest)} more events")
        assert rest == events[10:]


asyncio.run(main())
