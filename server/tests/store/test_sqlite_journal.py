"""What is added to a log is written in order of arrival first, and moved to its place later: nobody can tell."""

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
from cmdc_gateway.store.sqlite import SqliteStore, journal, packing, schema, writing
from cmdc_gateway.store.sqlite.journal import WritingConnection
from cmdc_gateway.store.store import (
    AppendEvents,
    CreateSession,
    DeleteSession,
    Lease,
    PutSession,
    SessionKey,
    SessionRow,
    StoreUnavailable,
    TrimEvents,
)

KEYS = [SessionKey("acme", f"s{number}") for number in range(4)]
KEY, OTHER = KEYS[:2]


def row(key: SessionKey) -> SessionRow:
    return SessionRow(key, "e", 1, b"{}")


def log(first: int, last: int, epoch: str = "e") -> tuple[LoggedEvent, ...]:
    return tuple(
        LoggedEvent(epoch, seq, "message_delta", seq, b'{"delta":"%d"}' % seq) for seq in range(first, last + 1)
    )


async def say(store: SqliteStore, fence: Lease, first: int, last: int) -> None:
    """Add to a log, and change nothing else."""
    await store.commit([AppendEvents(fence.key, log(first, last))], fence)


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
async def fences(store: SqliteStore) -> list[Lease]:
    return [await store.acquire(key, "me", 0) for key in KEYS]


async def killed(path: Path) -> SqliteStore:
    """The store as another process finds it if this one ends here."""
    there = path.parent / "killed"
    there.mkdir()
    for file in (path, Path(f"{path}-wal")):
        shutil.copy(file, there)
    store = SqliteStore(there / path.name)
    await store.open()
    return store


async def test_what_is_only_in_the_journal_is_read_like_everything_else(
    path: Path, store: SqliteStore, fences: list[Lease]
) -> None:
    """EVT-8."""
    for seq in range(1, 21):
        await say(store, fences[0], seq, seq)

    assert (count(path, "journal"), count(path, "events")) == (20, 0)
    assert await store.events(KEY, 0, 100) == list(log(1, 20))
    assert await store.events(KEY, 5, 3) == list(log(6, 8))
    assert len(await store.events(KEY, 0, 100, max_bytes=30)) == 2
    assert await store.log_bounds(KEY) == ("e", 1, 20)
    loaded = await store.load(KEY)
    assert loaded
    assert (loaded.first_seq, loaded.last_seq) == (1, 20)


async def test_it_is_moved_as_soon_as_something_else_happens_to_the_session(
    path: Path, store: SqliteStore, fences: list[Lease]
) -> None:
    await asyncio.gather(say(store, fences[0], 1, 5), say(store, fences[1], 1, 5))

    await store.commit([PutSession(row(KEY)), AppendEvents(KEY, log(6, 7))], fences[0])
    await say(store, fences[0], 8, 8)

    assert await store.events(KEY, 0, 100) == list(log(1, 8))
    assert await store.events(OTHER, 0, 100) == list(log(1, 5))
    assert count(path, "events") == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT session, seq, count FROM events").fetchall() == [(1, 5, 5), (1, 7, 2)]


async def test_what_is_in_the_journal_survives_kill_9(path: Path, store: SqliteStore, fences: list[Lease]) -> None:
    """DUR-1."""
    await asyncio.gather(*(say(store, fence, 1, 30) for fence in fences))
    await store.commit([PutSession(row(OTHER)), AppendEvents(OTHER, log(31, 31))], fences[1])
    await store.commit([TrimEvents(KEYS[2], 11)], fences[2])
    await store.commit([DeleteSession(KEYS[3])], fences[3])

    again = await killed(path)

    assert await again.events(KEY, 0, 100) == list(log(1, 30))
    assert await again.events(OTHER, 0, 100) == list(log(1, 31))
    assert await again.events(KEYS[2], 0, 100) == list(log(11, 30))
    assert await again.events(KEYS[3], 0, 100) == []
    assert await again.log_bounds(KEY) == ("e", 1, 30)
    fence = await again.acquire(KEY, "other", 0)
    await say(again, fence, 31, 31)
    assert await again.events(KEY, 28, 100) == list(log(29, 31))
    await again.close()
    assert count(again.path, "journal") == 0
    await again.open()
    assert await again.events(KEY, 0, 100) == list(log(1, 31))
    await again.close()


