"""Sessions, and their settings."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.store.errors import SessionAlreadyExists
from cmdc_gateway.store.rows import SessionKey, SessionRow, SessionState

MAX_INTEGER: Final = (1 << 63) - 1
"""The largest integer of SQLite. Callers may pass larger ones, which no stored value exceeds."""

OF_SESSION: Final = "WHERE session = (SELECT pk FROM sessions WHERE tenant = ? AND session_id = ?)"
"""Selects the rows of a session, by its tenant and session_id."""

_SELECT = (
    "SELECT tenant, session_id, epoch, created_at, data, state, turns, tool_calls, prompts, prompt_tokens,"
    " completion_tokens, cost_usd, delivered_seq FROM sessions JOIN settings ON session = pk"
)


def find_pk(connection: sqlite3.Connection, key: SessionKey) -> int | None:
    """The `pk` of the session, None if it does not exist."""
    found = connection.execute(
        "SELECT pk FROM sessions WHERE tenant = ? AND session_id = ?", (key.tenant, key.session_id)
    ).fetchone()
    return found and found[0]


def create(connection: sqlite3.Connection, row: SessionRow) -> None:
    """Insert a session. Raises SessionAlreadyExists."""
    key = row.key
    try:
        pk = connection.execute(
            "INSERT INTO sessions (tenant, session_id, epoch, created_at, state, turns, tool_calls, prompts,"
            " prompt_tokens, completion_tokens, cost_usd, delivered_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key.tenant, key.session_id, row.epoch, row.created_at, *_mutable(row)),
        ).lastrowid
    except sqlite3.IntegrityError:
        raise SessionAlreadyExists(f"session {key.session_id!r} exists") from None
    connection.execute("INSERT INTO settings (session, data) VALUES (?, ?)", (pk, row.settings))


def put(connection: sqlite3.Connection, pk: int, row: SessionRow) -> None:
    """Update what may change of a session."""
    connection.execute(
        "UPDATE sessions SET state = ?, turns = ?, tool_calls = ?, prompts = ?, prompt_tokens = ?,"
        " completion_tokens = ?, cost_usd = ?, delivered_seq = max(delivered_seq, ?) WHERE pk = ?",
        (*_mutable(row), pk),
    )


def mark_delivered(connection: sqlite3.Connection, key: SessionKey, seq: int) -> None:
    """Raise `delivered_seq` to `seq`; never lower it."""
    connection.execute(
        "UPDATE sessions SET delivered_seq = ?1 WHERE tenant = ?2 AND session_id = ?3 AND delivered_seq < ?1",
        (seq, key.tenant, key.session_id),
    )


def delete(connection: sqlite3.Connection, pk: int) -> None:
    """Delete a session; its rows in other tables become orphans."""
    connection.execute("DELETE FROM sessions WHERE pk = ?", (pk,))
    connection.execute("INSERT INTO orphans (session) VALUES (?)", (pk,))


def find(connection: sqlite3.Connection, key: SessionKey) -> SessionRow | None:
    """The session with this key."""
    found = connection.execute(
        f"{_SELECT} WHERE tenant = ? AND session_id = ?", (key.tenant, key.session_id)
    ).fetchone()
    return found and _decode(found)


def find_page(
    connection: sqlite3.Connection,
    tenant: str,
    limit: int,
    before: tuple[int, str] | None,
    state: SessionState | None,
) -> list[SessionRow]:
    """The tenant's newest sessions, as `Store.sessions` lists them."""
    conditions: list[str] = ["tenant = ?"]
    values: list[str | int] = [tenant]
    if before:
        conditions.append("(created_at, session_id) < (?, ?)")
        values += (min(before[0], MAX_INTEGER), before[1])
    if state:
        conditions.append("state = ?")
        values.append(state)
    statement = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY created_at DESC, session_id DESC LIMIT ?"
    return [_decode(found) for found in connection.execute(statement, (*values, limit))]


def _mutable(row: SessionRow) -> tuple[str, int, int, int, int, int, float, int]:
    """The values of the columns that may change, from `state` to `delivered_seq`."""
    return (
        row.state,
        row.turns,
        row.tool_calls,
        row.prompts,
        row.usage.prompt_tokens,
        row.usage.completion_tokens,
        row.cost_usd,
        row.delivered_seq,
    )


def _decode(found: tuple[Any, ...]) -> SessionRow:
    (
        tenant,
        session_id,
        epoch,
        created_at,
        settings,
        state,
        turns,
        tool_calls,
        prompts,
        input_tokens,
        output_tokens,
        cost_usd,
        delivered_seq,
    ) = found
    return SessionRow(
        SessionKey(tenant, session_id),
        epoch,
        created_at,
        settings,
        state,
        turns,
        tool_calls,
        prompts,
        TokenUsage(input_tokens, output_tokens),
        cost_usd,
        delivered_seq,
    )
