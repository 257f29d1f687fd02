"""One effect for one Idempotency-Key, however often and over whatever connection it is sent (HTTP-11)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cmdc_gateway.errors import IdempotencyInProgress, IdempotencyMismatch
from cmdc_gateway.sessions.command import IdempotencyRecord, Reply
from cmdc_gateway.store.store import Store

KEPT_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An answer as bytes; `replayed` if it was first given to an earlier request."""

    status: int
    body: bytes
    replayed: bool = False


class Idempotency:
    """Remembers answers. Refusals are not kept: they had no effect, so a retry is a new try."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._running: dict[tuple[str, str, str], str] = {}

    async def execute(
        self,
        tenant: str,
        route: str,
        key: str | None,
        body: dict[str, Any],
        act: Callable[[IdempotencyRecord | None], Awaitable[Reply]],
    ) -> StoredResponse:
        """Act, unless this key has been answered.

        `route` names what is asked for, with all ids in it; `act` puts the Remember it gets into its transaction.

        Raises:
            IdempotencyInProgress, IdempotencyMismatch, and what `act` raises.
        """
        if key is None:
            reply = await act(None)
            return StoredResponse(reply.status, reply.body.encode())
        fingerprint = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        place = (tenant, route, key)
        running = self._running.get(place)
        if running is not None:
            raise IdempotencyInProgress if running == fingerprint else IdempotencyMismatch
        self._running[place] = fingerprint
        try:
            row = await self._store.response(tenant, route, key)
            if row is not None and row.at > self._clock() - KEPT_MS:
                if row.fingerprint != fingerprint:
                    raise IdempotencyMismatch
                return StoredResponse(row.status, row.body, replayed=True)
            reply = await act(IdempotencyRecord(tenant, route, key, fingerprint))
            return StoredResponse(reply.status, reply.body.encode())
        finally:
            del self._running[place]
