"""The interface of a store. `cmdc_gateway.testing.stores` is its contract as tests.

A store keeps rows and knows no rules: callers decide what is written, and in which order. Its central promise is
`commit`: all changes of a call are applied, or none, and they are durable (as `durability` says) when it returns. A store
reads no clock: times are milliseconds since 1970 and come in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message
from cmdc_gateway.store.rows import (
    ApprovalRow,
    AuditRow,
    QuestionRow,
    RequestRow,
    SessionKey,
    SessionRow,
    SessionState,
    StoredResponseRow,
    StoredSession,
    UsageRow,
)
from cmdc_gateway.store.writes import (
    Write,
)

Durability = Literal["memory", "process", "disk"]
"""`memory`: lost with the process. `process`: survives `kill -9`. `disk`: survives power loss too (DUR-4)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a session, proven by a fencing token.

    Tokens increase over the whole store with every `acquire`. Only the newest lease of a session is valid.
    """

    key: SessionKey
    token: int


class Store(Protocol):
    """Keeps sessions. Every method but `durability` may raise StoreUnavailable."""

    @property
    def durability(self) -> Durability: ...

    async def open(self, *, read_only: bool = False) -> None:
        """Open the store, and create it if it does not exist. Calling it twice is harmless.

        With `read_only`, nothing is created, locked or changed, so this works while a gateway has the store open. Only
        the methods under "reading" may then be called; all others raise StoreUnavailable.

        Raises:
            StoreUnavailable: the store cannot be opened, or is in use. The message is written for the operator.
        """
        ...

    async def close(self) -> None:
        """Finish the commits that were called, then release all resources. Calling it twice is harmless."""
        ...

    async def ping(self) -> None:
        """Return if a commit would succeed now; raise StoreUnavailable if not."""
        ...

    # -- leases: one owner at a time writes to a session ---------------------------------------------------------------

    async def renew(self, owner: str, until: int) -> None:
        """Extend (or shorten) all leases of this owner: they expire at `until`."""
        ...

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        """Lease an existing session to the owner, and invalidate all earlier leases of it. Durable on return.

        Raises:
            KeyError: the session does not exist.
            OwnedElsewhere: another owner holds the session, and its leases have not expired at `now`.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """End the lease. No effect if it is stale."""
        ...

    # -- writing -------------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], lease: Lease | None = None) -> None:
        """Apply all writes in order, or none of them; durable on return.

        With a lease, the commit succeeds only if the lease is valid. Commits are applied in the order of the calls.
        Cancelling the call does not undo it.

        Raises:
            SessionAlreadyExists: a CreateSession names a session that exists.
            LeaseLost: the lease is stale, or a write (other than MarkDelivered) names a session that does not exist.
            ValueError: a write contradicts the stored state: AppendEvents with a gap, PutRequest at a used position.
        """
        ...

    async def forget_responses(self, before: int) -> None:
        """Delete the stored responses that are older than `before`."""
        ...

    # -- reading -------------------------------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> StoredSession | None:
        """The session, None if it does not exist. Raises StoredStateDamaged if its rows cannot be decoded."""
        ...

    async def sessions(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None = None, state: SessionState | None = None
    ) -> list[SessionRow]:
        """The tenant's sessions, newest first by (created_at, session_id); with `before`, those that sort below it."""
        ...

    async def unfinished(self) -> list[SessionKey]:
        """The sessions that have a request that is not done."""
        ...

    async def events(self, key: SessionKey, after: int, limit: int, max_bytes: int = 1 << 20) -> list[LoggedEvent]:
        """The events of the log with a seq above `after`, in order; empty if the session does not exist.

        Returns at most `limit` events with at most `max_bytes` of data in total, but at least one.
        """
        ...

    async def log_bounds(self, key: SessionKey) -> tuple[str, int, int] | None:
        """Epoch, first and last seq of the log (as in StoredSession), or None if the session does not exist."""
        ...

    async def messages(self, key: SessionKey, after: int = 0, limit: int | None = None) -> list[Message]:
        """The message history without its first `after` messages. Raises StoredStateDamaged as `load` does."""
        ...

    async def request(self, key: SessionKey, request_id: str) -> RequestRow | None: ...

    async def approval(self, key: SessionKey, approval_id: str) -> ApprovalRow | None: ...

    async def question(self, key: SessionKey, ref: str) -> QuestionRow | None: ...

    async def usage(self, tenant: str) -> list[UsageRow]:
        """The tenant's usage, one row per API key and day, ordered by both."""
        ...

    async def tracked_keys(self) -> int:
        """The number of API keys, over all tenants, that have usage."""
        ...

    async def response(self, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None: ...

    async def audit(self, after: int, limit: int) -> list[tuple[int, AuditRow]]:
        """At most `limit` rows of the audit log, in order, each with its number (1, 2, 3 …); only those above `after`."""
        ...
