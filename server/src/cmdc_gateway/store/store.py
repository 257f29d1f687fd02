"""What a store must do. `cmdc_gateway.testing.stores` holds every store to it.

A store knows rows, not rules: what is written, and in what order, is decided elsewhere. Its one hard promise is
`commit`: all writes of a call, or none, and durable (in the sense it names) when the call returns. Nothing in here
reads a clock; times are milliseconds since 1970 and come in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message, TokenUsage

Durability = Literal["memory", "process", "disk"]
"""`memory`: lost with the process. `process`: survives `kill -9`. `disk`: survives power loss too (DUR-4)."""

SessionState = Literal["idle", "working", "waiting_approval", "waiting_input"]


class StoreUnavailable(Exception):
    """The store cannot read or write now. Nothing of the call took effect; the same call may succeed later."""


class SessionAlreadyExists(Exception):
    """A session of this key exists already."""


class LeaseLost(Exception):
    """Another owner has claimed the session since, it was released or deleted: this owner must stop writing."""


class OwnedElsewhere(Exception):
    """Another owner that is still alive has the session."""


class StoredStateDamaged(Exception):
    """The stored rows of a session cannot be read back."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Two tenants may each have a session of the same id."""

    tenant: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Proof of being the owner of a session. `token` grows, over the whole store, with every claim."""

    key: SessionKey
    token: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session. `settings` is JSON text that only the session layer reads.

    `served` is the seq of the newest terminal event that was written to an SSE reader (SSE-5).
    """

    key: SessionKey
    epoch: str
    created_at: int
    settings: bytes
    state: SessionState = "idle"
    turns: int = 0
    tool_calls: int = 0
    prompts: int = 0
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0
    delivered_seq: int = 0


@dataclass(frozen=True, slots=True)
class RequestRow:
    """An accepted prompt and the run it became.

    `position` orders the requests of a session: 1, 2, 3 …. `first_seq` and `last_seq` are the run's first and terminal
    event, 0 while there is none. `key_id` is who pays. `steps` and `calls` count model calls and tool calls so far.
    """

    request_id: str
    position: int
    key_id: str
    text: str
    status: Literal["queued", "active", "done"] = "queued"
    first_seq: int = 0
    last_seq: int = 0
    steps: int = 0
    calls: int = 0
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """A tool call that needs, or needed, a person. `args` is JSON text: the bytes that were shown (APP-3).

    `decision` is JSON text of what came with the decision, so that the same decision again can be told from another.
    """

    approval_id: str
    request_id: str
    call_id: str
    tool_name: str
    args: bytes
    digest: str
    hint: str
    requested_at: int
    expires_at: int | None
    status: Literal["pending", "approved", "rejected", "expired", "cancelled"] = "pending"
    decision: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question the agent asked."""

    ref: str
    request_id: str
    call_id: str
    question: str
    options: tuple[str, ...] | None
    status: Literal["pending", "answered", "cancelled"] = "pending"
    response: str = ""


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A callback tool of a session. `definition` is JSON text that only the tools layer reads; it holds the secret."""

    name: str
    definition: bytes


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one key used on one day (UTC, `YYYY-MM-DD`)."""

    tenant: str
    key_id: str
    day: str
    prompts: int = 0
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredResponseRow:
    """An answer that was given under an Idempotency-Key (HTTP-11).

    `route` names what was asked for; `fingerprint` is of the request's body.
    """

    tenant: str
    route: str
    idempotency_key: str
    fingerprint: str
    status: int
    body: bytes
    at: int


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Something that was decided, for the audit trail: who, what, on what, when. It holds no payload.

    `key_id` is who decided, empty where the server did so by itself. `subject` is what it was about: an approvalId, a
    ref, the name of a tool. `digest` names what was decided on, where that has content. `detail` is a JSON object.
    """

    at: int
    tenant: str
    session_id: str
    key_id: str
    action: str
    subject: str = ""
    digest: str = ""
    detail: bytes = b"{}"


