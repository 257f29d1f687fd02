"""The readable side of a session: what can be read without its actor."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.state import SessionSnapshot
from cmdc_gateway.store.rows import RequestRow, SessionKey
from cmdc_gateway.store.store import Store
from cmdc_gateway.store.writes import MarkDelivered

SpawnBestEffort = Callable[[Coroutine[Any, Any, None]], None]


class SessionView:
    """A session's event log and its newest committed snapshot.

    The actor replaces `snapshot` after each commit. A view needs neither the lease nor the actor.
    """

    def __init__(
        self, key: SessionKey, log: EventLog, snapshot: SessionSnapshot, store: Store, spawn: SpawnBestEffort
    ) -> None:
        """`spawn` starts a commit that may be lost."""
        self.key = key
        self.log = log
        self.snapshot = snapshot
        self._store = store
        self._spawn = spawn
        self._delivered_seq = 0

    def start_position(self) -> int:
        """The seq after which a reader without a cursor starts (SSE-5)."""
        snapshot = self.snapshot
        if snapshot.active is not None:
            return snapshot.active.first_seq - 1
        done = snapshot.newest_done
        delivered = max(self._delivered_seq, snapshot.row.delivered_seq)
        if not snapshot.queue and done is not None and done.last_seq > delivered:
            return done.first_seq - 1
        return self.log.last_seq

    def mark_delivered(self, seq: int) -> None:
        """Record that the terminal event `seq` was written to an SSE reader, so that its run is not replayed (SSE-5)."""
        if seq > self._delivered_seq:
            self._delivered_seq = seq
            self._spawn(self._store.commit([MarkDelivered(self.key, seq)]))

    async def request(self, request_id: str) -> RequestRow | None:
        """The current row of a request, or None if the session has no such request."""
        snapshot = self.snapshot
        for row in (snapshot.active, snapshot.newest_done, *snapshot.queue):
            if row is not None and row.request_id == request_id:
                return row
        return await self._store.request(self.key, request_id)
