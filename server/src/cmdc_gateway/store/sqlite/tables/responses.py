"""Stored responses to requests with an Idempotency-Key."""

from __future__ import annotations

import sqlite3

from cmdc_gateway.store.rows import StoredResponseRow

_ROWS_PER_CALL = 500


def put(connection: sqlite3.Connection, row: StoredResponseRow) -> None:
    """Insert or replace a response."""
    connection.execute(
        "REPLACE INTO responses (tenant, route, idempotency_key, fingerprint, status, body, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (row.tenant, row.route, row.idempotency_key, row.fingerprint, row.status, row.body, row.at),
    )


def find(connection: sqlite3.Connection, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None:
    """The response with this tenant, route and idempotency key."""
    found = connection.execute(
        "SELECT tenant, route, idempotency_key, fingerprint, status, body, at FROM responses"
        " WHERE tenant = ? AND route = ? AND idempotency_key = ?",
        (tenant, route, idempotency_key),
    ).fetchone()
    return found and StoredResponseRow(*found)


def forget(connection: sqlite3.Connection, before: int) -> bool:
    """Delete a limited number of responses older than `before`; return whether there may be more."""
    deleted = connection.execute(
        "DELETE FROM responses WHERE rowid IN (SELECT rowid FROM responses WHERE at < ? LIMIT ?)",
        (before, _ROWS_PER_CALL),
    ).rowcount
    return deleted == _ROWS_PER_CALL
