"""The journal in front of the table of events: callers of the store must not notice it."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.rows import SessionKey, SessionRow
from cmdc_gateway.store.sqlite import SqliteStore, journal, packing
from cmdc_gateway.store.sqlite.journal import WritingConnection
from cmdc_gateway.store.sqlite.tables import health
from cmdc_gateway.store.store import Lease
from cmdc_gateway.store.writes import AppendEvents, CreateSession, DeleteSession, PutSession, TrimEvents

KEYS = [SessionKey("acme", f"s{number}") for number in range(4)]
KEY, OTHER = KEYS[:2]


def row(key: SessionKey) -> SessionRow:
    return SessionRow(key, "e", 1, b"{}")


def log(first: int, last: int, epoch: str = "e") -> tuple[LoggedEvent, ...]:
    return tuple(
        LoggedEvent(epoch, seq, "message_delta", seq, b'{"delta":"%d"}' % seq) for seq in range(first, last + 1)
    )


async def append(store: SqliteStore, lease: Lease, first: int, last: int) -> None:
    """Append to a log, and write nothing else."""
    await store.commit([AppendEvents(lease.key, log(first, last))], lease)


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    for key in KEYS:
        await store.commit([CreateSession(row(key))])
    yield store
    await store.close()


@pytest_asyncio.fixture
async def leases(store: SqliteStore) -> list[Lease]:
    return [await store.acquire(key, "me", 0) for key in KEYS]


async def killed(path: Path) -> SqliteStore:
    """The store as another process finds it if this one is killed now."""
    there = path.parent / "killed"
    there.mkdir()
    for file in (path, Path(f"{path}-wal")):
        shutil.copy(file, there)
    store = SqliteStore(there / path.name)
    await store.open()
    return store


async def test_events_in_the_journal_are_read_like_all_others(
    path: Path, store: SqliteStore, leases: list[Lease]
) -> None:
    """EVT-8."""
    for seq in range(1, 21):
        await append(store, leases[0], seq, seq)

    assert (count(path, "journal"), count(path, "events")) == (20, 0)
    assert await store.events(KEY, 0, 100) == list(log(1, 20))
    assert await store.events(KEY, 5, 3) == list(log(6, 8))
    assert len(await store.events(KEY, 0, 100, max_bytes=30)) == 2
    assert await store.log_bounds(KEY) == ("e", 1, 20)
    loaded = await store.load(KEY)
    assert loaded
    assert (loaded.first_seq, loaded.last_seq) == (1, 20)


async def test_any_other_write_to_a_session_flushes_its_events(
    path: Path, store: SqliteStore, leases: list[Lease]
) -> None:
    await asyncio.gather(append(store, leases[0], 1, 5), append(store, leases[1], 1, 5))

    await store.commit([PutSession(row(KEY)), AppendEvents(KEY, log(6, 7))], leases[0])
    await append(store, leases[0], 8, 8)

    assert await store.events(KEY, 0, 100) == list(log(1, 8))
    assert await store.events(OTHER, 0, 100) == list(log(1, 5))
    assert count(path, "events") == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT session, last_seq FROM events").fetchall() == [(1, 5), (1, 7)]


async def test_events_in_the_journal_survive_kill_9(path: Path, store: SqliteStore, leases: list[Lease]) -> None:
    """DUR-1."""
    await asyncio.gather(*(append(store, lease, 1, 30) for lease in leases))
    await store.commit([PutSession(row(OTHER)), AppendEvents(OTHER, log(31, 31))], leases[1])
    await store.commit([TrimEvents(KEYS[2], 11)], leases[2])
    await store.commit([DeleteSession(KEYS[3])], leases[3])

    again = await killed(path)

    assert await again.events(KEY, 0, 100) == list(log(1, 30))
    assert await again.events(OTHER, 0, 100) == list(log(1, 31))
    assert await again.events(KEYS[2], 0, 100) == list(log(11, 30))
    assert await again.events(KEYS[3], 0, 100) == []
    assert await again.log_bounds(KEY) == ("e", 1, 30)
    lease = await again.acquire(KEY, "other", 0)
    await append(again, lease, 31, 31)
    assert await again.events(KEY, 28, 100) == list(log(29, 31))
    await again.close()
    assert count(again.path, "journal") == 0
    await again.open()
    assert await again.events(KEY, 0, 100) == list(log(1, 31))
    await again.close()


async def test_a_transaction_that_fails_rolls_back_its_own_events_only(
    store: SqliteStore, leases: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DUR-5."""
    await append(store, leases[0], 1, 3)

    def fail(self: journal.AppendJournal, connection: WritingConnection, key: SessionKey) -> None:
        flush(self, connection, key)
        raise sqlite3.OperationalError("disk I/O error")

    flush = journal.AppendJournal.flush
    with monkeypatch.context() as patched:
        patched.setattr(journal.AppendJournal, "flush", fail)
        outcomes = await asyncio.gather(
            append(store, leases[0], 4, 4), store.commit([PutSession(row(KEY))], leases[0]), return_exceptions=True
        )
        assert await store.events(KEY, 0, 100) == list(log(1, 3))

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
    assert await store.log_bounds(KEY) == ("e", 1, 3)
    await append(store, leases[0], 4, 4)
    assert await store.events(KEY, 0, 100) == list(log(1, 4))


