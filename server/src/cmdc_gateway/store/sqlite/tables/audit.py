"""The audit log. Triggers of the schema keep it append-only."""

from __future__ import annotations

import sqlite3

from cmdc_gateway.store.rows import AuditRow
from cmdc_gateway.store.sqlite.tables.sessions import MAX_INTEGER


def append(connection: sqlite3.Connection, row: AuditRow) -> None:
    """Append a row."""
    connection.execute(
        "INSERT INTO audit (at, tenant, session_id, key_id, action, subject, digest, detail)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (row.at, row.tenant, row.session_id, row.key_id, row.action, row.subject, row.digest, row.detail),
    )


def find_page(connection: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, AuditRow]]:
    """At most `limit` rows with a number above `after`, in order, each with its number."""
    rows = connection.execute(
        "SELECT id, at, tenant, session_id, key_id, action, subject, digest, detail FROM audit"
        " WHERE id > ? ORDER BY id LIMIT ?",
        (min(after, MAX_INTEGER), limit),
    )
    return [(number, AuditRow(*row)) for number, *row in rows]
