"""The fast path for appended events: a journal in front of the `events` table.

Most commits append a few events to the log of one leased session and do nothing else. Written straight to `events`, the
text deltas of five hundred sessions would dirty five hundred pages per transaction, and all of them would go through the
write-ahead log. Instead, a transaction inserts the events of all its appends as one row of the table `journal`, in order
of arrival. They are *flushed* later: moved to `events`, many events to a row.

States of an event: *appended* (in the journal row of the open transaction), *committed* (that transaction succeeded),
*moved* (an open transaction inserted it into `events`), *flushed* (that transaction succeeded too; the event leaves
memory). From append to flush the event is also in memory, in the `_Log` of its session. The file keeps journal rows
until all of their events are flushed.

When events are flushed:
- All events of one session, before any other job touches the session (`flush`). So the rest of the store's SQL needs to
  know nothing of the journal.
- All events, a few sessions per transaction (`flush_step`), once the journal is full or a second old. Its rows are
  deleted with the last step, so appends and other jobs may come between the steps.

Who may touch what: the writer thread alone calls the methods, but for `unflushed`, which any thread may call. The lock
protects what `unflushed` reads: `_logs`, and `events` and `committed` of each log. Lists only grow at the end within a
transaction, past `committed`, so growing them needs no lock; removing from them does.

Invariants:
- `_Log.last_seq` and `token` are exact, or `last_seq` is _UNKNOWN, because another job may have changed the log or the
  lease. Then the next append reads them from the file. No other process writes to the file.
- `moved` and `committed` never exceed `len(events)`. Events are removed from memory only when their flush has committed,
  hence a reader that asks `unflushed` before it begins its snapshot of the file misses no event.
- Seqs in `events` and in the journal may overlap after a crash, and while a flush is in progress; readers and `reload`
  drop duplicates by seq.

On failure: `roll_back` restores the in-memory state to the last `begin_job`; the journal rows are undone by SQLite. If the
transaction fails, the connection is closed, `discard` drops what was not committed, so that it is never shown, and
`reload` rebuilds everything from the file on the next connection. `reload` does not write: the disk may be full.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.errors import LeaseLost
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.sqlite.packing import pack, unpack
from cmdc_gateway.store.sqlite.tables import events as events_table
from cmdc_gateway.store.sqlite.tables.events import LAST_SEQ
from cmdc_gateway.store.store import Lease
from cmdc_gateway.store.writes import AppendEvents

MAX_ROWS = 1_000
MAX_BYTES = 2 << 20
MAX_SECONDS = 1.0
"""The journal is flushed once it has this many rows or bytes, or is this old."""

_MIN_LOGS_PER_STEP = 32
_MAX_STEPS = 16
"""A flush takes no more steps than this: new events arrive between them."""

_UNKNOWN = -1
_NO_TOKEN = -1


class WritingConnection(sqlite3.Connection):
    """The connection of the writer, with the state that belongs to it."""

    journal: AppendJournal
    may_have_orphans = True


@dataclass(slots=True)
class Append:
    """A job that appends events to the log of the leased session, and nothing else. Immutable; not frozen, for speed."""

    write: AppendEvents
    lease: Lease

    def __call__(self, connection: WritingConnection) -> None:
        connection.journal.append(connection, (self,))


@dataclass(slots=True)
class _Log:
    """The end of one session's log: its last seq, and the events that are not flushed.

    The first `committed` of `events` may be shown to readers; the first `moved` are in the table `events`, if the current
    transaction commits.
    """

    token: int
    pk: int
    epoch: str
    last_seq: int
    events: list[LoggedEvent] = field(default_factory=list[LoggedEvent])
    committed: int = 0
    moved: int = 0


@dataclass(slots=True)
class _Flush:
    """A flush in progress: the sessions that remain, and the journal rows that are deleted with the last of them."""

    keys: list[SessionKey]
    keys_per_step: int
    last_id: int
    rows: int
    size: int


class AppendJournal:
    """The journal of one file. What a transaction does to it counts once `commit` is called."""

    def __init__(self) -> None:
        self.rows: int = 0
        self._size: int = 0
        self._last_id = 0
        self._logs: dict[SessionKey, _Log] = {}
        self._changed: dict[SessionKey, _Log] = {}
        self._undo: list[tuple[_Log, int, int]] = []  # logs with their `moved` and `last_seq` before
        self._flush: _Flush | None = None
        self._started_at = 0.0
        self._retry_at = 0.0
        self._lock = threading.Lock()

    @property
    def is_due(self) -> bool:
        """Whether the next step of a flush is due."""
        now = time.monotonic()
        if not self.rows or now < self._retry_at:
            return False
        is_full = self.rows >= MAX_ROWS or self._size >= MAX_BYTES
        return self._flush is not None or is_full or now - self._started_at >= MAX_SECONDS

    def unflushed(self, key: SessionKey) -> list[LoggedEvent]:
        """The committed events at the end of a session's log that may not be in the table `events`."""
        with self._lock:
            log = self._logs.get(key)
            return log.events[: log.committed] if log else []

    # -- within a transaction ------------------------------------------------------------------------------------------

    def append(self, connection: sqlite3.Connection, appends: Iterable[Append]) -> None:
        """Apply all appends, or none of them. Raises LeaseLost or ValueError, as `Store.commit` does."""
        grown: dict[SessionKey, tuple[_Log, int, list[LoggedEvent]]] = {}
        parts: list[bytes] = []
        for append in appends:
            key, events = append.lease.key, append.write.events
            known = grown.get(key)
            if known is None or known[0].token != append.lease.token:
                known = (*self._log(connection, append.lease), list[LoggedEvent]())
            log, last_seq, added = known
            append.write.check_continues(log.epoch, last_seq)
            added += events
            grown[key] = log, last_seq + len(events), added
            parts.append(pack(log.pk, events))
        packed = b"".join(parts)
        last_id = connection.execute("INSERT INTO journal (packed) VALUES (?)", (packed,)).lastrowid
        assert last_id is not None
        if not self.rows:
            self._started_at = time.monotonic()
        self._last_id = last_id
        self.rows += 1
        self._size += len(packed)
        for key, (log, last_seq, added) in grown.items():
            log.last_seq = last_seq
            log.events += added
            self._logs[key] = self._changed[key] = log

    def flush(self, connection: sqlite3.Connection, key: SessionKey) -> None:
        """Move the session's events to the table `events`. The caller is about to change the session."""
        log = self._logs.get(key)
        if log is not None:
            self._move(connection, [key])
            log.last_seq = _UNKNOWN

    def flush_step(self, connection: sqlite3.Connection) -> None:
        """Move the events of a few sessions; with the last of them, delete the journal rows that were moved."""
        if self._flush is None:
            keys = [key for key, log in self._logs.items() if log.events]
            keys_per_step = max(_MIN_LOGS_PER_STEP, len(keys) // _MAX_STEPS + 1)
            self._flush = _Flush(keys, keys_per_step, self._last_id, self.rows, self._size)
            self._started_at = time.monotonic()
        keys, keys_per_step = self._flush.keys, self._flush.keys_per_step
        self._move(connection, [key for key in keys[-keys_per_step:] if key in self._logs])
        del keys[-keys_per_step:]
        if not keys:
            connection.execute("DELETE FROM journal WHERE id <= ?", (self._flush.last_id,))
            self.rows -= self._flush.rows
            self._size -= self._flush.size
            self._flush = None

    def postpone(self) -> None:
        """Retry a flush that failed after a pause."""
        self._retry_at = time.monotonic() + MAX_SECONDS

    def _move(self, connection: sqlite3.Connection, keys: Iterable[SessionKey]) -> None:
        logs = [(key, self._logs[key]) for key in keys]
        events_table.insert(connection, [(log.pk, log.events[log.moved :]) for _, log in logs])
        for key, log in logs:
            self._undo.append((log, log.moved, log.last_seq))
            log.moved = len(log.events)
            self._changed[key] = log

    def _log(self, connection: sqlite3.Connection, lease: Lease) -> tuple[_Log, int]:
        """The log of the leased session, and its last seq. Raises LeaseLost."""
        log = self._logs.get(lease.key)
        if log is not None and log.token == lease.token and log.last_seq != _UNKNOWN:
            return log, log.last_seq
        found = connection.execute(
            f"SELECT token, pk, epoch, {LAST_SEQ}"
            " FROM sessions JOIN leases ON session = pk WHERE tenant = ? AND session_id = ? AND token = ?",
            (lease.key.tenant, lease.key.session_id, lease.token),
        ).fetchone()
        if found is None:
            raise LeaseLost(f"the lease of session {lease.key.session_id!r} is stale")
        if log is None:
            log = _Log(*found)
        else:  # it may hold events that are not in `events` yet, after a reload for example
            log.token, log.pk, log.epoch, log.last_seq = found
            if len(log.events) > log.moved:
                log.last_seq = max(log.last_seq, log.events[-1].seq)
        return log, log.last_seq

    def begin_job(self) -> None:
        """Set the point to which `roll_back` returns."""
        self._undo.clear()

    def roll_back(self) -> None:
        """Undo what was done since `begin_job`. SQLite has already rolled the file back."""
        for log, moved, last_seq in reversed(self._undo):
            log.moved, log.last_seq = moved, last_seq
        self._undo.clear()

    # -- after it ------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make the changes of the transaction final. SQLite has already committed it."""
        with self._lock:
            for key, log in self._changed.items():
                if log.moved:
                    del log.events[: log.moved]
                    log.moved = 0
                log.committed = len(log.events)
                if not log.events and log.last_seq == _UNKNOWN:
                    self._logs.pop(key, None)
        self._changed.clear()
        self._undo.clear()

    def discard(self) -> None:
        """Drop what was not committed, because the connection is lost. What was committed can still be read."""
        with self._lock:
            for log in self._changed.values():
                del log.events[log.committed :]
        self._changed.clear()
        self._undo.clear()

    def reload(self, connection: sqlite3.Connection) -> None:
        """Replace the in-memory state by that of the file, for a new connection. Writes nothing."""
        events_by_pk: dict[int, list[LoggedEvent]] = {}
        self._size = self._last_id = self.rows = 0
        for row_id, packed in connection.execute("SELECT id, packed FROM journal ORDER BY id"):
            self.rows += 1
            self._size += len(packed)
            self._last_id = row_id
            for pk, event in unpack("", packed):
                events_by_pk.setdefault(pk, []).append(event)
        logs: dict[SessionKey, _Log] = {}
        for pk, events in events_by_pk.items():
            found = connection.execute(
                f"SELECT tenant, session_id, epoch, {LAST_SEQ} FROM sessions WHERE pk = ?", (pk,)
            ).fetchone()
            if found is not None:  # else the session was deleted
                tenant, session_id, epoch, last_seq = found
                unflushed = [replace(event, epoch=epoch) for event in events if event.seq > last_seq]
                logs[SessionKey(tenant, session_id)] = _Log(
                    _NO_TOKEN, pk, epoch, _UNKNOWN, unflushed, committed=len(unflushed)
                )
        with self._lock:
            self._logs = logs
        self._changed.clear()
        self._undo.clear()
        self._flush = None
        self._started_at = time.monotonic()
