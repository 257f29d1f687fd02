import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.readers import Readers
from cmdc_gateway.store.sqlite.store import SqliteStore
from cmdc_gateway.store.sqlite.writer import MAX_BYTES, MAX_JOBS, Writer
from cmdc_gateway.store.store import (
    AppendEvents,
    CreateSession,
    Lease,
    LeaseLost,
    SessionKey,
    SessionRow,
    StoreUnavailable,
)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "store.db", "process")


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    database.acquire()
    writer = Writer(database)
    yield writer
    await writer.close()
    database.release()


@asynccontextmanager
async def busy(writer: Writer) -> AsyncGenerator[None]:
    """Keep the writer busy, so that what is called meanwhile waits."""
    started, finish = threading.Event(), threading.Event()

    def work(_: sqlite3.Connection) -> None:
        started.set()
        finish.wait(5)

    working = asyncio.create_task(writer.run(work))
    await asyncio.to_thread(started.wait, 5)
    yield
    finish.set()
    await working


async def waiting(calls: list[Coroutine[Any, Any, Any]]) -> "asyncio.Future[list[Any]]":
    """The outcomes of the calls, which now wait for the writer."""
    outcomes = asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(0)
    return outcomes


def beat(connection: sqlite3.Connection) -> int:
    """Write something that can be counted; return the count."""
    connection.execute("UPDATE pulse SET beat = beat + 1")
    return beats(connection)


def beats(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT beat FROM pulse").fetchone()[0]


def fail(failure: Exception) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        beat(connection)
        raise failure

    return work


async def test_what_waits_is_committed_in_one_transaction_in_order(writer: Writer) -> None:
    async with busy(writer):
        outcomes = await waiting([writer.run(beat) for _ in range(100)])

    assert await outcomes == list(range(1, 101))
    assert writer.transactions == 2


async def test_a_hundred_callers_share_transactions(writer: Writer) -> None:
    async def call() -> None:
        for _ in range(20):
            await writer.run(beat)

    await asyncio.gather(*(call() for _ in range(100)))

    assert await writer.run(beats) == 2000
    assert writer.transactions < 500


async def test_a_transaction_has_no_more_than_so_many_jobs(writer: Writer) -> None:
    async with busy(writer):
        outcomes = await waiting([writer.run(beat) for _ in range(2 * MAX_JOBS + 1)])

    await outcomes
    assert writer.transactions == 1 + 3


async def test_a_transaction_has_no_more_than_so_many_bytes(writer: Writer) -> None:
    async with busy(writer):
        outcomes = await waiting([writer.run(beat, size=MAX_BYTES // 4) for _ in range(9)])

    await outcomes
    assert writer.transactions == 1 + 3


async def test_a_job_that_raises_is_undone_alone(writer: Writer) -> None:
    failures = [ZeroDivisionError(), sqlite3.IntegrityError("UNIQUE constraint failed")]
    async with busy(writer):
        outcomes = await waiting(
            [
                writer.run(beat),
                writer.run(fail(failures[0])),
                writer.run(beat),
                writer.run(fail(failures[1])),
                writer.run(beat),
            ]
        )

    assert await outcomes == [1, failures[0], 2, failures[1], 3]
    assert writer.transactions == 2


async def test_a_transaction_that_fails_is_undone_whole_and_the_next_one_works(writer: Writer) -> None:
    """DUR-5."""
    async with busy(writer):
        outcomes = await waiting(
            [writer.run(beat), writer.run(fail(sqlite3.OperationalError("disk I/O error"))), writer.run(beat)]
        )

    assert [f"{type(outcome).__name__}: {outcome}"[-30:] for outcome in await outcomes] == [
        "cannot be used: disk I/O error"
    ] * 3
    assert all(isinstance(outcome, StoreUnavailable) for outcome in await outcomes)
    assert await writer.run(beat) == 1


async def test_a_file_that_others_keep_locked_is_down_until_they_let_go(writer: Writer, database: Database) -> None:
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        await writer.run(lambda connection: connection.execute("PRAGMA busy_timeout = 50").close())
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            await writer.run(beat)
        other.execute("ROLLBACK")

        assert await writer.run(beat) == 1


async def test_a_caller_that_is_cancelled_undoes_nothing(writer: Writer) -> None:
    async with busy(writer):
        caller = asyncio.create_task(writer.run(beat))
        refused = asyncio.create_task(writer.run(fail(ZeroDivisionError())))
        await asyncio.sleep(0)
        caller.cancel()
        refused.cancel()

    assert isinstance((await asyncio.gather(caller, return_exceptions=True))[0], asyncio.CancelledError)
    assert await writer.run(beats) == 1


async def test_closing_does_what_was_given_before(database: Database) -> None:
    database.acquire()
    writer = Writer(database)
    outcomes = await waiting([writer.run(beat) for _ in range(10)])

    await writer.close()

    assert await outcomes == list(range(1, 11))
    with pytest.raises(StoreUnavailable):
        await writer.run(beat)
    database.release()


async def test_reading_waits_for_no_writer_and_sees_what_is_committed(writer: Writer, database: Database) -> None:
    readers = Readers(database)
    await writer.run(beat)
    async with busy(writer):
        outcomes = await waiting([writer.run(beat)])
        assert await readers.run(lambda snapshot: snapshot.tracked_keys()) == 0
    await outcomes
    await readers.close()


async def test_of_many_logs_that_go_on_at_once_one_that_may_not_is_refused_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "many.db")
    await store.open()
    keys = [SessionKey("acme", f"s{number}") for number in range(5)]
    for key in keys:
        await store.commit([CreateSession(SessionRow(key, "e", 1, b"{}"))])
    fences = [await store.acquire(key, "me", 1) for key in keys]
    lost, fences[1] = fences[1], await store.acquire(keys[1], "me", 1)

    def append(fence: Lease, seq: int) -> Coroutine[None, None, None]:
        event = LoggedEvent("e", seq, "message_delta", 1, b"{}")
        return store.commit([AppendEvents(fence.key, (event,))], fence)

    outcomes = await asyncio.gather(
        append(fences[0], 1), append(lost, 1), append(fences[2], 2), append(fences[0], 2), append(fences[1], 1),
        return_exceptions=True,
    )  # fmt: skip
    await store.release(fences[0])
    refused = await asyncio.gather(append(fences[0], 3), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [type(None), LeaseLost, ValueError, type(None), type(None)]
    assert isinstance(refused[0], LeaseLost)
    assert [len(await store.events(key, 0, 10)) for key in keys] == [2, 1, 0, 0, 0]
    await store.close()
