"""Conversion between the gateway's types and OpenAI's Chat Completions format, which litellm accepts for every model."""

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
    """The history as messages of a chat completion."""
    return [_chat_message(message) for message in messages]


def function_tools(tools: Sequence[ToolSpec]) -> list[JsonValue]:
    """The tools as functions that the model can call."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ]


def estimated_usage(request: ModelRequest, output_bytes: int) -> TokenUsage:
    """The usage of a call whose provider does not report it: one token per four bytes, rounded up.

    The input is the content and the tool calls of all messages, and the tools with their schemas. The output is text,
    reasoning, and the arguments of tool calls.
    """
    input_bytes = sum(len(dumps(message.content)) - 2 for message in request.messages)
    input_bytes += sum(len(dumps(call.args)) for message in request.messages for call in message.tool_calls)
    input_bytes += sum(len(tool.description.encode()) + len(dumps(tool.parameters)) for tool in request.tools)
    return TokenUsage(prompt_tokens=-(-input_bytes // 4), completion_tokens=-(-output_bytes // 4))


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
class _PartialCall:
    """A tool call of which some fragments have arrived."""

    id: str | None
    name: str
    arguments: list[str] = field(default_factory=list[str])

    def request(self) -> ToolRequested:
        arguments = whole_text("".join(self.arguments))
        if not self.name:
            return ToolRequested("", {}, error="The tool call has no name.")
        if not arguments.strip():
            return ToolRequested(self.name, {})
        try:
            return ToolRequested(self.name, parse_object(arguments.encode()))
        except NotStrictJson as error:
            return ToolRequested(self.name, {}, error=f"The arguments of {self.name} are not a JSON object: {error}.")


class ToolCallAssembler:
    """Assembles tool calls from the fragments in a stream. The calls keep the order in which they began."""

    def __init__(self) -> None:
        self._calls: list[_PartialCall] = []
        self._by_index: dict[int, _PartialCall] = {}

    def add(self, index: int, call_id: str | None, name: str | None, arguments: str | None) -> None:
        """Add a fragment. After the first fragment of a call, most providers send only `index` and `arguments`."""
        call = self._by_index.get(index)
        if call is None or _begins_another(call, call_id, name):
            call = self._by_index[index] = _PartialCall(call_id, name or "")
            self._calls.append(call)
        call.id = call.id or call_id
        call.name = call.name or name or ""
        if arguments:
            call.arguments.append(arguments)

    def requests(self) -> list[ToolRequested]:
        return [call.request() for call in self._calls]


def _begins_another(call: _PartialCall, call_id: str | None, name: str | None) -> bool:
    """Whether a fragment with the index of `call` begins another call: some providers give every call the index 0."""
    if call_id and call.id:
        return call_id != call.id
    if not name or not call.name:
        return False
    return name != call.name or (bool(call.arguments) and call.request().error is None)
