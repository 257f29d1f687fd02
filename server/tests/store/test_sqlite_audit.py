import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from cmdc_gateway.store.rows import AuditRow
from cmdc_gateway.store.sqlite import SqliteStore
from cmdc_gateway.store.writes import AppendAudit

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
    ["UPDATE audit SET key_id = 'key_2'", "DELETE FROM audit", "REPLACE INTO audit SELECT * FROM audit WHERE id = 1"],
)
async def test_the_audit_log_cannot_be_changed_even_with_sql(store: SqliteStore, path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA recursive_triggers = ON")
        with pytest.raises(sqlite3.IntegrityError, match="the audit log is append-only"):
            connection.execute(statement)

    assert await store.audit(0, 10) == [(1, ROW)]
