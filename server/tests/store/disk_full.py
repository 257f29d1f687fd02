"""Writes to a store until the disk is full, then frees space: a limit on file sizes stands in for the disk."""

import asyncio
import resource
import sys
from pathlib import Path

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.rows import SessionKey, SessionRow
from cmdc_gateway.store.sqlite import SqliteStore
from cmdc_gateway.store.writes import AppendEvents, CreateSession

KEY = SessionKey("acme", "s1")


def append(seq: int) -> AppendEvents:
    return AppendEvents(KEY, (LoggedEvent("e", seq, "message_delta", seq, b"x" * 8000),))


def limit_file_size(limit: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))


async def main() -> None:
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await store.commit([CreateSession(SessionRow(KEY, "e", 1, b"{}"))])
    lease = await store.acquire(KEY, "one", now=0)

    limit_file_size(200_000)
    committed = 0
    try:
        while committed < 1000:
            await store.commit([append(committed + 1)], lease)
            committed += 1
    except StoreUnavailable as down:
        sys.stdout.write(f"{down}\n")
    for rejected in await asyncio.gather(
        *(store.commit([append(committed + n)], lease) for n in (1, 2, 3)), return_exceptions=True
    ):
        assert isinstance(rejected, StoreUnavailable), rejected
    assert await store.log_bounds(KEY) == ("e", 1, committed)
    assert [event.seq for event in await store.events(KEY, 0, 2000, 1 << 30)] == list(range(1, committed + 1))

    limit_file_size(resource.RLIM_INFINITY)
    await store.ping()
    await store.commit([append(committed + 1)], lease)
    assert await store.log_bounds(KEY) == ("e", 1, committed + 1)
    await store.close()
    sys.stdout.write(f"recovered after {committed}\n")


if __name__ == "__main__":
    asyncio.run(main())
