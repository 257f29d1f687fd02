"""Lose the connection again and again, and miss nothing; then come back later and read on."""

import asyncio
import os
from contextlib import closing, suppress
from urllib.parse import urlsplit

from cmdc_client import AsyncClient, MessageDelta
from scripted import MODEL, scripted

WORDS = [f"{number} " for number in range(1, 41)]
PROMPT = scripted("Count to forty.", {"text": WORDS, "delayMs": 5})
GATEWAY = urlsplit(os.environ.get("CMDC_BASE_URL", "http://127.0.0.1:4000"))


class BadLine:
    """A line to the gateway that breaks after 1,500 bytes, in the middle of whatever is being sent."""

    cuts = 0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(GATEWAY.hostname, GATEWAY.port)
        forward = asyncio.create_task(self._pump(reader, requests, 1_000_000))
        self.cuts += await self._pump(answers, writer, 1_500)
        forward.cancel()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, left: int) -> bool:
        with closing(target), suppress(ConnectionError):
            while left and (data := await source.read(left)):
                target.write(data)
                await target.drain()
                left -= len(data)
        return not left


async def main() -> None:
    """The client is told the address of the bad line, and nothing else about it."""
    line = BadLine()
    async with await asyncio.start_server(line.carry, "127.0.0.1") as server:
        host, port = server.sockets[0].getsockname()
        async with AsyncClient(f"http://{host}:{port}") as client:
            session = await client.sessions.create(model=MODEL)
            events = [event async for event in session.run(PROMPT)]
    said = [event.delta for event in events if isinstance(event, MessageDelta)]
    print(f"{''.join(said)}\n{len(events)} events in order, over a line that was cut {line.cuts} times")
    assert line.cuts > 0
    assert said == WORDS
    assert [event.seq for event in events] == list(range(1, len(events) + 1))

    # Another program, another day: a session's id and the id of the last event seen are all it needs.
    async with AsyncClient() as client, await client.sessions.get(session.id) as session:
        rest = [event async for event in session.events(after=events[9].id)]
        print(f"read on after event {events[9].id}: {len(rest)} more")
        assert rest == events[10:]


asyncio.run(main())