# -- writes: each is one line of a transaction ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSession:
    """Raises SessionTaken from `commit` if there is one."""

    row: SessionRow


@dataclass(frozen=True, slots=True)
class PutSession:
    """Replaces the row; key, epoch, created_at and settings stay as they were created, and `served` is never lowered."""

    row: SessionRow


@dataclass(frozen=True, slots=True)
class MarkDelivered:
    """Raises `served` of a session to `seq`; never lowers it. No effect on a session that is gone."""

    key: SessionKey
    seq: int


@dataclass(frozen=True, slots=True)
class DeleteSession:
    """Removes the session and all that belongs to it; usage, idempotent answers and the audit trail stay."""

    key: SessionKey


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Adds to the log. The events are of the session's epoch and follow the log's last one without a gap."""

    key: SessionKey
    events: tuple[LoggedEvent, ...]

    def must_follow(self, epoch: str, last_seq: int) -> None:
        """Raise ValueError if a log of this epoch that ends at `last_seq` does not go on with these events."""
        for seq, event in enumerate(self.events, start=last_seq + 1):
            if (event.epoch, event.seq) != (epoch, seq):
                raise ValueError(f"the log goes on with event {epoch}.{seq}, not {event.cursor}")


@dataclass(frozen=True, slots=True)
class TrimEvents:
    """Removes the events with a seq below `before`; the log goes on with the seq it would have had."""

    key: SessionKey
    before: int


@dataclass(frozen=True, slots=True)
class AppendMessages:
    """Adds to the history."""

    key: SessionKey
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class PutRequest:
    """Adds the request, or replaces the one of this id. No other request of the session has its position."""

    key: SessionKey
    row: RequestRow


@dataclass(frozen=True, slots=True)
class PutApproval:
    """Adds the approval, or replaces the one of this id."""

    key: SessionKey
    row: ApprovalRow


@dataclass(frozen=True, slots=True)
class PutQuestion:
    """Adds the question, or replaces the one of this ref."""

    key: SessionKey
    row: QuestionRow


@dataclass(frozen=True, slots=True)
class PutTool:
    """Adds the tool, or replaces the one of this name."""

    key: SessionKey
    row: ToolRow


@dataclass(frozen=True, slots=True)
class RemoveTool:
    """Removes the tool. No effect if there is none of this name."""

    key: SessionKey
    name: str


@dataclass(frozen=True, slots=True)
class AddUsage:
    """Adds to the row of this tenant, key and day."""

    row: UsageRow


@dataclass(frozen=True, slots=True)
class PutResponse:
    """Adds the answer, or replaces the one of this tenant, route and key."""

    row: StoredResponseRow


@dataclass(frozen=True, slots=True)
class AppendAudit:
    """Adds to the audit trail, which nothing in a store shortens or changes: the end of a session does not either."""

    row: AuditRow


Write = (
    CreateSession
    | PutSession
    | MarkDelivered
    | DeleteSession
    | AppendEvents
    | TrimEvents
    | AppendMessages
    | PutRequest
    | PutApproval
    | PutQuestion
    | PutTool
    | RemoveTool
    | AddUsage
    | PutResponse
    | AppendAudit
)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """All that is needed to go on with a session.

    `requests` are those not done and the newest one that is done, if any (for SSE-5), all in order of position.
    `approvals` and `questions` are the pending ones, and they and `tools` come in the order they were first put.
    `last_position` is the highest position of any request, 0 without one. `first_seq` and `last_seq` are the edges of the kept log:
    after a trim `first_seq` > 1; with no events kept `first_seq` is `last_seq` + 1; both start at 1 and 0.
    """

    row: SessionRow
    messages: tuple[Message, ...]
    requests: tuple[RequestRow, ...]
    approvals: tuple[ApprovalRow, ...]
    questions: tuple[QuestionRow, ...]
    tools: tuple[ToolRow, ...]
    first_seq: int
    last_seq: int
    last_position: int


class Store(Protocol):
    """Keeps sessions. Every method but `durability` may raise StoreDown."""

    @property
    def durability(self) -> Durability: ...

    async def open(self) -> None:
        """Get ready. Raises StoreDown with a sentence for the operator if it cannot be had, or is in use."""
        ...

    async def close(self) -> None:
        """Finish what was committed and let go. Calling it twice is harmless."""
        ...

    async def ping(self) -> None:
        """Return if a commit would be accepted now; raise StoreDown if not."""
        ...

    # -- ownership: a session is written by one owner at a time --------------------------------------------------------

    async def renew(self, owner: str, until: int) -> None:
        """Say that this owner is alive before `until`; the last call counts."""
        ...

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        """Become the owner of a session that exists; a fence given out for it before is lost. Durable on return.

        Raises:
            KeyError: there is no such session.
            SessionHeld: another owner has it and is alive at `now`.
        """
        ...

    async def release(self, fence: Lease) -> None:
        """Stop being the owner. No effect if the fence is lost already."""
        ...

    # -- writing -------------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], fence: Lease | None = None) -> None:
        """Carry out all writes in their order, or none; durable on return.

        With a fence, its session must still be its owner's. A commit that was called first is carried out first.
        Cancelling the call does not undo it.

        Raises:
            SessionTaken: one write was CreateSession of a key that exists.
            FenceLost: the fence is not the session's current one, or a write (other than MarkServed) is to a session
                that does not exist.
            ValueError: a write contradicts what is stored: AppendEvents with a gap, PutRequest at a taken position.
        """
        ...

    # -- reading -------------------------------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> StoredSession | None:
        """Everything about a session. Raises StoredStateDamaged if rows are there but cannot be read back."""
        ...

    async def session(self, key: SessionKey) -> SessionRow | None: ...

    async def sessions(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None = None, state: SessionState | None = None
    ) -> list[SessionRow]:
        """A tenant's sessions, newest first by (created_at, session_id); only those below `before`, where given."""
        ...

    async def unfinished(self) -> list[SessionKey]:
        """Every session that has a request which is not done."""
        ...

    async def events(self, key: SessionKey, after: int, limit: int, max_bytes: int = 1 << 20) -> list[LoggedEvent]:
        """The kept events after seq `after`, in order; none for a session that is gone.

        At most `limit`, and no more than have `max_bytes` of data together (but one at least).
        """
        ...

    async def log_bounds(self, key: SessionKey) -> tuple[str, int, int] | None:
        """Epoch, first and last seq of the kept log (as in StoredSession), or None without such a session."""
        ...

    async def messages(self, key: SessionKey, after: int = 0, limit: int | None = None) -> list[Message]:
        """The history from the message number `after` (counted from 0) on. Raises StoredStateDamaged as `load` does."""
        ...

    async def request(self, key: SessionKey, request_id: str) -> RequestRow | None: ...

    async def approval(self, key: SessionKey, approval_id: str) -> ApprovalRow | None: ...

    async def question(self, key: SessionKey, ref: str) -> QuestionRow | None: ...

    async def tool(self, key: SessionKey, name: str) -> ToolRow | None: ...

    async def usage(self, tenant: str) -> list[UsageRow]:
        """What each key of the tenant used, one row per key and day, in their order."""
        ...

    async def tracked_keys(self) -> int:
        """How many keys, over all tenants, have a row of usage."""
        ...

    async def response(self, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None: ...

    async def forget_responses(self, before: int) -> None:
        """Remove idempotent answers given before then."""
        ...

    async def audit(self, after: int, limit: int) -> list[tuple[int, AuditRow]]:
        """The audit trail after its row number `after`, in order: at most `limit` rows, numbered 1, 2, 3 …."""
        ...
