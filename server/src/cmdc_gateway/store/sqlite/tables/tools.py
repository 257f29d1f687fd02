"""The callback tools of each session."""

from __future__ import annotations

import sqlite3

from cmdc_gateway.store.rows import SessionKey, ToolRow
from cmdc_gateway.store.sqlite.tables.sessions import OF_SESSION


def put(connection: sqlite3.Connection, pk: int, row: ToolRow) -> None:
    """Insert or replace a tool."""
    connection.execute(
        "INSERT INTO tools (session, name, definition) VALUES (?, ?, ?)"
        " ON CONFLICT (session, name) DO UPDATE SET definition = excluded.definition",
        (pk, row.name, row.definition),
    )


def remove(connection: sqlite3.Connection, pk: int, name: str) -> None:
    """Delete the tool with this name, if there is one."""
    connection.execute("DELETE FROM tools WHERE session = ? AND name = ?", (pk, name))


def find_all(connection: sqlite3.Connection, key: SessionKey) -> tuple[ToolRow, ...]:
    """The session's tools, in the order in which they were first put."""
    rows = connection.execute(
        f"SELECT name, definition FROM tools {OF_SESSION} ORDER BY rowid", (key.tenant, key.session_id)
    )
    return tuple(ToolRow(*found) for found in rows)
