"""The audit trail: what is noted of a decision, and decisions about the server itself.

What is decided in a session is noted in the transaction of the decision, by `Draft.note` and the registry. The keys
of the server are no matter of its store: a change of them holds at once, store or no store, and `Trail` sees to it that
the trail has it as soon as the store takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.store.store import AppendAudit, AuditRow, SessionKey, Store, StoreUnavailable

_RETRY_SECONDS = 1.0
_SERVER = SessionKey("", "")

_log = structlog.get_logger(__name__)


def audit_row(
    key: SessionKey, key_id: str, at: int, action: str, digest: str = "", *, subject: str = "", **detail: Any
) -> AuditRow:
    """A row of the trail about a session. No payload belongs in it: what was decided on is named by its digest."""
    return AuditRow(at, key.tenant, key.session_id, key_id, action, subject, digest, dumps(detail))


class AuditLog:
    """Notes what is decided about the server."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[AuditRow] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def record(self, action: str, **detail: Any) -> None:
        """Add a row now, or as soon as the store takes it; in the order of the calls."""
        self._waiting.append(audit_row(_SERVER, "", self._clock(), action, **detail))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Wait for a write under way, or try once more; what the store refuses even then is told in the log."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        while self._waiting:
            rows, self._waiting = self._waiting, []
            try:
                await self._store.commit([AppendAudit(row) for row in rows])
            except StoreUnavailable as failure:
                self._waiting = rows + self._waiting
                if self._closing.is_set():
                    _log.error("trail_incomplete", missing=[row.action for row in self._waiting])
                    return
                _log.warning("trail_waits", reason=str(failure))
                await self._until_closing(_RETRY_SECONDS)

    async def _until_closing(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
