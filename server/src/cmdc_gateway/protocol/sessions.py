"""Request and response bodies of sessions, prompts, messages, and usage."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field, JsonValue

from cmdc_gateway.protocol.wire import AnswerBody, LeftOut, MayBeAbsent, Names, RequestBody

SessionState = Literal["idle", "working", "waiting_approval", "waiting_input"]
_MOST_METADATA = 16


def _not_too_many(metadata: object) -> object:
    # Counted before its members are looked at: there may be a hundred thousand.
    if isinstance(metadata, dict) and (members := len(cast("dict[str, object]", metadata))) > _MOST_METADATA:
        raise ValueError(f"should have at most {_MOST_METADATA} members, not {members}")
    return cast("object", metadata)


Metadata = Annotated[dict[str, str], Field(max_length=_MOST_METADATA), BeforeValidator(_not_too_many)]
SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


class ApprovalSettings(RequestBody):
    """Tools that require approval. `*` means every tool except `ask_user` (APP-5)."""

    tools: Names = Field([], description="Names of tools that require approval, or `*`.")
    timeout_ms: int = Field(0, ge=0, le=31_536_000_000, description="Time limit of an approval, in ms; 0: none.")


class Budget(RequestBody):
    """Spending limits of a session."""

    max_tokens: LeftOut[int] = Field(None, ge=1, description="Input plus output tokens.")
    max_cost_usd: LeftOut[float] = Field(None, gt=0, description="Cost in US dollars.")


class CreateSessionBody(RequestBody):
    """Settings of a new session."""

    model: LeftOut[str] = Field(
        None, min_length=1, max_length=256, description="`provider:model`; required unless the blueprint sets it."
    )
    session_id: LeftOut[SessionId] = Field(None, description="Default: 32 random hex digits.")
    system_prompt: LeftOut[str] = Field(None, description="System prompt of the model.")
    working_dir: LeftOut[str] = Field(
        None, description="Working directory of the built-in tools, inside the workspace."
    )
    tools: LeftOut[Names] = Field(None, description="Names of built-in tools.")
    plugins: LeftOut[Names] = Field(None, description="`human_approval`: `shell` and `write_file` require approval.")
    blueprint: LeftOut[str] = Field(
        None, description="Named defaults for these fields, from the server's configuration."
    )
    max_turns: LeftOut[int] = Field(None, ge=1, le=1000, description="Maximum model calls per run; default 100.")
    max_tokens: LeftOut[int] = Field(None, ge=1, le=2**31 - 1, description="Maximum output tokens per model call.")
    skills_dirs: LeftOut[Names] = Field(None, description="Directories inside the workspace that contain skills.")
    provider_opts: LeftOut[dict[str, JsonValue]] = Field(None, description="Options passed to the model call.")
    approval: LeftOut[ApprovalSettings] = Field(None, description="Tools that require approval.")
    metadata: LeftOut[Metadata] = Field(None, description="Up to 16 strings, returned unchanged.")
    budget: LeftOut[Budget] = Field(None, description="Spending limits of the session.")


class SessionCreated(AnswerBody):
    """The session was created."""

    session_id: str
    status: Literal["created"]


class QueuedPrompt(AnswerBody):
    """A queued prompt."""

    request_id: str
    text: str


class PendingApproval(AnswerBody):
    """A pending approval: the `data` of its `approval_required` event."""

    sent_as_null: ClassVar[frozenset[str]] = frozenset({"expires_at"})

    approval_id: str
    tool_name: str
    args: dict[str, Any]
    hint: str
    requested_at: int
    call_id: str
    digest: str
    expires_at: int | None
    request_id: str


class PendingQuestion(AnswerBody):
    """A pending question: the `data` of its `ask_user` event."""

    sent_as_null: ClassVar[frozenset[str]] = frozenset({"options"})

    ref: str
    question: str
    options: list[str] | None
    request_id: str


class SessionInfo(AnswerBody):
    """Current state of a session. Times are in milliseconds."""

    session_id: str
    state: SessionState
    turns: int = Field(description="Number of model calls so far.")
    tool_calls: int = Field(description="Number of tool calls that ran.")
    total_tokens: int
    uptime_ms: int
    model: str
    created_at: int
    metadata: dict[str, str]
    queue: list[QueuedPrompt]
    pending_approvals: list[PendingApproval]
    pending_questions: list[PendingQuestion]
    cursor: str = Field(description="Cursor at the end of the event log.")


class SessionSummary(AnswerBody):
    """A session in a list."""

    session_id: str
    state: SessionState
    model: str
    created_at: int
    turns: int
    tool_calls: int
    total_tokens: int
    metadata: dict[str, str]


class SessionList(AnswerBody):
    """A page of sessions, newest first; `nextCursor` is null on the last page."""

    sent_as_null: ClassVar[frozenset[str]] = frozenset({"next_cursor"})

    sessions: list[SessionSummary]
    next_cursor: str | None


class SessionDeleted(AnswerBody):
    """The session was deleted."""

    session_id: str
    status: Literal["deleted"]


class PromptBody(RequestBody):
    """Send a prompt to the agent."""

    text: str = Field(min_length=1)


class PromptAccepted(AnswerBody):
    """The prompt was committed. Reading the log after `cursor` returns every event of its run."""

    request_id: str
    session_id: str
    queued: bool = Field(description="True if another run is active.")
    cursor: str


class AbortBody(RequestBody):
    """Abort the active run. Readers see the reason."""

    reason: LeftOut[str] = Field(None, min_length=1, max_length=1000)


class AbortTaken(AnswerBody):
    """Whether a run was aborted."""

    ok: bool = Field(description="False if no run was active.")


class TokenCounts(AnswerBody):
    """Input, output, and total tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SessionStats(AnswerBody):
    """Usage of a session."""

    session_id: str
    turns: int
    total_tokens: int
    cost_usd: float
    prompt_count: int
    token_usage: TokenCounts


class UsageFigures(AnswerBody):
    """Usage figures."""

    prompt_count: int
    total_tokens: int
    cost_usd: float
    token_usage: TokenCounts


class KeyUsage(UsageFigures):
    """Usage of an API key."""

    key_id: str


class TenantUsage(AnswerBody):
    """Usage of a tenant, in total and per API key."""

    tenant: str
    total: UsageFigures
    keys: list[KeyUsage]


class ToolCallEntry(AnswerBody):
    """A tool call in an assistant message."""

    call_id: str
    name: str
    arguments: dict[str, Any]


class MessageEntry(AnswerBody):
    """A message. A `tool_result` also has `callId`, `name`, and `isError`."""

    role: Literal["system", "user", "assistant", "tool_result"]
    content: str
    tool_calls: MayBeAbsent[list[ToolCallEntry]] = None
    call_id: MayBeAbsent[str] = None
    name: MayBeAbsent[str] = None
    is_error: MayBeAbsent[bool] = None


class MessageList(AnswerBody):
    """The message history. `nextCursor` is present only in pages; it is null on the last page."""

    session_id: str
    messages: list[MessageEntry]
    next_cursor: str | None = None