async def test_a_rejected_job_does_not_affect_concurrent_appends(store: SqliteStore, leases: list[Lease]) -> None:
    await append(store, leases[0], 1, 3)

    outcomes = await asyncio.gather(
        append(store, leases[0], 4, 4),
        store.commit([PutSession(row(KEY)), AppendEvents(KEY, log(9, 9))], leases[0]),
        append(store, leases[0], 5, 5),
        store.commit([AppendEvents(KEY, log(6, 6)), CreateSession(row(KEY))], leases[0]),
        append(store, leases[0], 6, 6),
        return_exceptions=True,
    )

    assert [outcome is None for outcome in outcomes] == [True, False, True, False, True]
    assert await store.events(KEY, 0, 100) == list(log(1, 6))


async def test_a_rejected_job_undoes_nothing_of_the_jobs_before_it(store: SqliteStore, leases: list[Lease]) -> None:
    await append(store, leases[0], 1, 3)

    outcomes = await asyncio.gather(
        store.commit([PutSession(row(KEY)), AppendEvents(KEY, log(4, 4))], leases[0]),
        store.commit([PutSession(row(KEY)), CreateSession(row(KEY))], leases[0]),
        append(store, leases[0], 5, 5),
        store.commit([PutSession(row(KEY)), CreateSession(row(KEY))], leases[0]),
        append(store, leases[0], 6, 6),
        return_exceptions=True,
    )

    assert [outcome is None for outcome in outcomes] == [True, False, True, False, True]
    assert await store.events(KEY, 0, 100) == list(log(1, 6))


async def test_events_of_a_deleted_session_are_deleted_from_the_journal(
    path: Path, store: SqliteStore, leases: list[Lease]
) -> None:
    await append(store, leases[0], 1, 1)
    await append(store, leases[1], 1, 1)
    await store.commit([DeleteSession(KEY)], leases[0])

    async with asyncio.timeout(30):
        while count(path, "journal") + count(path, "orphans"):  # noqa: ASYNC110 - a file has no event to wait for
            await asyncio.sleep(0.01)

    assert await store.events(OTHER, 0, 10) == list(log(1, 1))
    await store.commit([CreateSession(SessionRow(KEY, "f", 2, b"{}"))])
    assert await store.events(KEY, 0, 10) == []


async def test_an_idle_store_flushes_its_journal(path: Path, store: SqliteStore, leases: list[Lease]) -> None:
    await append(store, leases[0], 1, 5)

    async with asyncio.timeout(30):
        while count(path, "journal"):  # noqa: ASYNC110 - a file has no event to wait for
            await asyncio.sleep(0.05)

    assert await store.events(KEY, 0, 10) == list(log(1, 5))
    await append(store, leases[0], 6, 6)
    assert await store.events(KEY, 0, 10) == list(log(1, 6))


