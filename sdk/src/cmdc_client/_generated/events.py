"""The events of a session as classes, and a function that parses one. Written by `nox -s contract`; do not edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, TypeAlias, cast

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"


class InvalidEvent(ValueError):
    """An event that does not match the schema. `path` is the place of the error, such as `data.lastMessage.role`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class MissingField(InvalidEvent):
    """A required field is missing."""


class WrongType(InvalidEvent):
    """A value has the wrong JSON type, or a string has the wrong format."""


class UnknownValue(InvalidEvent):
    """A value is not in the enumeration of the schema."""


@dataclass(frozen=True, slots=True)
class PromptReceived:
    """A run started; `text` is its prompt."""

    event: ClassVar[Literal["prompt_received"]] = "prompt_received"
    id: str
    seq: int
    request_id: str
    text: str


@dataclass(frozen=True, slots=True)
class AgentStart:
    """The agent started working on the prompt."""

    event: ClassVar[Literal["agent_start"]] = "agent_start"
    id: str
    seq: int
    request_id: str


@dataclass(frozen=True, slots=True)
class ThinkingStart:
    """A block of reasoning text starts."""

    event: ClassVar[Literal["thinking_start"]] = "thinking_start"
    id: str
    seq: int
    request_id: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """A chunk of reasoning text, never empty."""

    event: ClassVar[Literal["thinking_delta"]] = "thinking_delta"
    id: str
    seq: int
    request_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class MessageStart:
    """A block of answer text starts."""

    event: ClassVar[Literal["message_start"]] = "message_start"
    id: str
    seq: int
    request_id: str


@dataclass(frozen=True, slots=True)
class MessageDelta:
    """A chunk of answer text, never empty."""

    event: ClassVar[Literal["message_delta"]] = "message_delta"
    id: str
    seq: int
    request_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """The step requested this many tool calls, after its text."""

    event: ClassVar[Literal["tool_calls"]] = "tool_calls"
    id: str
    seq: int
    request_id: str
    count: int


@dataclass(frozen=True, slots=True)
class ApprovalRequired:
    """A tool call is waiting for a person to approve or reject it."""

    event: ClassVar[Literal["approval_required"]] = "approval_required"
    id: str
    seq: int
    request_id: str
    approval_id: str
    """ID to send with `approve` or `reject`."""
    tool_name: str
    args: dict[str, JsonValue]
    """Arguments of the call."""
    hint: str
    """One-line summary of the call, for display."""
    requested_at: int
    """Milliseconds since the Unix epoch."""
    call_id: str
    digest: str
    """Identifies exactly the call shown; `approve` may send it back."""
    expires_at: int | None
    """Milliseconds since the Unix epoch; null if there is no limit."""


@dataclass(frozen=True, slots=True)
class ApprovalResolved:
    """An approval was decided, expired, or was cancelled. Sent once per approval."""

    event: ClassVar[Literal["approval_resolved"]] = "approval_resolved"
    id: str
    seq: int
    request_id: str
    approval_id: str
    status: Literal["approved", "rejected", "expired", "cancelled"]


@dataclass(frozen=True, slots=True)
class ToolExecutionStart:
    """A tool call starts with exactly these arguments."""

    event: ClassVar[Literal["tool_execution_start"]] = "tool_execution_start"
    id: str
    seq: int
    request_id: str
    tool_name: str
    call_id: str
    args: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class AskUser:
    """The agent asks the user a question and waits for the answer."""

    event: ClassVar[Literal["ask_user"]] = "ask_user"
    id: str
    seq: int
    request_id: str
    ref: str
    """ID to send with `respond`."""
    question: str
    options: list[str] | None
    """Allowed answers; null if any text is allowed."""


@dataclass(frozen=True, slots=True)
class ToolExecutionEnd:
    """A tool call ended: with a result, an error, or an outcome that is unknown."""

    event: ClassVar[Literal["tool_execution_end"]] = "tool_execution_end"
    id: str
    seq: int
    request_id: str
    tool_name: str
    call_id: str
    status: Literal["ok", "error"]
    result: str
    """Tool result, as passed to the model."""


