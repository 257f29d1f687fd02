"""The message history of each session."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import get_args

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import Message, Role
from cmdc_gateway.store.errors import StoredStateDamaged
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.sqlite.tables.sessions import MAX_INTEGER, OF_SESSION

_ROLES = get_args(Role)


def append(connection: sqlite3.Connection, pk: int, messages: Iterable[Message]) -> None:
    """Append messages to the history."""
    (position,) = connection.execute(
        "SELECT ifnull(max(position) + 1, 0) FROM messages WHERE session = ?", (pk,)
    ).fetchone()
    connection.executemany(
        "INSERT INTO messages (session, position, data) VALUES (?, ?, ?)",
        [(pk, place, dumps(message.wire())) for place, message in enumerate(messages, start=position)],
    )


def find_page(connection: sqlite3.Connection, key: SessionKey, after: int, limit: int | None) -> list[Message]:
    """At most `limit` messages without the first `after`. Raises StoredStateDamaged."""
    rows = connection.execute(
        f"SELECT position, data FROM messages {OF_SESSION} AND position >= ? ORDER BY position LIMIT ?",
        (key.tenant, key.session_id, min(after, MAX_INTEGER), -1 if limit is None else limit),
    )
    return [_decode(key, position, data) for position, data in rows]


def _decode(key: SessionKey, position: int, data: bytes) -> Message:
    damaged = StoredStateDamaged(f"message {position} of session {key.session_id!r} cannot be decoded")
    try:
        message = Message.from_wire(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise damaged from failure
    if message.role not in _ROLES:
        raise damaged
    return message