async def test_a_transaction_that_fails_takes_only_its_own_events_with_it(
    store: SqliteStore, fences: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DUR-5."""
    await say(store, fences[0], 1, 3)

    def fail(self: journal.AppendJournal, connection: WritingConnection, key: SessionKey) -> None:
        settle(self, connection, key)
        raise sqlite3.OperationalError("disk I/O error")

    settle = journal.AppendJournal.flush
    with monkeypatch.context() as patched:
        patched.setattr(journal.AppendJournal, "flush", fail)
        outcomes = await asyncio.gather(
            say(store, fences[0], 4, 4), store.commit([PutSession(row(KEY))], fences[0]), return_exceptions=True
        )
        assert await store.events(KEY, 0, 100) == list(log(1, 3))

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
    assert await store.log_bounds(KEY) == ("e", 1, 3)
    await say(store, fences[0], 4, 4)
    assert await store.events(KEY, 0, 100) == list(log(1, 4))


async def test_a_job_that_is_refused_leaves_what_was_in_the_journal(store: SqliteStore, fences: list[Lease]) -> None:
    await say(store, fences[0], 1, 3)

    outcomes = await asyncio.gather(
        say(store, fences[0], 4, 4),
        store.commit([PutSession(row(KEY)), AppendEvents(KEY, log(9, 9))], fences[0]),
        say(store, fences[0], 5, 5),
        store.commit([AppendEvents(KEY, log(6, 6)), CreateSession(row(KEY))], fences[0]),
        say(store, fences[0], 6, 6),
        return_exceptions=True,
    )

    assert [outcome is None for outcome in outcomes] == [True, False, True, False, True]
    assert await store.events(KEY, 0, 100) == list(log(1, 6))


async def test_a_refused_job_undoes_nothing_of_the_jobs_before_it(store: SqliteStore, fences: list[Lease]) -> None:
    await say(store, fences[0], 1, 3)

    outcomes = await asyncio.gather(
        store.commit([PutSession(row(KEY)), AppendEvents(KEY, log(4, 4))], fences[0]),
        store.commit([PutSession(row(KEY)), CreateSession(row(KEY))], fences[0]),
        say(store, fences[0], 5, 5),
        store.commit([PutSession(row(KEY)), CreateSession(row(KEY))], fences[0]),
        say(store, fences[0], 6, 6),
        return_exceptions=True,
    )

    assert [outcome is None for outcome in outcomes] == [True, False, True, False, True]
    assert await store.events(KEY, 0, 100) == list(log(1, 6))


async def test_the_text_of_a_deleted_session_does_not_stay_in_the_journal(
    path: Path, store: SqliteStore, fences: list[Lease]
) -> None:
    await say(store, fences[0], 1, 1)
    await say(store, fences[1], 1, 1)
    await store.commit([DeleteSession(KEY)], fences[0])

    async with asyncio.timeout(30):
        while count(path, "journal") + count(path, "leavings"):  # noqa: ASYNC110 - the file cannot tell us
            await asyncio.sleep(0.01)

    assert await store.events(OTHER, 0, 10) == list(log(1, 1))
    await store.commit([CreateSession(SessionRow(KEY, "f", 2, b"{}"))])
    assert await store.events(KEY, 0, 10) == []


async def test_an_idle_store_has_an_empty_journal(path: Path, store: SqliteStore, fences: list[Lease]) -> None:
    await say(store, fences[0], 1, 5)

    async with asyncio.timeout(30):
        while count(path, "journal"):  # noqa: ASYNC110 - the file cannot tell us
            await asyncio.sleep(0.05)

    assert await store.events(KEY, 0, 10) == list(log(1, 5))
    await say(store, fences[0], 6, 6)
    assert await store.events(KEY, 0, 10) == list(log(1, 6))


async def test_the_journal_is_bounded_and_readers_miss_nothing_while_it_is_moved(
    path: Path, store: SqliteStore, fences: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVT-8."""
    monkeypatch.setattr(journal, "MAX_ROWS", 3)
    monkeypatch.setattr(journal, "_LOGS_AT_ONCE", 2)
    said = dict.fromkeys(KEYS, 0)

    async def talk(fence: Lease) -> None:
        for seq in range(1, 301):
            await say(store, fence, seq, seq)
            said[fence.key] = seq

    async def read(key: SessionKey) -> None:
        while said[key] < 300:
            known = said[key]
            after = max(0, known - 5)
            found = await store.events(key, after, 1000)
            assert [event.seq for event in found] == list(range(after + 1, after + 1 + len(found)))
            assert found[-1].seq >= known if found else known == after
            edges = await store.log_bounds(key)
            assert edges
            assert edges[2] >= known

    await asyncio.gather(*map(talk, fences), *map(read, KEYS))

    for key in KEYS:
        assert await store.events(key, 0, 1000) == list(log(1, 300))
    assert count(path, "journal") < 20


async def test_a_file_from_before_there_was_a_journal_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, closing(sqlite3.connect(path, isolation_level=None)) as connection:
        patched.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
        schema.migrate(connection, path)
        connection.execute(
            "INSERT INTO sessions (tenant, session_id, epoch, created_at, state, turns, tool_calls, prompts,"
            " prompt_tokens, completion_tokens, cost_usd, served) VALUES ('acme', 's0', 'e', 1, 'idle', 0,0,0,0,0,0.0,0)"
        )
        connection.executemany(
            "INSERT INTO events (session, seq, name, at, data) VALUES (1, ?, ?, ?, ?)",
            [(event.seq, event.name, event.at, event.data) for event in log(1, 5)],
        )
    store = SqliteStore(path)
    await store.open()
    fence = await store.acquire(KEY, "me", 0)

    await say(store, fence, 6, 7)
    await store.release(fence)

    assert await store.events(KEY, 0, 10) == list(log(1, 7))
    assert await store.log_bounds(KEY) == ("e", 1, 7)
    await store.close()


async def test_events_are_packed_within_bounds(path: Path, store: SqliteStore, fences: list[Lease]) -> None:
    events = log(1, 2 * packing.MAX_EVENTS + 1)
    large = tuple(
        LoggedEvent("e", seq, "message_delta", seq, b"x" * (packing.MAX_BYTES // 2 + 1))
        for seq in range(len(events) + 1, len(events) + 4)
    )

    await store.commit([AppendEvents(KEY, events + large)], fences[0])
    await store.release(fences[0])

    assert await store.events(KEY, 0, 1000, 1 << 30) == [*events, *large]
    assert await store.events(KEY, 70, 10) == list(log(71, 80))
    with closing(sqlite3.connect(path)) as connection:
        counts = [found[0] for found in connection.execute("SELECT count FROM events ORDER BY seq")]
    assert counts == [packing.MAX_EVENTS, packing.MAX_EVENTS, 2, 1, 1]


async def test_a_connection_that_is_lost_forgets_nothing_that_was_committed(
    store: SqliteStore, fences: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DUR-5: what the file says counts, when a new connection is made; fences stay what they were."""
    await say(store, fences[0], 1, 3)

    def broken(connection: WritingConnection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(writing, "check_health", broken)
        with pytest.raises(StoreUnavailable):
            await store.ping()

    assert await store.events(KEY, 0, 100) == list(log(1, 3))
    await say(store, fences[0], 4, 4)
    await store.commit([PutSession(row(KEY)), AppendEvents(KEY, log(5, 5))], fences[0])
    await say(store, fences[0], 6, 6)
    assert await store.events(KEY, 0, 100) == list(log(1, 6))


async def test_a_journal_that_cannot_be_moved_keeps_nobody_from_writing(
    path: Path, store: SqliteStore, fences: list[Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DUR-5: a disk that has room for little may still take little."""
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(journal.AppendJournal, "flush_some", fail)
        patched.setattr(journal, "MAX_ROWS", 2)
        for seq in range(1, 11):
            await say(store, fences[0], seq, seq)
        assert failed.is_set()
        await store.ping()
        await store.commit([DeleteSession(OTHER)], fences[1])
        await store.close()
        again = SqliteStore(path)
        await again.open()
        assert await again.events(KEY, 0, 100) == list(log(1, 10))

    async with asyncio.timeout(30):
        while count(path, "journal"):  # noqa: ASYNC110 - the file cannot tell us
            await asyncio.sleep(0.05)
    assert await again.events(KEY, 0, 100) == list(log(1, 10))
    await again.close()


async def test_what_was_trimmed_leaves_the_journal_though_others_go_on(
    path: Path, store: SqliteStore, fences: list[Lease]
) -> None:
    await say(store, fences[0], 1, 2)
    await store.commit([TrimEvents(KEY, 3)], fences[0])

    async with asyncio.timeout(30):
        while count(path, "journal"):
            await store.ping()
            await asyncio.sleep(0.05)

    assert await store.log_bounds(KEY) == ("e", 3, 2)


@pytest.mark.parametrize("kept", [10, 40, 50])
async def test_packed_events_that_are_damaged_are_told_as_a_damaged_file(
    path: Path, store: SqliteStore, fences: list[Lease], kept: int
) -> None:
    await say(store, fences[0], 1, 5)
    await store.release(fences[0])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET data = substr(data, 1, ?)", (kept,))

    with pytest.raises(StoreUnavailable, match=r"cannot be used: .*(cut off|damaged)"):
        await store.events(KEY, 0, 100)

    await store.ping()


async def test_a_damaged_journal_is_told_when_the_store_is_opened(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO journal (data) VALUES (?)", (packing.pack(1, log(1, 2))[:-3],))

    with pytest.raises(StoreUnavailable, match="cut off"):
        await store.open()