@dataclass(frozen=True, slots=True)
class RunError:
    """Something failed. An error does not end the run by itself."""

    event: ClassVar[Literal["error"]] = "error"
    id: str
    seq: int
    request_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LastMessage:
    """The agent's last message in this run."""

    role: Literal["assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Input, output, and total tokens of this run."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class AgentEnd:
    """Terminal: the run completed."""

    event: ClassVar[Literal["agent_end"]] = "agent_end"
    id: str
    seq: int
    request_id: str
    message_count: int
    """Number of messages in the history."""
    last_message: LastMessage | None
    token_usage: TokenUsage
    cost_usd: float
    """Cost of this run in US dollars; 0 if no price is known."""


@dataclass(frozen=True, slots=True)
class AgentAbort:
    """Terminal: the run was aborted."""

    event: ClassVar[Literal["agent_abort"]] = "agent_abort"
    id: str
    seq: int
    request_id: str
    reason: str
    """`aborted`, `max_turns_exceeded`, `error`, `interrupted`, `budget_exceeded`, `session_deleted`, or the reason sent with the abort."""


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a type that this version of the client does not know; a newer server may send one."""

    event: str
    id: str
    seq: int
    request_id: str
    data: dict[str, JsonValue]


Event: TypeAlias = (
    PromptReceived
    | AgentStart
    | ThinkingStart
    | ThinkingDelta
    | MessageStart
    | MessageDelta
    | ToolCalls
    | ApprovalRequired
    | ApprovalResolved
    | ToolExecutionStart
    | AskUser
    | ToolExecutionEnd
    | RunError
    | AgentEnd
    | AgentAbort
    | UnknownEvent
)


def parse_event(event: str, data: Mapping[str, Any], id: str | None = None) -> Event:
    """Parse an event from its name, its `data` as parsed JSON, and its id. Unknown members are ignored.

    Without an id, the `id` of the event is empty and its `seq` is 0.

    Raises:
        InvalidEvent: `MissingField`, `WrongType` or `UnknownValue`.
    """
    seq = 0 if id is None else _seq(id)
    parser = _PARSERS.get(event)
    if parser is None:
        request_id = data.get("requestId")
        return UnknownEvent(event, id or "", seq, request_id if isinstance(request_id, str) else "", dict(data))
    return parser(data, id or "", seq, _text(_member(data, "requestId", "data"), "data.requestId"))


def _seq(id: str) -> int:
    epoch, dot, digits = id.rpartition(".")
    if not (epoch and dot and digits.isdecimal() and digits.isascii()):
        raise WrongType("id", f"{id[:80]!r} is not <epoch>.<seq>")
    return int(digits)


def _member(members: Mapping[str, Any], name: str, path: str) -> Any:
    try:
        return members[name]
    except KeyError:
        raise MissingField(f"{path}.{name}", "is missing") from None


def _text(value: Any, path: str) -> str:
    if type(value) is str:
        return value
    raise _wrong_type(value, path, "a string")


def _integer(value: Any, path: str) -> int:
    if type(value) is int:
        return value
    raise _wrong_type(value, path, "an integer")


def _number(value: Any, path: str) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise _wrong_type(value, path, "a number")


def _object(value: Any, path: str) -> dict[str, JsonValue]:
    if type(value) is dict:
        return cast("dict[str, JsonValue]", value)
    raise _wrong_type(value, path, "an object")


def _array(value: Any, path: str) -> list[JsonValue]:
    if type(value) is list:
        return cast("list[JsonValue]", value)
    raise _wrong_type(value, path, "an array")


def _one_of(values: tuple[str, ...], value: Any, path: str) -> Any:
    if type(value) is not str:
        raise _wrong_type(value, path, "a string")
    if value not in values:
        raise UnknownValue(path, f"{value[:80]!r} is not one of {', '.join(values)}")
    return value


def _wrong_type(value: object, path: str, wanted: str) -> WrongType:
    return WrongType(path, f"must be {wanted}, not {_JSON_TYPES.get(type(value), type(value).__name__)}")


_JSON_TYPES: Final[dict[type, str]] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    dict: "an object",
    list: "an array",
    type(None): "null",
}


def _parse_prompt_received(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> PromptReceived:
    return PromptReceived(id, seq, request_id, _text(_member(data, "text", "data"), "data.text"))


def _parse_agent_start(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> AgentStart:
    return AgentStart(id, seq, request_id)


def _parse_thinking_start(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> ThinkingStart:
    return ThinkingStart(id, seq, request_id)


def _parse_thinking_delta(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> ThinkingDelta:
    return ThinkingDelta(id, seq, request_id, _text(_member(data, "delta", "data"), "data.delta"))


def _parse_message_start(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> MessageStart:
    return MessageStart(id, seq, request_id)


def _parse_message_delta(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> MessageDelta:
    return MessageDelta(id, seq, request_id, _text(_member(data, "delta", "data"), "data.delta"))


def _parse_tool_calls(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> ToolCalls:
    return ToolCalls(id, seq, request_id, _integer(_member(data, "count", "data"), "data.count"))


def _parse_approval_required(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> ApprovalRequired:
    return ApprovalRequired(
        id,
        seq,
        request_id,
        _text(_member(data, "approvalId", "data"), "data.approvalId"),
        _text(_member(data, "toolName", "data"), "data.toolName"),
        _object(_member(data, "args", "data"), "data.args"),
        _text(_member(data, "hint", "data"), "data.hint"),
        _integer(_member(data, "requestedAt", "data"), "data.requestedAt"),
        _text(_member(data, "callId", "data"), "data.callId"),
        _text(_member(data, "digest", "data"), "data.digest"),
        None if (value := _member(data, "expiresAt", "data")) is None else _integer(value, "data.expiresAt"),
    )


def _parse_approval_resolved(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> ApprovalResolved:
    return ApprovalResolved(
        id,
        seq,
        request_id,
        _text(_member(data, "approvalId", "data"), "data.approvalId"),
        _one_of(
            (
                "approved",
                "rejected",
                "expired",
                "cancelled",
            ),
            _member(data, "status", "data"),
            "data.status",
        ),
    )


def _parse_tool_execution_start(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> ToolExecutionStart:
    return ToolExecutionStart(
        id,
        seq,
        request_id,
        _text(_member(data, "toolName", "data"), "data.toolName"),
        _text(_member(data, "callId", "data"), "data.callId"),
        _object(_member(data, "args", "data"), "data.args"),
    )


def _parse_ask_user(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> AskUser:
    return AskUser(
        id,
        seq,
        request_id,
        _text(_member(data, "ref", "data"), "data.ref"),
        _text(_member(data, "question", "data"), "data.question"),
        None
        if (value := _member(data, "options", "data")) is None
        else [_text(item, f"data.options[{at}]") for at, item in enumerate(_array(value, "data.options"))],
    )


def _parse_tool_execution_end(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> ToolExecutionEnd:
    return ToolExecutionEnd(
        id,
        seq,
        request_id,
        _text(_member(data, "toolName", "data"), "data.toolName"),
        _text(_member(data, "callId", "data"), "data.callId"),
        _one_of(
            (
                "ok",
                "error",
            ),
            _member(data, "status", "data"),
            "data.status",
        ),
        _text(_member(data, "result", "data"), "data.result"),
    )


def _parse_run_error(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> RunError:
    return RunError(id, seq, request_id, _text(_member(data, "reason", "data"), "data.reason"))


def _last_message(value: Any, path: str) -> LastMessage:
    members = _object(value, path)
    return LastMessage(
        _one_of(("assistant",), _member(members, "role", path), f"{path}.role"),
        _text(_member(members, "content", path), f"{path}.content"),
    )


def _token_usage(value: Any, path: str) -> TokenUsage:
    members = _object(value, path)
    return TokenUsage(
        _integer(_member(members, "promptTokens", path), f"{path}.promptTokens"),
        _integer(_member(members, "completionTokens", path), f"{path}.completionTokens"),
        _integer(_member(members, "totalTokens", path), f"{path}.totalTokens"),
    )


def _parse_agent_end(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> AgentEnd:
    return AgentEnd(
        id,
        seq,
        request_id,
        _integer(_member(data, "messageCount", "data"), "data.messageCount"),
        None if (value := _member(data, "lastMessage", "data")) is None else _last_message(value, "data.lastMessage"),
        _token_usage(_member(data, "tokenUsage", "data"), "data.tokenUsage"),
        _number(_member(data, "costUsd", "data"), "data.costUsd"),
    )


def _parse_agent_abort(data: Mapping[str, Any], id: str, seq: int, request_id: str) -> AgentAbort:
    return AgentAbort(id, seq, request_id, _text(_member(data, "reason", "data"), "data.reason"))


_PARSERS: Final[dict[str, Callable[[Mapping[str, Any], str, int, str], Event]]] = {
    "prompt_received": _parse_prompt_received,
    "agent_start": _parse_agent_start,
    "thinking_start": _parse_thinking_start,
    "thinking_delta": _parse_thinking_delta,
    "message_start": _parse_message_start,
    "message_delta": _parse_message_delta,
    "tool_calls": _parse_tool_calls,
    "approval_required": _parse_approval_required,
    "approval_resolved": _parse_approval_resolved,
    "tool_execution_start": _parse_tool_execution_start,
    "ask_user": _parse_ask_user,
    "tool_execution_end": _parse_tool_execution_end,
    "error": _parse_run_error,
    "agent_end": _parse_agent_end,
    "agent_abort": _parse_agent_abort,
}
