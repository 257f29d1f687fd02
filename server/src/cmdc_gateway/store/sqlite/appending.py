"""The commonest commit of all: what comes next in a session's log, and nothing else.

Nobody else writes to the file, so where a log ends need not be asked of it each time: the connection that writes
remembers it until something else happens to the session. Every SQL statement gives up Python's lock and has to get it
back from a busy event loop, so that one statement for each session would cost more than all else here together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from cmdc_gateway.store.store import AppendEvents, Fence, FenceLost, SessionKey

_ROWS = 64

_Row = tuple[int, int, str, int, bytes]


@dataclass(slots=True)
class _End:
    """Of a session's log, and the token of the fence that holds it."""

    token: int
    pk: int
    epoch: str
    seq: int


class WritingConnection(sqlite3.Connection):
    """The connection that writes; it remembers where logs end that are appended to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ends: dict[SessionKey, _End] = {}

    def forget(self, key: SessionKey) -> None:
        """Something else than an append is about to happen to this session."""
        self._ends.pop(key, None)

    def forget_all(self) -> None:
        """Something was undone."""
        self._ends.clear()

    def end(self, fence: Fence) -> _End:
        """Where the log of the session ends. Raises FenceLost."""
        end = self._ends.get(fence.key)
        if end is None or end.token != fence.token:
            found = self.execute(
                "SELECT token, pk, epoch, max(trimmed, ifnull((SELECT max(seq) FROM events WHERE session = pk), 0))"
                " FROM sessions JOIN leases ON session = pk WHERE tenant = ? AND session_id = ? AND token = ?",
                (fence.key.tenant, fence.key.session_id, fence.token),
            ).fetchone()
            if found is None:
                raise FenceLost(f"session {fence.key.session_id!r} has another owner, or none")
            end = self._ends[fence.key] = _End(*found)
        return end


@dataclass(slots=True)
class Append:
    """A job: what comes next in the log of the session that this fence holds. Never changed."""

    write: AppendEvents
    fence: Fence

    def __call__(self, connection: WritingConnection) -> None:
        append_all(connection, (self,))


def append_all(connection: WritingConnection, appends: Iterable[Append]) -> None:
    """Append to many logs at once. Raises FenceLost or ValueError, where one cannot be appended to, as `commit` does."""
    rows: list[_Row] = []
    for append in appends:
        end = connection.end(append.fence)
        append.write.must_follow(end.epoch, end.seq)
        end.seq += len(append.write.events)
        rows += [(end.pk, event.seq, event.name, event.at, event.data) for event in append.write.events]
    insert(connection, rows)


def insert(connection: sqlite3.Connection, rows: Sequence[_Row]) -> None:
    """Put events into the file."""
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        connection.execute(_insertion(len(some)), tuple(chain.from_iterable(some)))


@cache
def _insertion(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?)"] * rows)
    return "INSERT INTO events (session, seq, name, at, data) VALUES " + values  # noqa: S608 - nothing but question marks
