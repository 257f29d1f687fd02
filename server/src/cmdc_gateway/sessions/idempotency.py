"""Idempotency keys: one effect per key, however often and over whichever transport a request is sent (HTTP-11)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cmdc_gateway.errors import IdempotencyInProgress, IdempotencyMismatch
from cmdc_gateway.sessions.command import IdempotencyRecord, Reply
from cmdc_gateway.store.store import Store

RETENTION_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An encoded response; `replayed` if it was first sent to an earlier request."""

    status: int
    body: bytes
    replayed: bool = False


class Idempotency:
    """Stores and replays responses. Errors are not stored: they had no effect, so a retry is a new attempt."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._running: dict[tuple[str, str, str], str] = {}

    async def execute(
        self,
        tenant: str,
        route: str,
        idempotency_key: str | None,
        body: dict[str, Any],
        act: Callable[[IdempotencyRecord | None], Awaitable[Reply]],
    ) -> StoredResponse:
        """Call `act`, or return the response stored under this key.

        `route` identifies the operation, including all ids in its path. `act` must write the record it receives in the
        transaction of its effect.

        Raises:
            IdempotencyInProgress: the first request with this key is still running.
            IdempotencyMismatch: this key was used with another body.
            Exception: whatever `act` raises.
        """
        if idempotency_key is None:
            reply = await act(None)
            return StoredResponse(reply.status, reply.body.encode())
        fingerprint = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        scope = (tenant, route, idempotency_key)
        running = self._running.get(scope)
        if running is not None:
            raise IdempotencyInProgress if running == fingerprint else IdempotencyMismatch
        self._running[scope] = fingerprint
        try:
            row = await self._store.response(tenant, route, idempotency_key)
            if row is not None and row.at > self._clock() - RETENTION_MS:
                if row.fingerprint != fingerprint:
                    raise IdempotencyMismatch
                return StoredResponse(row.status, row.body, replayed=True)
            reply = await act(IdempotencyRecord(tenant, route, idempotency_key, fingerprint))
            return StoredResponse(reply.status, reply.body.encode())
        finally:
            del self._running[scope]