async def test_the_journal_is_bounded_and_readers_miss_no_event_during_a_flush(
    path: Path, store: SqliteStore, leases: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVT-8."""
    monkeypatch.setattr(journal, "MAX_ROWS", 3)
    monkeypatch.setattr(journal, "_MIN_LOGS_PER_STEP", 2)
    appended = dict.fromkeys(KEYS, 0)

    async def write(lease: Lease) -> None:
        for seq in range(1, 301):
            await append(store, lease, seq, seq)
            appended[lease.key] = seq

    async def read(key: SessionKey) -> None:
        while appended[key] < 300:
            known = appended[key]
            after = max(0, known - 5)
            found = await store.events(key, after, 1000)
            assert [event.seq for event in found] == list(range(after + 1, after + 1 + len(found)))
            assert found[-1].seq >= known if found else known == after
            bounds = await store.log_bounds(key)
            assert bounds
            assert bounds[2] >= known

    await asyncio.gather(*map(write, leases), *map(read, KEYS))

    for key in KEYS:
        assert await store.events(key, 0, 1000) == list(log(1, 300))
    assert count(path, "journal") < 20


async def test_rows_of_events_are_limited_in_events_and_bytes(
    path: Path, store: SqliteStore, leases: list[Lease]
) -> None:
    events = log(1, 2 * packing.MAX_EVENTS + 1)
    large = tuple(
        LoggedEvent("e", seq, "message_delta", seq, b"x" * (packing.MAX_BYTES // 2 + 1))
        for seq in range(len(events) + 1, len(events) + 4)
    )

    await store.commit([AppendEvents(KEY, events + large)], leases[0])
    await store.release(leases[0])

    assert await store.events(KEY, 0, 1000, 1 << 30) == [*events, *large]
    assert await store.events(KEY, 70, 10) == list(log(71, 80))
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT packed FROM events ORDER BY last_seq").fetchall()
    assert [len(list(packing.unpack("e", packed))) for (packed,) in rows] == [
        packing.MAX_EVENTS,
        packing.MAX_EVENTS,
        2,
        1,
        1,
    ]


async def test_a_lost_connection_loses_no_committed_event_and_no_lease(
    store: SqliteStore, leases: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DUR-5."""
    await append(store, leases[0], 1, 3)

    def broken(connection: WritingConnection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(health, "check", broken)
        with pytest.raises(StoreUnavailable):
            await store.ping()

    assert await store.events(KEY, 0, 100) == list(log(1, 3))
    await append(store, leases[0], 4, 4)
    await store.commit([PutSession(row(KEY)), AppendEvents(KEY, log(5, 5))], leases[0])
    await append(store, leases[0], 6, 6)
    assert await store.events(KEY, 0, 100) == list(log(1, 6))


async def test_a_flush_that_fails_does_not_prevent_other_writes(
    path: Path, store: SqliteStore, leases: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DUR-5: an almost full disk may still have room for small commits."""
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(journal.AppendJournal, "flush_step", fail)
        patched.setattr(journal, "MAX_ROWS", 2)
        for seq in range(1, 11):
            await append(store, leases[0], seq, seq)
        assert failed.is_set()
        await store.ping()
        await store.commit([DeleteSession(OTHER)], leases[1])
        await store.close()
        again = SqliteStore(path)
        await again.open()
        assert await again.events(KEY, 0, 100) == list(log(1, 10))

    async with asyncio.timeout(30):
        while count(path, "journal"):  # noqa: ASYNC110 - a file has no event to wait for
            await asyncio.sleep(0.05)
    assert await again.events(KEY, 0, 100) == list(log(1, 10))
    await again.close()


async def test_trimmed_events_are_deleted_from_the_journal_while_others_write(
    path: Path, store: SqliteStore, leases: list[Lease]
) -> None:
    await append(store, leases[0], 1, 2)
    await store.commit([TrimEvents(KEY, 3)], leases[0])

    async with asyncio.timeout(30):
        while count(path, "journal"):
            await store.ping()
            await asyncio.sleep(0.05)

    assert await store.log_bounds(KEY) == ("e", 3, 2)


@pytest.mark.parametrize("kept", [10, 40, 50])
async def test_damaged_events_are_reported_as_a_damaged_file(
    path: Path, store: SqliteStore, leases: list[Lease], kept: int
) -> None:
    await append(store, leases[0], 1, 5)
    await store.release(leases[0])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET packed = substr(packed, 1, ?)", (kept,))

    with pytest.raises(StoreUnavailable, match=r"cannot be used: .*(truncated|damaged)"):
        await store.events(KEY, 0, 100)

    await store.ping()


async def test_a_damaged_journal_is_reported_by_open(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO journal (packed) VALUES (?)", (packing.pack(1, log(1, 2))[:-3],))

    with pytest.raises(StoreUnavailable, match="truncated"):
        await store.open()
