"""The file itself: who may read it, what it may be, what is left in it."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage, user
from cmdc_gateway.store.sqlite import SqliteStore, schema
from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.store import (
    AddUsage,
    AppendEvents,
    AppendMessages,
    CreateSession,
    DeleteSession,
    LeaseLost,
    PutQuestion,
    PutTool,
    QuestionRow,
    SessionKey,
    SessionRow,
    StoredStateDamaged,
    StoreUnavailable,
    ToolRow,
    UsageRow,
)

KEY = SessionKey("acme", "s1")
ROW = SessionRow(KEY, "e", 1, b"{}")
USAGE = AddUsage(UsageRow("acme", "key", "2026-11-22", 1, TokenUsage(), 0.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def execute(path: Path, statement: str) -> int:
    """Carry out a statement behind the store's back; return the number it gives, if it gives one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found = connection.execute(statement).fetchone()
        return found[0] if found else 0


async def refusal(path: Path) -> str:
    """The sentence with which the store refuses to open this file."""
    with pytest.raises(StoreUnavailable) as refused:
        await SqliteStore(path).open()
    return str(refused.value)


async def test_its_files_are_for_their_owner_only(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW)])

    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}

    assert modes == dict.fromkeys(("store.db", "store.db-shm", "store.db-wal", "store.db.lock"), 0o600)
    await store.close()


@pytest.mark.parametrize("durability", ["process", "disk"])
async def test_it_says_what_it_survives(path: Path, durability: str) -> None:
    """DUR-4."""
    store = SqliteStore(path, durability="disk" if durability == "disk" else "process")

    assert store.durability == durability


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("disk", 2)])
async def test_only_disk_syncs_at_every_commit(
    path: Path, durability: Literal["process", "disk"], synchronous: int
) -> None:
    """DUR-4."""
    database = Database(path, durability)
    database.acquire()

    with closing(database.writer()) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    database.release()


async def test_a_fence_ends_with_its_process(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW)])
    await store.renew("one", until=100)
    fence = await store.acquire(KEY, "one", now=0)
    await store.close()

    await store.open()

    with pytest.raises(LeaseLost):
        await store.commit([], fence)
    await store.acquire(KEY, "two", now=0)
    await store.close()


async def test_what_was_deleted_is_not_in_the_file_any_more(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW), PutTool(KEY, ToolRow("get_weather", b"whsec_AAAABBBBCCCC"))])
    await store.commit([DeleteSession(KEY)])
    await swept(path)
    await store.close()

    assert b"whsec_AAAABBBBCCCC" not in await asyncio.to_thread(path.read_bytes)


async def test_a_store_that_is_not_open_is_down(path: Path) -> None:
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.ping()
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.session(KEY)
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.renew("one", 1)
        await store.open()
        await store.open()
        await store.ping()
        await store.close()


async def test_a_missing_folder_is_named(path: Path) -> None:
    assert "the folder" in await refusal(path.parent / "nowhere" / "store.db")
    assert not (path.parent / "nowhere").exists()


async def test_a_second_store_in_the_same_process_is_refused(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()

    assert "is in use by another gateway" in await refusal(path)

    await store.commit([CreateSession(ROW)])
    await store.close()


def test_a_file_that_is_no_database_is_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 1000)

    assert "file is not a database" in asyncio.run(refusal(path))
    assert path.read_bytes() == b"Dear diary, " * 1000


def test_a_folder_is_no_database(path: Path) -> None:
    path.mkdir()

    assert str(path) in asyncio.run(refusal(path))


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    execute(path, "CREATE TABLE bookmarks (url TEXT)")

    assert "is a database of another program" in await refusal(path)
    assert execute(path, "SELECT count(*) FROM sqlite_schema") == 1


async def test_a_newer_file_is_left_alone(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    execute(path, "PRAGMA user_version = 99")

    assert "was written by a newer version of the gateway (schema 99;" in await refusal(path)


async def test_an_older_file_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW)])
    await store.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "ALTER TABLE sessions ADD COLUMN colour TEXT"))

    await store.open()

    assert await store.session(KEY) == ROW
    await store.close()
    assert execute(path, "PRAGMA user_version") == len(schema.MIGRATIONS)
    assert execute(path, "SELECT count(colour) FROM sessions") == 0


async def test_a_step_to_a_newer_version_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with monkeypatch.context() as patched:
        broken = "CREATE TABLE half (way INTEGER); INSERT INTO nowhere VALUES (1)"
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        assert "no such table: nowhere" in await refusal(path)

    assert execute(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'") == 0
    await store.open()
    await store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE messages SET data = CAST('{' AS BLOB)",
        "UPDATE messages SET data = CAST('[]' AS BLOB)",
        'UPDATE messages SET data = CAST(\'{"role":"user"}\' AS BLOB)',
        'UPDATE messages SET data = CAST(\'{"role":"poet","content":""}\' AS BLOB)',
        "UPDATE questions SET options = CAST('1' AS BLOB)",
    ],
)
async def test_damaged_rows_are_reported_and_the_log_stays_readable(path: Path, damage: str) -> None:
    event = LoggedEvent("e", 1, "agent_start", 1, b"{}")
    question = QuestionRow("q1", "r1", "c1", "Which?", ("a", "b"))
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW), AppendMessages(KEY, (user("Hello"),)), AppendEvents(KEY, (event,))])
    await store.commit([PutQuestion(KEY, question)])
    execute(path, damage)

    with pytest.raises(StoredStateDamaged, match="cannot be read back"):
        await store.load(KEY)

    assert await store.events(KEY, 0, 10) == [event]
    assert await store.session(KEY) == ROW
    await store.close()


async def swept(path: Path) -> None:
    """Wait until nothing is left of deleted sessions."""
    async with asyncio.timeout(30):
        while execute(path, "SELECT count(*) FROM leavings"):  # noqa: ASYNC110 - the file cannot tell us
            await asyncio.sleep(0.01)
    for table in (
        "sessions",
        "settings",
        "events",
        "messages",
        "requests",
        "approvals",
        "questions",
        "tools",
        "leases",
    ):
        assert execute(path, f"SELECT count(*) FROM {table}") == 0, table


async def fill(store: SqliteStore, events: int) -> None:
    await store.commit([CreateSession(ROW), AppendMessages(KEY, (user("Hello"),) * 1200)])
    await store.acquire(KEY, "one", now=0)
    for start in range(1, events, 10_000):
        log = (LoggedEvent("e", seq, "message_delta", seq, b"x" * 100) for seq in range(start, start + 10_000))
        await store.commit([AppendEvents(KEY, tuple(log))])


async def test_deleting_a_big_session_delays_nobody(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await fill(store, events=200_000)

    longest = 0.0
    sweeping: asyncio.Task[None] | None = None
    begun = time.perf_counter()
    while sweeping is None or not sweeping.done():
        start = time.perf_counter()
        await store.commit([USAGE if sweeping else DeleteSession(KEY)])
        longest = max(longest, time.perf_counter() - start)
        sweeping = sweeping or asyncio.create_task(swept(path))
    await sweeping

    assert longest < (time.perf_counter() - begun) / 2  # in one go it would be nearly all of it
    await store.close()


async def test_what_a_deleted_session_left_is_swept_after_a_restart(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await fill(store, events=20_000)
    await asyncio.gather(store.commit([DeleteSession(KEY)]), store.close())
    assert execute(path, "SELECT count(*) FROM leavings") == 1

    await store.open()
    await swept(path)
    await store.close()
