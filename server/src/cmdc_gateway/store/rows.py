"""What a store keeps, one class per kind of row. Times are milliseconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cmdc_gateway.protocol.history import Message, TokenUsage

SessionState = Literal["idle", "working", "waiting_approval", "waiting_input"]


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Identifies a session. Session ids are unique within a tenant only."""

    tenant: str
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session. `settings` is JSON text that only the session layer reads.

    `delivered_seq` is the seq of the newest terminal event that was written to an SSE reader (SSE-5).
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
    """An accepted prompt and its run.

    `position` orders the requests of a session: 1, 2, 3 …. `first_seq` and `last_seq` are the seqs of the run's first and
    terminal event, 0 until there is one. `key_id` is the API key that is charged. `steps` counts the run's model calls,
    `calls` its tool calls.
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
    """A tool call that requires, or required, approval. `args` is the JSON text that was shown for approval (APP-3).

    `decision` is the JSON text of the decision's details, so that a repeated decision can be compared with the first.
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
    """A question that the agent asked the user."""

    ref: str
    request_id: str
    call_id: str
    question: str
    options: tuple[str, ...] | None
    status: Literal["pending", "answered", "cancelled"] = "pending"
    response: str = ""


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A callback tool of a session. `definition` is JSON text that only the tools layer reads; it contains the secret."""

    name: str
    definition: bytes


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of one API key on one day (UTC, `YYYY-MM-DD`)."""

    tenant: str
    key_id: str
    day: str
    prompts: int = 0
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredResponseRow:
    """A response that was sent to a request with an Idempotency-Key (HTTP-11).

    `route` is the method and path of the request, `fingerprint` the digest of its body.
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
    """An entry of the audit log: who decided what, about what, when. It contains no payload.

    `key_id` is the API key that decided, empty for the server itself. `subject` is an approvalId, a ref, a requestId or
    the name of a tool. `digest` is the digest of the content that was decided on, if there was any. `detail` is a JSON
    object.
    """

    at: int
    tenant: str
    session_id: str
    key_id: str
    action: str
    subject: str = ""
    digest: str = ""
    detail: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class StoredSession:
    """Everything that is needed to resume a session.

    `requests` are those that are not done and the newest one that is done, if any (SSE-5), ordered by position.
    `approvals` and `questions` are the pending ones. They and `tools` are in the order in which they were first put.
    `last_position` is the highest position of a request, 0 without one. `first_seq` and `last_seq` are the bounds of the
    log: 1 and 0 at first; `first_seq` grows with each trim, and is `last_seq` + 1 while the log holds no events.
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
