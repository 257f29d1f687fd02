"""The audit log: who decided what, in sessions and about the server itself.

Decisions in a session are recorded in the transaction of the decision, by `UnitOfWork.audit` and the registry. Changes
of the server's API keys take effect even while the store is unavailable; `AuditLog` records them as soon as it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.rows import AuditRow, SessionKey
from cmdc_gateway.store.store import Store
from cmdc_gateway.store.writes import AppendAudit

_RETRY_SECONDS = 1.0
_SERVER = SessionKey("", "")

_log = structlog.get_logger(__name__)


def audit_row(
    key: SessionKey, key_id: str, at: int, action: str, digest: str = "", *, subject: str = "", **detail: Any
) -> AuditRow:
    """An audit row about a session. It must not contain payload: content is identified by its digest."""
    return AuditRow(at, key.tenant, key.session_id, key_id, action, subject, digest, dumps(detail))


class AuditLog:
    """Records decisions about the server."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._pending: list[AuditRow] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def record(self, action: str, **detail: Any) -> None:
        """Queue a row; rows are written in call order, with retries while the store is unavailable."""
        self._pending.append(audit_row(_SERVER, "", self._clock(), action, **detail))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Write the pending rows with a last attempt; rows that cannot be written are logged as an error."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        while self._pending:
            rows, self._pending = self._pending, []
            try:
                await self._store.commit([AppendAudit(row) for row in rows])
            except StoreUnavailable as failure:
                self._pending = rows + self._pending
                if self._closing.is_set():
                    _log.error("audit_incomplete", missing=[row.action for row in self._pending])
                    return
                _log.warning("audit_delayed", reason=str(failure))
                await self._until_closing(_RETRY_SECONDS)

    async def _until_closing(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
