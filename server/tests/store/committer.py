"""Commits to a few sessions until it is killed; prints a line `<session> <last seq>` after each commit."""

import asyncio
import os
import sys
from pathlib import Path

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import user
from cmdc_gateway.store.rows import SessionKey, SessionRow, UsageRow
from cmdc_gateway.store.sqlite import SqliteStore
from cmdc_gateway.store.writes import AddUsage, AppendEvents, AppendMessages, CreateSession

SESSIONS = 5


def key(number: int) -> SessionKey:
    return SessionKey("acme", f"s{number}")


def event(seq: int) -> LoggedEvent:
    return LoggedEvent("e", seq, "message_delta", seq, b'{"delta":"%d"}' % seq)


async def write(store: SqliteStore, number: int) -> None:
    bounds = await store.log_bounds(key(number))
    if bounds is None:
        await store.commit([CreateSession(SessionRow(key(number), "e", 1, b"{}"))])
    last_seq = bounds[2] if bounds else 0
    lease = await store.acquire(key(number), "committer", now=0)
    while True:
        if last_seq % 3 == 0:
            last_seq += 1
            await store.commit([AppendEvents(key(number), (event(last_seq),))], lease)
        events = (event(last_seq + 1), event(last_seq + 2))
        message = AppendMessages(key(number), (user(f"up to {last_seq + 2}"),))
        usage = AddUsage(UsageRow("acme", "key", "2026-11-22", prompts=1))
        await store.commit([AppendEvents(key(number), events), message, usage], lease)
        last_seq += 2
        os.write(1, b"%d %d\n" % (number, last_seq))


async def main() -> None:
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await asyncio.gather(*(write(store, number) for number in range(SESSIONS)))


if __name__ == "__main__":
    asyncio.run(main())
