"""Between our words and those of OpenAI's chat format, which litellm translates into everybody else's.

Pure: the history and the tools on their way to a model, the fragments of its tool calls on their way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from cmdc_gateway.kernel.signals import ToolRequested
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.encoding import dumps, whole_text
from cmdc_gateway.protocol.history import Message, TokenUsage
from cmdc_gateway.protocol.strict import NotStrictJson, parse_object
from cmdc_gateway.providers.provider import ModelRequest

ChatMessage = dict[str, JsonValue]


def chat_messages(messages: Sequence[Message]) -> list[ChatMessage]:
    """The history as a chat."""
    return [_chat_message(message) for message in messages]


def functions(tools: Sequence[ToolSpec]) -> list[JsonValue]:
    """The tools on offer, as functions."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ]


def estimated_usage(request: ModelRequest, answer_bytes: int) -> TokenUsage:
    """What a call has used when the provider does not say: a token for every four bytes, rounded up.

    Read are the contents and tool calls of all messages and the descriptions of the tools; written is the text, the
    reasoning and the arguments of tool calls.
    """
    read = sum(len(dumps(message.content)) - 2 for message in request.messages)
    read += sum(len(dumps(call.args)) for message in request.messages for call in message.tool_calls)
    read += sum(len(tool.description.encode()) + len(dumps(tool.parameters)) for tool in request.tools)
    return TokenUsage(prompt_tokens=-(-read // 4), completion_tokens=-(-answer_bytes // 4))


def _chat_message(message: Message) -> ChatMessage:
    match message.role:
        case "tool_result":
            return {"role": "tool", "tool_call_id": message.call_id, "name": message.name, "content": message.content}
        case "assistant" if message.tool_calls:
            calls: list[JsonValue] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": dumps(call.args).decode()},
                }
                for call in message.tool_calls
            ]
            return {"role": "assistant", "content": message.content or None, "tool_calls": calls}
        case _:
            return {"role": message.role, "content": message.content}


@dataclass(slots=True)
class _Call:
    """A tool call of which some fragments have come."""

    id: str | None
    name: str
    pieces: list[str] = field(default_factory=list[str])

    def request(self) -> ToolRequested:
        text = whole_text("".join(self.pieces))
        if not self.name:
            return ToolRequested("", {}, error="The tool call has no name.")
        if not text.strip():
            return ToolRequested(self.name, {})
        try:
            return ToolRequested(self.name, parse_object(text.encode()))
        except NotStrictJson as error:
            return ToolRequested(self.name, {}, error=f"The arguments of {self.name} cannot be read: {error}.")


class ToolFragments:
    """Tool calls put together from the pieces that a stream brings, in the order in which they began."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}

    def add(self, index: int, call_id: str | None, name: str | None, arguments: str | None) -> None:
        """Take in one fragment. After the first one of a call, mostly only `index` and `arguments` are given."""
        call = self._open.get(index)
        if call is None or _is_another(call, call_id, name):
            call = self._open[index] = _Call(call_id, name or "")
            self._calls.append(call)
        call.id = call.id or call_id
        call.name = call.name or name or ""
        if arguments:
            call.pieces.append(arguments)

    def requests(self) -> list[ToolRequested]:
        return [call.request() for call in self._calls]


def _is_another(call: _Call, call_id: str | None, name: str | None) -> bool:
    """True where a fragment begins a new call although its index is taken: some providers number every call 0."""
    if call_id and call.id:
        return call_id != call.id
    if not name or not call.name:
        return False
    return name != call.name or (bool(call.pieces) and call.request().error is None)
