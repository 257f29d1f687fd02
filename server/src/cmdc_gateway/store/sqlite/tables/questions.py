"""The questions of each session."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.store.errors import StoredStateDamaged
from cmdc_gateway.store.rows import QuestionRow, SessionKey
from cmdc_gateway.store.sqlite.tables.sessions import OF_SESSION

_SELECT = "SELECT ref, request_id, call_id, question, options, status, response FROM questions"


def put(connection: sqlite3.Connection, pk: int, row: QuestionRow) -> None:
    """Insert or replace a question."""
    options = None if row.options is None else dumps(row.options)
    connection.execute(
        "INSERT INTO questions (session, ref, request_id, call_id, question, options, status, response)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (session, ref) DO UPDATE SET request_id = excluded.request_id, call_id = excluded.call_id,"
        " question = excluded.question, options = excluded.options, status = excluded.status,"
        " response = excluded.response",
        (pk, row.ref, row.request_id, row.call_id, row.question, options, row.status, row.response),
    )


def find(connection: sqlite3.Connection, key: SessionKey, ref: str) -> QuestionRow | None:
    """The question with this ref. Raises StoredStateDamaged."""
    found = connection.execute(f"{_SELECT} {OF_SESSION} AND ref = ?", (key.tenant, key.session_id, ref)).fetchone()
    return found and _decode(found)


def find_pending(connection: sqlite3.Connection, key: SessionKey) -> tuple[QuestionRow, ...]:
    """The pending questions, in the order in which they were first put. Raises StoredStateDamaged."""
    rows = connection.execute(
        f"{_SELECT} {OF_SESSION} AND status = 'pending' ORDER BY rowid", (key.tenant, key.session_id)
    )
    return tuple(_decode(found) for found in rows)


def _decode(found: tuple[Any, ...]) -> QuestionRow:
    ref, request_id, call_id, question, stored_options, status, response = found
    try:
        options = None if stored_options is None else tuple(json.loads(stored_options))
    except (ValueError, TypeError) as failure:
        raise StoredStateDamaged(f"the options of question {ref!r} cannot be decoded") from failure
    return QuestionRow(ref, request_id, call_id, question, options, status, response)
