import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.errors import LeaseLost, StoreUnavailable
from cmdc_gateway.store.rows import SessionKey, SessionRow
from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.readers import Readers
from cmdc_gateway.store.sqlite.store import SqliteStore
from cmdc_gateway.store.sqlite.tables import usage
from cmdc_gateway.store.sqlite.writer import MAX_BYTES, MAX_JOBS, Writer
from cmdc_gateway.store.store import Lease
from cmdc_gateway.store.writes import AppendEvents, CreateSession


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "store.db", "process")


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    database.open()
    writer = Writer(database)
    yield writer
    await writer.close()
    database.release()


@asynccontextmanager
async def busy(writer: Writer) -> AsyncGenerator[None]:
    """Keep the writer busy, so that the jobs of this block wait."""
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
    """The outcomes of the calls, which wait for the writer when this returns."""
    outcomes = asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(0)
    return outcomes


def write(connection: sqlite3.Connection) -> int:
    """Count a write; return the count."""
    connection.execute("UPDATE health SET writes = writes + 1")
    return count_writes(connection)


def count_writes(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT writes FROM health").fetchone()[0]


def fail(failure: Exception) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        write(connection)
        raise failure

    return work


async def test_waiting_jobs_are_committed_in_order_in_one_transaction(writer: Writer) -> None:
    async with busy(writer):
        outcomes = await waiting([writer.run(write) for _ in range(100)])

    assert await outcomes == list(range(1, 101))
    assert writer.transactions == 2


async def test_concurrent_callers_share_transactions(writer: Writer) -> None:
    async def call() -> None:
        for _ in range(20):
            await writer.run(write)

    await asyncio.gather(*(call() for _ in range(100)))

    assert await writer.run(count_writes) == 2000
    assert writer.transactions < 500


async def test_a_transaction_is_limited_in_jobs(writer: Writer) -> None:
    async with busy(writer):
        outcomes = await waiting([writer.run(write) for _ in range(2 * MAX_JOBS + 1)])

    await outcomes
    assert writer.transactions == 1 + 3


async def test_a_transaction_is_limited_in_bytes(writer: Writer) -> None:
    async with busy(writer):
        outcomes = await waiting([writer.run(write, size=MAX_BYTES // 4) for _ in range(9)])

    await outcomes
    assert writer.transactions == 1 + 3


async def test_a_job_that_raises_is_rolled_back_alone(writer: Writer) -> None:
    failures = [ZeroDivisionError(), sqlite3.IntegrityError("UNIQUE constraint failed")]
    async with busy(writer):
        outcomes = await waiting(
            [
                writer.run(write),
                writer.run(fail(failures[0])),
                writer.run(write),
                writer.run(fail(failures[1])),
                writer.run(write),
            ]
        )

    assert await outcomes == [1, failures[0], 2, failures[1], 3]
    assert writer.transactions == 2


async def test_a_transaction_that_fails_is_rolled_back_as_a_whole_and_the_next_one_succeeds(writer: Writer) -> None:
    """DUR-5."""
    async with busy(writer):
        outcomes = await waiting(
            [writer.run(write), writer.run(fail(sqlite3.OperationalError("disk I/O error"))), writer.run(write)]
        )

    assert [f"{type(outcome).__name__}: {outcome}"[-30:] for outcome in await outcomes] == [
        "cannot be used: disk I/O error"
    ] * 3
    assert all(isinstance(outcome, StoreUnavailable) for outcome in await outcomes)
    assert await writer.run(write) == 1


async def test_a_store_is_unavailable_while_another_program_locks_the_file(writer: Writer, database: Database) -> None:
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        await writer.run(lambda connection: connection.execute("PRAGMA busy_timeout = 50").close())
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            await writer.run(write)
        other.execute("ROLLBACK")

        assert await writer.run(write) == 1


async def test_cancelling_a_caller_does_not_undo_its_job(writer: Writer) -> None:
    async with busy(writer):
        caller = asyncio.create_task(writer.run(write))
        rejected = asyncio.create_task(writer.run(fail(ZeroDivisionError())))
        await asyncio.sleep(0)
        caller.cancel()
        rejected.cancel()

    assert isinstance((await asyncio.gather(caller, return_exceptions=True))[0], asyncio.CancelledError)
    assert await writer.run(count_writes) == 1


async def test_close_runs_the_jobs_that_are_waiting(database: Database) -> None:
    database.open()
    writer = Writer(database)
    outcomes = await waiting([writer.run(write) for _ in range(10)])

    await writer.close()

    assert await outcomes == list(range(1, 11))
    with pytest.raises(StoreUnavailable):
        await writer.run(write)
    database.release()


async def test_readers_do_not_wait_for_the_writer_and_see_committed_data_only(
    writer: Writer, database: Database
) -> None:
    readers = Readers(database)
    await writer.run(write)
    async with busy(writer):
        outcomes = await waiting([writer.run(write)])
        assert await readers.run(usage.count_keys) == 0
    await outcomes
    await readers.close()


async def test_one_of_many_concurrent_appends_is_rejected_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "many.db")
    await store.open()
    keys = [SessionKey("acme", f"s{number}") for number in range(5)]
    for key in keys:
        await store.commit([CreateSession(SessionRow(key, "e", 1, b"{}"))])
    leases = [await store.acquire(key, "me", 1) for key in keys]
    stale, leases[1] = leases[1], await store.acquire(keys[1], "me", 1)

    def append(lease: Lease, seq: int) -> Coroutine[None, None, None]:
        event = LoggedEvent("e", seq, "message_delta", 1, b"{}")
        return store.commit([AppendEvents(lease.key, (event,))], lease)

    outcomes = await asyncio.gather(
        append(leases[0], 1), append(stale, 1), append(leases[2], 2), append(leases[0], 2), append(leases[1], 1),
        return_exceptions=True,
    )  # fmt: skip
    await store.release(leases[0])
    rejected = await asyncio.gather(append(leases[0], 3), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [type(None), LeaseLost, ValueError, type(None), type(None)]
    assert isinstance(rejected[0], LeaseLost)
    assert [len(await store.events(key, 0, 10)) for key in keys] == [2, 1, 0, 0, 0]
    await store.close()
