"""The requests of each session."""

from __future__ import annotations

import sqlite3
from typing import Any

from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.store.rows import RequestRow, SessionKey
from cmdc_gateway.store.sqlite.tables.sessions import OF_SESSION

_SELECT = (
    "SELECT request_id, position, key_id, text, status, first_seq, last_seq, steps, calls, prompt_tokens,"
    " completion_tokens, cost_usd FROM requests"
)


def put(connection: sqlite3.Connection, pk: int, row: RequestRow) -> None:
    """Insert or replace a request. Raises ValueError if another request has its position."""
    values = (
        row.position,
        row.key_id,
        row.text,
        row.status,
        row.first_seq,
        row.last_seq,
        row.steps,
        row.calls,
        row.usage.prompt_tokens,
        row.usage.completion_tokens,
        row.cost_usd,
        pk,
        row.request_id,
    )
    try:
        # Not an upsert: with two unique constraints, it could not say which of them is violated.
        updated = connection.execute(
            "UPDATE requests SET position = ?, key_id = ?, text = ?, status = ?, first_seq = ?, last_seq = ?, steps = ?,"
            " calls = ?, prompt_tokens = ?, completion_tokens = ?, cost_usd = ? WHERE session = ? AND request_id = ?",
            values,
        ).rowcount
        if not updated:
            connection.execute(
                "INSERT INTO requests (position, key_id, text, status, first_seq, last_seq, steps, calls, prompt_tokens,"
                " completion_tokens, cost_usd, session, request_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
    except sqlite3.IntegrityError:
        raise ValueError(f"position {row.position} of request {row.request_id!r} is in use") from None


def find(connection: sqlite3.Connection, key: SessionKey, request_id: str) -> RequestRow | None:
    """The request with this id."""
    found = connection.execute(
        f"{_SELECT} {OF_SESSION} AND request_id = ?", (key.tenant, key.session_id, request_id)
    ).fetchone()
    return found and _decode(found)


def find_resumable(connection: sqlite3.Connection, key: SessionKey) -> tuple[RequestRow, ...]:
    """The requests that are not done and the newest one that is, ordered by position."""
    session = (key.tenant, key.session_id)
    unfinished = connection.execute(f"{_SELECT} {OF_SESSION} AND status <> 'done'", session).fetchall()
    newest_done = connection.execute(
        f"{_SELECT} {OF_SESSION} AND status = 'done' ORDER BY position DESC LIMIT 1", session
    ).fetchall()
    return tuple(sorted(map(_decode, unfinished + newest_done), key=lambda request: request.position))


def find_last_position(connection: sqlite3.Connection, key: SessionKey) -> int:
    """The highest position of a request of the session, 0 without one."""
    (position,) = connection.execute(
        f"SELECT ifnull(max(position), 0) FROM requests {OF_SESSION}", (key.tenant, key.session_id)
    ).fetchone()
    return position


def find_unfinished_sessions(connection: sqlite3.Connection) -> list[SessionKey]:
    """The sessions that have a request that is not done."""
    statement = (
        "SELECT tenant, session_id FROM sessions WHERE pk IN (SELECT session FROM requests WHERE status <> 'done')"
    )
    return [SessionKey(*found) for found in connection.execute(statement)]


def _decode(found: tuple[Any, ...]) -> RequestRow:
    *columns, input_tokens, output_tokens, cost_usd = found
    return RequestRow(*columns, usage=TokenUsage(input_tokens, output_tokens), cost_usd=cost_usd)
