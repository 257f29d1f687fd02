"""The file: permissions, lock, format, deleted data."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage, user
from cmdc_gateway.store.errors import LeaseLost, StoredStateDamaged, StoreUnavailable
from cmdc_gateway.store.rows import QuestionRow, SessionKey, SessionRow, ToolRow, UsageRow
from cmdc_gateway.store.sqlite import SqliteStore, schema
from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.writes import (
    AddUsage,
    AppendEvents,
    AppendMessages,
    CreateSession,
    DeleteSession,
    PutQuestion,
    PutTool,
)

KEY = SessionKey("acme", "s1")
ROW = SessionRow(KEY, "e", 1, b"{}")
USAGE = AddUsage(UsageRow("acme", "key", "2026-11-22", 1, TokenUsage(), 0.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def execute(path: Path, statement: str) -> int:
    """Execute a statement on a separate connection; return the first value of its result, 0 without one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found = connection.execute(statement).fetchone()
        return found[0] if found else 0


async def open_error(path: Path, *, read_only: bool = False) -> str:
    """The message with which the store refuses to open this file."""
    with pytest.raises(StoreUnavailable) as raised:
        await SqliteStore(path).open(read_only=read_only)
    return str(raised.value)


async def test_only_the_owner_can_read_the_files(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW)])

    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}

    assert modes == dict.fromkeys(("store.db", "store.db-shm", "store.db-wal", "store.db.lock"), 0o600)
    await store.close()


@pytest.mark.parametrize("durability", ["process", "disk"])
async def test_durability_is_as_configured(path: Path, durability: str) -> None:
    """DUR-4."""
    store = SqliteStore(path, durability="disk" if durability == "disk" else "process")

    assert store.durability == durability


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("disk", 2)])
async def test_only_durability_disk_syncs_every_commit(
    path: Path, durability: Literal["process", "disk"], synchronous: int
) -> None:
    """DUR-4."""
    database = Database(path, durability)
    database.open()

    with closing(database.writer()) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    database.release()


async def test_a_lease_ends_with_its_process(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW)])
    await store.renew("one", until=100)
    lease = await store.acquire(KEY, "one", now=0)
    await store.close()

    await store.open()

    with pytest.raises(LeaseLost):
        await store.commit([], lease)
    await store.acquire(KEY, "two", now=0)
    await store.close()


async def test_deleted_data_is_overwritten_in_the_file(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW), PutTool(KEY, ToolRow("get_weather", b"whsec_AAAABBBBCCCC"))])
    await store.commit([DeleteSession(KEY)])
    await until_no_orphans(path)
    await store.close()

    assert b"whsec_AAAABBBBCCCC" not in await asyncio.to_thread(path.read_bytes)


async def test_a_store_that_is_not_open_is_unavailable(path: Path) -> None:
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.ping()
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.load(KEY)
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.renew("one", 1)
        await store.open()
        await store.open()
        await store.ping()
        await store.close()


async def test_the_error_names_a_missing_folder(path: Path) -> None:
    assert "the folder" in await open_error(path.parent / "nowhere" / "store.db")
    assert not (path.parent / "nowhere").exists()


async def test_a_file_is_locked_within_its_process_too(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()

    assert "is in use by another gateway" in await open_error(path)

    await store.commit([CreateSession(ROW)])
    await store.close()


def test_a_file_that_is_not_a_database_is_not_changed(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 1000)

    assert "file is not a database" in asyncio.run(open_error(path))
    assert path.read_bytes() == b"Dear diary, " * 1000


def test_a_folder_cannot_be_opened(path: Path) -> None:
    path.mkdir()

    assert str(path) in asyncio.run(open_error(path))


async def test_a_database_of_another_program_is_not_changed(path: Path) -> None:
    execute(path, "CREATE TABLE bookmarks (url TEXT)")

    assert "is a database of another program" in await open_error(path)
    assert execute(path, "SELECT count(*) FROM sqlite_schema") == 1


async def test_a_file_of_a_newer_version_is_rejected(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    execute(path, "PRAGMA user_version = 99")

    assert "was written by a newer version of the gateway (schema 99;" in await open_error(path)


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_file_of_a_development_version_is_rejected(path: Path, version: int, *, read_only: bool) -> None:
    execute(path, "CREATE TABLE sessions (pk INTEGER PRIMARY KEY, served INTEGER)")
    execute(path, f"PRAGMA application_id = {int.from_bytes(b'CMDC')}")
    execute(path, f"PRAGMA user_version = {version}")

    assert await open_error(path, read_only=read_only) == (
        f"{path} was written by a development version of the gateway and cannot be migrated; "
        "move it away, or name another file, and start again"
    )
    assert execute(path, "SELECT count(*) FROM sqlite_schema") == 1


def test_a_read_only_store_does_not_create_a_file(path: Path) -> None:
    assert asyncio.run(open_error(path, read_only=True)) == f"the store {path} does not exist"
    assert list(path.parent.iterdir()) == []


async def test_a_read_only_store_rejects_a_database_of_another_program(path: Path) -> None:
    execute(path, "CREATE TABLE bookmarks (url TEXT)")

    assert "is a database of another program" in await open_error(path, read_only=True)


async def test_a_read_only_store_rejects_a_file_that_was_not_migrated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE next (n INTEGER)"))

    assert "was written by an older version of the gateway" in await open_error(path, read_only=True)

    await store.open()
    await store.close()
    await store.open(read_only=True)
    await store.close()


async def test_a_file_of_an_older_version_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit([CreateSession(ROW)])
    await store.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "ALTER TABLE sessions ADD COLUMN color TEXT"))

    await store.open()

    assert await store.sessions("acme", limit=1) == [ROW]
    await store.close()
    assert execute(path, "PRAGMA user_version") == len(schema.MIGRATIONS)
    assert execute(path, "SELECT count(color) FROM sessions") == 0


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with monkeypatch.context() as patched:
        broken = "CREATE TABLE half (way INTEGER); INSERT INTO nowhere VALUES (1)"
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        assert "no such table: nowhere" in await open_error(path)

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

    with pytest.raises(StoredStateDamaged, match="cannot be decoded"):
        await store.load(KEY)

    assert await store.events(KEY, 0, 10) == [event]
    assert await store.sessions("acme", limit=1) == [ROW]
    await store.close()


async def until_no_orphans(path: Path) -> None:
    """Wait until all rows of deleted sessions are deleted."""
    async with asyncio.timeout(30):
        while execute(path, "SELECT count(*) FROM orphans"):  # noqa: ASYNC110 - a file has no event to wait for
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


async def test_deleting_a_large_session_does_not_delay_commits(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await fill(store, events=200_000)

    longest = 0.0
    deleting: asyncio.Task[None] | None = None
    begun = time.perf_counter()
    while deleting is None or not deleting.done():
        start = time.perf_counter()
        await store.commit([USAGE if deleting else DeleteSession(KEY)])
        longest = max(longest, time.perf_counter() - start)
        deleting = deleting or asyncio.create_task(until_no_orphans(path))
    await deleting

    assert longest < (time.perf_counter() - begun) / 2  # deleted in one transaction, it would be nearly all of it
    await store.close()


async def test_orphans_are_deleted_after_a_restart(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await fill(store, events=20_000)
    await asyncio.gather(store.commit([DeleteSession(KEY)]), store.close())
    assert execute(path, "SELECT count(*) FROM orphans") == 1

    await store.open()
    await until_no_orphans(path)
    await store.close()
