"""The audit trail in the file: nobody changes it, and it can be read while a gateway is at work."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from cmdc_gateway.store.sqlite import SqliteStore, schema
from cmdc_gateway.store.sqlite.audit import read_audit
from cmdc_gateway.store.store import AppendAudit, AuditRow, StoreUnavailable

ROW = AuditRow(1_700_000_000_000, "acme", "s1", "key_1", "approved", "apr_1", "d" * 64, b"{}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    await store.commit([AppendAudit(ROW)])
    yield store
    await store.close()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE trail SET key_id = 'key_2'", "DELETE FROM trail", "REPLACE INTO trail SELECT * FROM trail WHERE n = 1"],
)
async def test_what_is_in_the_trail_stays_as_it_is(store: SqliteStore, path: Path, statement: str) -> None:
    """Not even SQL of ours can change it by mistake."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA recursive_triggers = ON")
        with pytest.raises(sqlite3.IntegrityError, match="the audit trail is only ever added to"):
            connection.execute(statement)

    assert await store.audit(0, 10) == [(1, ROW)]


async def test_it_is_read_while_a_gateway_has_the_file(store: SqliteStore, path: Path) -> None:
    more = [replace(ROW, at=n) for n in range(2500)]
    await store.commit([AppendAudit(row) for row in more])

    assert list(read_audit(path)) == list(enumerate([ROW, *more], start=1))
    assert list(read_audit(path, after=2500)) == [(2501, more[-1])]
    await store.commit([AppendAudit(ROW)])


async def test_it_is_read_from_a_file_that_nobody_has(store: SqliteStore, path: Path) -> None:
    await store.close()

    assert list(read_audit(path)) == [(1, ROW)]


def test_a_file_that_is_none_of_ours_is_refused_and_left_as_it_was(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no store at"):
        list(read_audit(path))
    assert not path.exists()

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreUnavailable, match="is a database of another program"):
        list(read_audit(path))


async def test_a_file_of_an_older_version_is_told_to_be_brought_up_to_date(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = SqliteStore(path)
    await old.open()
    await old.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE next (n INTEGER)"))

    with pytest.raises(StoreUnavailable, match="was written by an older version of the gateway"):
        list(read_audit(path))

    store = SqliteStore(path)
    await store.open()
    await store.close()
    assert list(read_audit(path)) == []
