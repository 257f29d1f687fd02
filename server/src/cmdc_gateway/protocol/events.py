"""The fifteen events of a run (EVT-5), and their encoding.

An event is a plain frozen dataclass, which is cheap enough to create one per chunk of model text. Its attributes are
the members of `data` in snake_case; `requestId`, which every event has, is added when it is encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from json.encoder import encode_basestring
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field, JsonValue
from pydantic.alias_generators import to_camel

from cmdc_gateway.protocol.encoding import dumps, one_line
from cmdc_gateway.protocol.history import TokenUsage

ApprovalStatus = Literal["approved", "rejected", "expired", "cancelled"]
ToolStatus = Literal["ok", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a run."""

    name: ClassVar[str]

    def data(self) -> dict[str, JsonValue]:
        """The members of `data` by their wire names, without `requestId`."""
        return {wire: _plain(getattr(self, attribute)) for attribute, wire in _members(type(self))}


@dataclass(frozen=True, slots=True)
class PromptReceived(Event):
    """A run started; `text` is its prompt."""

    name: ClassVar[str] = "prompt_received"
    text: str


@dataclass(frozen=True, slots=True)
class AgentStart(Event):
    """The agent started working on the prompt."""

    name: ClassVar[str] = "agent_start"


@dataclass(frozen=True, slots=True)
class ThinkingStart(Event):
    """A block of reasoning text starts."""

    name: ClassVar[str] = "thinking_start"


@dataclass(frozen=True, slots=True)
class ThinkingDelta(Event):
    """A chunk of reasoning text, never empty."""

    name: ClassVar[str] = "thinking_delta"
    delta: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class MessageStart(Event):
    """A block of answer text starts."""

    name: ClassVar[str] = "message_start"


@dataclass(frozen=True, slots=True)
class MessageDelta(Event):
    """A chunk of answer text, never empty."""

    name: ClassVar[str] = "message_delta"
    delta: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class ToolCalls(Event):
    """The step requested this many tool calls, after its text."""

    name: ClassVar[str] = "tool_calls"
    count: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class ApprovalRequired(Event):
    """A tool call is waiting for a person to approve or reject it."""

    name: ClassVar[str] = "approval_required"
    approval_id: Annotated[str, Field(description="ID to send with `approve` or `reject`.")]
    tool_name: str
    args: Annotated[dict[str, JsonValue], Field(description="Arguments of the call.")]
    hint: Annotated[str, Field(description="One-line summary of the call, for display.")]
    requested_at: Annotated[int, Field(description="Milliseconds since the Unix epoch.")]
    call_id: str
    digest: Annotated[str, Field(description="Identifies exactly the call shown; `approve` may send it back.")]
    expires_at: Annotated[
        int | None, Field(description="Milliseconds since the Unix epoch; null if there is no limit.")
    ]


@dataclass(frozen=True, slots=True)
class ApprovalResolved(Event):
    """An approval was decided, expired, or was cancelled. Sent once per approval."""

    name: ClassVar[str] = "approval_resolved"
    approval_id: str
    status: ApprovalStatus


@dataclass(frozen=True, slots=True)
class ToolExecutionStart(Event):
    """A tool call starts with exactly these arguments."""

    name: ClassVar[str] = "tool_execution_start"
    tool_name: str
    call_id: str
    args: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class AskUser(Event):
    """The agent asks the user a question and waits for the answer."""

    name: ClassVar[str] = "ask_user"
    ref: Annotated[str, Field(description="ID to send with `respond`.")]
    question: str
    options: Annotated[list[str] | None, Field(description="Allowed answers; null if any text is allowed.")]


@dataclass(frozen=True, slots=True)
class ToolExecutionEnd(Event):
    """A tool call ended: with a result, an error, or an outcome that is unknown."""

    name: ClassVar[str] = "tool_execution_end"
    tool_name: str
    call_id: str
    status: ToolStatus
    result: Annotated[str, Field(description="Tool result, as passed to the model.")]


@dataclass(frozen=True, slots=True)
class RunError(Event):
    """Something failed. An error does not end the run by itself."""

    name: ClassVar[str] = "error"
    reason: str


@dataclass(frozen=True, slots=True)
class LastMessage:
    """The agent's last message in a run."""

    role: Literal["assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class AgentEnd(Event):
    """Terminal: the run completed."""

    name: ClassVar[str] = "agent_end"
    message_count: Annotated[int, Field(description="Number of messages in the history.")]
    last_message: LastMessage | None
    token_usage: TokenUsage
    cost_usd: Annotated[float, Field(description="Cost of this run in US dollars; 0 if no price is known.")]


@dataclass(frozen=True, slots=True)
class AgentAbort(Event):
    """Terminal: the run was aborted."""

    name: ClassVar[str] = "agent_abort"
    reason: Annotated[
        str,
        Field(
            description="`aborted`, `max_turns_exceeded`, `error`, `interrupted`, `budget_exceeded`, `session_deleted`, "
            "or the reason sent with the abort."
        ),
    ]


EVENT_TYPES: tuple[type[Event], ...] = (
    PromptReceived,
    AgentStart,
    ThinkingStart,
    ThinkingDelta,
    MessageStart,
    MessageDelta,
    ToolCalls,
    ApprovalRequired,
    ApprovalResolved,
    ToolExecutionStart,
    AskUser,
    ToolExecutionEnd,
    RunError,
    AgentEnd,
    AgentAbort,
)
EVENT_NAMES: frozenset[str] = frozenset(event.name for event in EVENT_TYPES)
TERMINAL: frozenset[str] = frozenset({AgentEnd.name, AgentAbort.name})

# For `isinstance`: building a union for each event costs more than the check itself.
_TEXT = (MessageDelta, ThinkingDelta)


def encode_data(event: Event, request_id: str) -> bytes:
    """Encode an event's `data` on one line. Done once per event: all readers on all transports get these bytes."""
    if isinstance(event, _TEXT):  # the hot path: only the text needs escaping
        return one_line('{"delta":%s,"requestId":"%s"}' % (encode_basestring(event.delta), request_id))  # noqa: UP031
    return dumps({**event.data(), "requestId": request_id})


@cache
def _members(kind: type[Event]) -> tuple[tuple[str, str], ...]:
    return tuple((field.name, to_camel(field.name)) for field in fields(kind))


def _plain(value: object) -> JsonValue:
    if isinstance(value, TokenUsage):
        return value.wire()
    if isinstance(value, LastMessage):
        return {"role": value.role, "content": value.content}
    return cast("JsonValue", value)
