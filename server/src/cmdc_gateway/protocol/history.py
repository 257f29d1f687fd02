"""The history of a session: messages, tool calls and token usage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from pydantic import JsonValue

Role = Literal["system", "user", "assistant", "tool_result"]


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Input and output tokens of model calls, never negative."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def wire(self) -> dict[str, JsonValue]:
        return {
            "promptTokens": self.prompt_tokens,
            "completionTokens": self.completion_tokens,
            "totalTokens": self.total_tokens,
        }


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call requested by the model. `id` is the callId, unique in its session (EVT-4)."""

    id: str
    name: str
    args: dict[str, JsonValue]

    def wire(self) -> dict[str, JsonValue]:
        return {"callId": self.id, "name": self.name, "arguments": self.args}


class MessageData(TypedDict):
    """A message as JSON."""

    role: Role
    content: str
    toolCalls: NotRequired[list[dict[str, Any]]]
    callId: NotRequired[str]
    name: NotRequired[str]
    isError: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the history, as `GET …/messages` returns it (EP-messages)."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""
    is_error: bool = False

    def wire(self) -> dict[str, JsonValue]:
        data: dict[str, JsonValue] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            data["toolCalls"] = [call.wire() for call in self.tool_calls]
        if self.role == "tool_result":
            data |= {"callId": self.call_id, "name": self.name, "isError": self.is_error}
        return data

    @classmethod
    def from_wire(cls, data: MessageData) -> Message:
        calls = tuple(ToolCall(call["callId"], call["name"], call["arguments"]) for call in data.get("toolCalls", ()))
        return cls(
            role=data["role"],
            content=data["content"],
            tool_calls=calls,
            call_id=data.get("callId", ""),
            name=data.get("name", ""),
            is_error=data.get("isError", False),
        )


def system(content: str) -> Message:
    """The system prompt."""
    return Message("system", content)


def user(content: str) -> Message:
    """A prompt of the user."""
    return Message("user", content)


def assistant(content: str, tool_calls: tuple[ToolCall, ...] = ()) -> Message:
    """An answer of the model, with the tool calls it requested."""
    return Message("assistant", content, tool_calls)


def tool_result(call: ToolCall, content: str, *, is_error: bool) -> Message:
    """The result of a tool call."""
    return Message("tool_result", content, call_id=call.id, name=call.name, is_error=is_error)
