"""The log of each session: rows of consecutive events.

Events that are only in the journal are not in this table. Functions that read take them as `unflushed`: the caller must
have fetched them before its snapshot of the file began, so that an event that moves in between is seen twice rather than
not at all. Duplicates are dropped here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Final

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.sqlite.packing import pack, split, unpack
from cmdc_gateway.store.sqlite.tables.sessions import MAX_INTEGER
from cmdc_gateway.store.writes import AppendEvents

LAST_SEQ: Final = "max(trimmed_seq, ifnull((SELECT max(last_seq) FROM events WHERE session = pk), 0))"
"""The last seq of a session's log, within a SELECT from `sessions`."""

_ROWS_PER_INSERT = 32
_ROWS_PER_TRIM = 500
"""A commit deletes at most this many rows, so that trimming a long log does not delay the commits behind it."""


def append(connection: sqlite3.Connection, pk: int, write: AppendEvents) -> None:
    """Append to a log that has no events in the journal. Raises ValueError if the events do not continue it."""
    epoch, last_seq = connection.execute(f"SELECT epoch, {LAST_SEQ} FROM sessions WHERE pk = ?", (pk,)).fetchone()
    write.check_continues(epoch, last_seq)
    insert(connection, [(pk, write.events)])


def insert(connection: sqlite3.Connection, logs: Iterable[tuple[int, Sequence[LoggedEvent]]]) -> None:
    """Insert the next events of many sessions, each given by its `pk`.

    Many rows go into one statement, because each statement releases the GIL and must win it back from a busy event loop.
    """
    rows = [(pk, row[-1].seq, pack(pk, row)) for pk, events in logs for row in split(events)]
    for start in range(0, len(rows), _ROWS_PER_INSERT):
        batch = rows[start : start + _ROWS_PER_INSERT]
        connection.execute(_insert_statement(len(batch)), tuple(chain.from_iterable(batch)))


def trim(connection: sqlite3.Connection, pk: int, before: int) -> None:
    """Let the log begin at `before`, and delete a limited number of rows that are not part of it any more.

    `trimmed_seq` alone decides what readers see. Rows beyond the limit, and rows that also hold later events, are deleted
    by later trims.
    """
    connection.execute(
        "UPDATE sessions SET trimmed_seq = max(trimmed_seq, min(?1 - 1, ifnull("
        "(SELECT max(last_seq) FROM events WHERE session = pk), 0))) WHERE pk = ?2",
        (before, pk),
    )
    connection.execute(
        "DELETE FROM events WHERE session = ?1 AND last_seq IN (SELECT last_seq FROM events WHERE session = ?1"
        " AND last_seq <= (SELECT trimmed_seq FROM sessions WHERE pk = ?1) ORDER BY last_seq LIMIT ?2)",
        (pk, _ROWS_PER_TRIM),
    )


def find_page(
    connection: sqlite3.Connection,
    key: SessionKey,
    unflushed: Sequence[LoggedEvent],
    *,
    after: int,
    limit: int,
    max_bytes: int,
) -> list[LoggedEvent]:
    """The events after a seq, as `Store.events` returns them."""
    rows = connection.execute(
        "SELECT trimmed_seq, epoch, packed FROM sessions JOIN events ON session = pk WHERE tenant = ? AND session_id = ?"
        " AND last_seq > max(trimmed_seq, ?) ORDER BY last_seq LIMIT ?",
        (key.tenant, key.session_id, min(after, MAX_INTEGER), limit),
    )
    page: list[LoggedEvent] = []
    for event in chain(_unpacked(rows), _current(connection, key, unflushed)):
        if event.seq <= after:
            continue
        max_bytes -= len(event.data)
        if len(page) >= limit or (page and max_bytes < 0):
            break
        page.append(event)
        after = event.seq
    return page


def find_bounds(
    connection: sqlite3.Connection, key: SessionKey, unflushed: Sequence[LoggedEvent]
) -> tuple[str, int, int] | None:
    """Epoch, first and last seq of the log, None if the session does not exist."""
    found: tuple[str, int, int] | None = connection.execute(
        f"SELECT epoch, trimmed_seq + 1, {LAST_SEQ} FROM sessions WHERE tenant = ? AND session_id = ?",
        (key.tenant, key.session_id),
    ).fetchone()
    if found is None or not unflushed or unflushed[0].epoch != found[0]:
        return found
    epoch, first_seq, last_seq = found
    return epoch, first_seq, max(last_seq, unflushed[-1].seq)


def find_journaled(connection: sqlite3.Connection, key: SessionKey) -> list[LoggedEvent]:
    """The session's events in the journal of the file, some of which may be in this table too."""
    found = connection.execute(
        "SELECT pk, epoch FROM sessions WHERE tenant = ? AND session_id = ?", (key.tenant, key.session_id)
    ).fetchone()
    if found is None:
        return []
    pk, epoch = found
    rows = connection.execute("SELECT packed FROM journal ORDER BY id")
    return [event for (packed,) in rows for owner, event in unpack(epoch, packed) if owner == pk]


def _current(
    connection: sqlite3.Connection, key: SessionKey, unflushed: Sequence[LoggedEvent]
) -> Iterator[LoggedEvent]:
    """The events that are part of the session's log in this snapshot: it may have been trimmed, deleted or recreated."""
    bounds = find_bounds(connection, key, unflushed) if unflushed else None
    if bounds is not None:
        epoch, first_seq, _ = bounds
        yield from (event for event in unflushed if event.epoch == epoch and event.seq >= first_seq)


def _unpacked(rows: Iterable[tuple[int, str, bytes]]) -> Iterator[LoggedEvent]:
    for trimmed_seq, epoch, packed in rows:
        yield from (event for _, event in unpack(epoch, packed) if event.seq > trimmed_seq)


@cache
def _insert_statement(rows: int) -> str:
    values = ", ".join(["(?, ?, ?)"] * rows)
    return "INSERT INTO events (session, last_seq, packed) VALUES " + values
