"""Sessions on the wire: making one, looking at it, prompting it (§3.2 – §3.5, §3.8)."""

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
    """Which tools need a person. `*` stands for every tool but `ask_user` (APP-5)."""

    tools: Names = Field([], description="Names of tools whose calls need an approval; `*` means every tool.")
    timeout_ms: int = Field(0, ge=0, le=31_536_000_000, description="Time to decide, in ms; 0 means no time limit.")


class Budget(RequestBody):
    """What a session may spend."""

    max_tokens: LeftOut[int] = Field(None, ge=1, description="Tokens, read and written together.")
    max_cost_usd: LeftOut[float] = Field(None, gt=0, description="Money, in US dollars.")


class CreateSessionBody(RequestBody):
    """The settings of a new session."""

    model: LeftOut[str] = Field(
        None, min_length=1, max_length=256, description="`provider:model`; required unless a blueprint gives it."
    )
    session_id: LeftOut[SessionId] = Field(None, description="Left out: the server makes a random one.")
    system_prompt: LeftOut[str] = Field(None, description="What the model is told before anything else.")
    working_dir: LeftOut[str] = Field(None, description="Folder for the tools, inside the server's workspace.")
    tools: LeftOut[Names] = Field(None, description="Built-in tools, by name.")
    plugins: LeftOut[Names] = Field(None, description="`human_approval`: shell and write_file need an approval.")
    blueprint: LeftOut[str] = Field(None, description="A named set of these fields from the server's configuration.")
    max_turns: LeftOut[int] = Field(None, ge=1, le=1000, description="Model calls in one run; 100 if left out.")
    max_tokens: LeftOut[int] = Field(None, ge=1, le=2**31 - 1, description="Output tokens of one model call.")
    skills_dirs: LeftOut[Names] = Field(None, description="Folders inside the workspace, each holding skills.")
    provider_opts: LeftOut[dict[str, JsonValue]] = Field(None, description="Options of the model call.")
    approval: LeftOut[ApprovalSettings] = Field(None, description="Which tools need a person.")
    metadata: LeftOut[Metadata] = Field(None, description="Yours; returned as given.")
    budget: LeftOut[Budget] = Field(None, description="What the session may spend.")


class SessionCreated(AnswerBody):
    """The session is there."""

    session_id: str
    status: Literal["created"]


class QueuedPrompt(AnswerBody):
    """A prompt that waits."""

    request_id: str
    text: str


class PendingApproval(AnswerBody):
    """A tool call that waits for a person: the data of its `approval_required`."""

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
    """A question that waits for its answer: the data of its `ask_user`."""

    sent_as_null: ClassVar[frozenset[str]] = frozenset({"options"})

    ref: str
    question: str
    options: list[str] | None
    request_id: str


class SessionInfo(AnswerBody):
    """A session as it stands now. Times are ms."""

    session_id: str
    state: SessionState
    turns: int = Field(description="Model calls so far.")
    tool_calls: int = Field(description="Tool calls that ran.")
    total_tokens: int
    uptime_ms: int
    model: str
    created_at: int
    metadata: dict[str, str]
    queue: list[QueuedPrompt]
    pending_approvals: list[PendingApproval]
    pending_questions: list[PendingQuestion]
    cursor: str = Field(description="The end of the event log.")


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
    """Sessions, newest first; `nextCursor` is null at the end."""

    sent_as_null: ClassVar[frozenset[str]] = frozenset({"next_cursor"})

    sessions: list[SessionSummary]
    next_cursor: str | None


class SessionDeleted(AnswerBody):
    """The session is gone."""

    session_id: str
    status: Literal["deleted"]


class PromptBody(RequestBody):
    """A prompt for the agent."""

    text: str = Field(min_length=1)


class PromptAccepted(AnswerBody):
    """The prompt is committed. Reading the log after `cursor` misses nothing of its run."""

    request_id: str
    session_id: str
    queued: bool = Field(description="True when another run is active.")
    cursor: str


class AbortBody(RequestBody):
    """Why the active run is to end; readers see it."""

    reason: LeftOut[str] = Field(None, min_length=1, max_length=1000)


class AbortTaken(AnswerBody):
    """Whether there was a run to end."""

    ok: bool = Field(description="False when no run was active.")


class TokenCounts(AnswerBody):
    """Tokens read, written, and both."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SessionStats(AnswerBody):
    """What one session used."""

    session_id: str
    turns: int
    total_tokens: int
    cost_usd: float
    prompt_count: int
    token_usage: TokenCounts


class UsageFigures(AnswerBody):
    """What was used."""

    prompt_count: int
    total_tokens: int
    cost_usd: float
    token_usage: TokenCounts


class KeyUsage(UsageFigures):
    """What one key used."""

    key_id: str


class TenantUsage(AnswerBody):
    """What a tenant used, and each of its keys."""

    tenant: str
    total: UsageFigures
    keys: list[KeyUsage]


class ToolCallEntry(AnswerBody):
    """A tool call in a message of the agent."""

    call_id: str
    name: str
    arguments: dict[str, Any]


class MessageEntry(AnswerBody):
    """One thing that was said. A `tool_result` has `callId`, `name` and `isError`."""

    role: Literal["system", "user", "assistant", "tool_result"]
    content: str
    tool_calls: MayBeAbsent[list[ToolCallEntry]] = None
    call_id: MayBeAbsent[str] = None
    name: MayBeAbsent[str] = None
    is_error: MayBeAbsent[bool] = None


class MessageList(AnswerBody):
    """The history. `nextCursor` is there only when pages were asked for; null at the end."""

    session_id: str
    messages: list[MessageEntry]
    next_cursor: str | None = None
