"""Reading everything about a session from its tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.rows import SessionKey, StoredSession
from cmdc_gateway.store.sqlite.tables import approvals, events, messages, questions, requests, sessions, tools


def load(connection: sqlite3.Connection, key: SessionKey, unflushed: Sequence[LoggedEvent]) -> StoredSession | None:
    """The session, None if it does not exist. Raises StoredStateDamaged if its rows cannot be decoded."""
    row = sessions.find(connection, key)
    bounds = events.find_bounds(connection, key, unflushed)
    if row is None or bounds is None:
        return None
    _, first_seq, last_seq = bounds
    return StoredSession(
        row=row,
        messages=tuple(messages.find_page(connection, key, 0, None)),
        requests=requests.find_resumable(connection, key),
        approvals=approvals.find_pending(connection, key),
        questions=questions.find_pending(connection, key),
        tools=tools.find_all(connection, key),
        first_seq=first_seq,
        last_seq=last_seq,
        last_position=requests.find_last_position(connection, key),
    )
