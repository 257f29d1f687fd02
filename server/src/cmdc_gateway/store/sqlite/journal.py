"""The commonest commit of all: what comes next in a session's log, and nothing else.

Each log has a place of its own in the file. Put there at once, a piece of text of each of five hundred sessions would
change five hundred pages, all of which go into the write-ahead log. So what is committed together is written together
first, in order of arrival, as one row of `journal`; later, or when anything else happens to a session, it is moved to its
place in `events`, many pieces to a row. Until then it is in memory too, where readers look for it.

Nobody else writes to the file, so where a log ends need not be asked of it each time either.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.sqlite.packing import insert_events, pack, unpack
from cmdc_gateway.store.store import AppendEvents, Lease, LeaseLost, SessionKey

MAX_ROWS = 1_000
MAX_BYTES = 2 << 20
MAX_SECONDS = 1.0
"""Once the journal has so many rows or bytes, or is so old, what is in it is moved to its place, a few logs at a time."""

_LOGS_AT_ONCE = 32
_STEPS = 16
"""It takes no more steps than that: more comes in between."""

_UNKNOWN = -1
_NOBODY = -1


class WritingConnection(sqlite3.Connection):
    """The connection that writes, the journal it writes to, and whether deleted sessions may have left something."""

    journal: AppendJournal
    may_have_leavings = True


@dataclass(slots=True)
class Append:
    """A job: what comes next in the log of the session that this fence holds. Never changed."""

    write: AppendEvents
    fence: Lease

    def __call__(self, connection: WritingConnection) -> None:
        connection.journal.append(connection, (self,))


@dataclass(slots=True)
class _Log:
    """The end of one session's log: its last seq, and what of it the file has in the journal only.

    The first `committed` of `events` may be shown; the first `settled` are in their place, as soon as this is committed.
    """

    token: int
    pk: int
    epoch: str
    last_seq: int
    events: list[LoggedEvent] = field(default_factory=list[LoggedEvent])
    committed: int = 0
    settled: int = 0


@dataclass(slots=True)
class _Round:
    """The journal is being moved: which logs are still to be, and what can be removed then."""

    keys: list[SessionKey]
    at_once: int
    last_row: int
    rows: int
    size: int


class AppendJournal:
    """What is in the journal, as the thread that writes knows it. Only `newest` is for other threads.

    What is done within a transaction counts once `committed` says that it was carried out.
    """

    def __init__(self) -> None:
        self.rows: int = 0
        self._size: int = 0
        self._last_row = 0
        self._logs: dict[SessionKey, _Log] = {}
        self._changed: dict[SessionKey, _Log] = {}
        self._settled: list[tuple[_Log, int, int]] = []
        self._round: _Round | None = None
        self._began = 0.0
        self._put_off_until = 0.0
        self._lock = threading.Lock()

    @property
    def is_due(self) -> bool:
        """Whether it is time to move some of what is in it."""
        now = time.monotonic()
        if not self.rows or now < self._put_off_until:
            return False
        full = self.rows >= MAX_ROWS or self._size >= MAX_BYTES
        return self._round is not None or full or now - self._began >= MAX_SECONDS

    def newest(self, key: SessionKey) -> list[LoggedEvent]:
        """The end of a log, as far as it is committed and was not in its place a moment ago."""
        with self._lock:
            log = self._logs.get(key)
            return log.events[: log.committed] if log else []

    # -- within a transaction ------------------------------------------------------------------------------------------

    def append(self, connection: sqlite3.Connection, appends: Iterable[Append]) -> None:
        """Add to many logs, or to none of them. Raises FenceLost or ValueError, as `Store.commit` does."""
        grown: dict[SessionKey, tuple[_Log, int, list[LoggedEvent]]] = {}
        parts: list[bytes] = []
        for append in appends:
            key, events = append.fence.key, append.write.events
            known = grown.get(key)
            if known is None or known[0].token != append.fence.token:
                known = (*self._log(connection, append.fence), list[LoggedEvent]())
            log, last_seq, more = known
            append.write.must_follow(log.epoch, last_seq)
            more += events
            grown[key] = log, last_seq + len(events), more
            parts.append(pack(log.pk, events))
        row = b"".join(parts)
        last_row = connection.execute("INSERT INTO journal (data) VALUES (?)", (row,)).lastrowid
        assert last_row is not None
        if not self.rows:
            self._began = time.monotonic()
        self._last_row = last_row
        self.rows += 1
        self._size += len(row)
        for key, (log, last_seq, more) in grown.items():
            log.last_seq = last_seq
            log.events += more
            self._logs[key] = self._changed[key] = log

    def flush(self, connection: sqlite3.Connection, key: SessionKey) -> None:
        """Move what there is of a session to its place, as something else is about to happen to it."""
        log = self._logs.get(key)
        if log is not None:
            self._move(connection, [key])
            log.last_seq = _UNKNOWN

    def flush_some(self, connection: sqlite3.Connection) -> None:
        """Move some logs to their place; after the last, remove what has been moved."""
        if self._round is None:
            keys = [key for key, log in self._logs.items() if log.events]
            at_once = max(_LOGS_AT_ONCE, len(keys) // _STEPS + 1)
            self._round = _Round(keys, at_once, self._last_row, self.rows, self._size)
            self._began = time.monotonic()
        keys, at_once = self._round.keys, self._round.at_once
        self._move(connection, [key for key in keys[-at_once:] if key in self._logs])
        del keys[-at_once:]
        if not keys:
            connection.execute("DELETE FROM journal WHERE n <= ?", (self._round.last_row,))
            self.rows -= self._round.rows
            self._size -= self._round.size
            self._round = None

    def postpone(self) -> None:
        """It could not be moved: try it again a while later."""
        self._put_off_until = time.monotonic() + MAX_SECONDS

    def _move(self, connection: sqlite3.Connection, keys: Iterable[SessionKey]) -> None:
        logs = [(key, self._logs[key]) for key in keys]
        insert_events(connection, [(log.pk, log.events[log.settled :]) for _, log in logs])
        for key, log in logs:
            self._settled.append((log, log.settled, log.last_seq))
            log.settled = len(log.events)
            self._changed[key] = log

    def _log(self, connection: sqlite3.Connection, fence: Lease) -> tuple[_Log, int]:
        """The log and its last seq. Raises FenceLost."""
        log = self._logs.get(fence.key)
        if log is not None and log.token == fence.token and log.last_seq != _UNKNOWN:
            return log, log.last_seq
        found = connection.execute(
            "SELECT token, pk, epoch, max(trimmed, ifnull((SELECT max(seq) FROM events WHERE session = pk), 0))"
            " FROM sessions JOIN leases ON session = pk WHERE tenant = ? AND session_id = ? AND token = ?",
            (fence.key.tenant, fence.key.session_id, fence.token),
        ).fetchone()
        if found is None:
            raise LeaseLost(f"session {fence.key.session_id!r} has another owner, or none")
        if log is None:
            log = _Log(*found)
        else:  # it may still hold what is only now being settled, or was read back from the journal
            log.token, log.pk, log.epoch, log.last_seq = found
            if len(log.events) > log.settled:
                log.last_seq = max(log.last_seq, log.events[-1].seq)
        return log, log.last_seq

    def begin_job(self) -> None:
        """What follows may be undone alone."""
        self._settled.clear()

    def rolled_back(self) -> None:
        """What was done since `begin_job` was undone."""
        for log, settled, last_seq in reversed(self._settled):
            log.settled, log.last_seq = settled, last_seq
        self._settled.clear()

    # -- after it ------------------------------------------------------------------------------------------------------

    def committed(self) -> None:
        """All of the transaction was carried out."""
        with self._lock:
            for key, log in self._changed.items():
                if log.settled:
                    del log.events[: log.settled]
                    log.settled = 0
                log.committed = len(log.events)
                if not log.events and log.last_seq == _UNKNOWN:
                    self._logs.pop(key, None)
        self._changed.clear()
        self._settled.clear()

    def discard(self) -> None:
        """The connection is lost, and with it what was not committed. What was can still be read."""
        with self._lock:
            for log in self._changed.values():
                del log.events[log.committed :]
        self._changed.clear()
        self._settled.clear()

    def read_back(self, connection: sqlite3.Connection) -> None:
        """Begin with a new connection: know what the file says, and no more. Nothing is written: the disk may be full."""
        logs: dict[int, list[LoggedEvent]] = {}
        self._size = self._last_row = self.rows = 0
        for number, data in connection.execute("SELECT n, data FROM journal ORDER BY n"):
            self.rows += 1
            self._size += len(data)
            self._last_row = number
            for pk, event in unpack("", data):
                logs.setdefault(pk, []).append(event)
        known: dict[SessionKey, _Log] = {}
        for pk, events in logs.items():
            found = connection.execute(
                "SELECT tenant, session_id, epoch,"
                " max(trimmed, ifnull((SELECT max(seq) FROM events WHERE session = pk), 0)) FROM sessions WHERE pk = ?",
                (pk,),
            ).fetchone()
            if found is not None:  # else it was deleted since
                tenant, session_id, epoch, last_seq = found
                left = [replace(event, epoch=epoch) for event in events if event.seq > last_seq]
                known[SessionKey(tenant, session_id)] = _Log(_NOBODY, pk, epoch, _UNKNOWN, left, committed=len(left))
        with self._lock:
            self._logs = known
        self._changed.clear()
        self._settled.clear()
        self._round = None
        self._began = time.monotonic()
