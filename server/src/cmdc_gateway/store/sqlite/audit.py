"""Reading the audit trail of a file that a gateway may be using at this moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.reading import Snapshot
from cmdc_gateway.store.sqlite.schema import must_be_ours
from cmdc_gateway.store.store import AuditRow, StoreUnavailable

_PAGE = 1000


def read_audit(path: Path, after: int = 0) -> Iterator[tuple[int, AuditRow]]:
    """The rows of the trail, in order. Nothing is locked, made or migrated: a gateway may have the file.

    Raises:
        StoreDown: there is no such file, it cannot be read, or is of another program or version.
    """
    database = Database(path, "process")
    if not database.path.exists():
        raise StoreUnavailable(f"there is no store at {path}")
    try:
        with closing(database.reader()) as connection:
            must_be_ours(connection, path)
            while page := Snapshot(connection).audit(after, _PAGE):
                yield from page
                after = page[-1][0]
    except sqlite3.Error as failure:
        raise database.down(failure) from failure
