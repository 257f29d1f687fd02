"""Parsing of a streamed chat completion."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from cmdc_gateway.kernel.signals import ModelSignal, TextArrived, ThoughtArrived
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.chat import ToolCallAssembler
from cmdc_gateway.providers.chat_completions.errors import stream_error
from cmdc_gateway.providers.errors import INVALID_RESPONSE
from cmdc_gateway.providers.provider import ModelError

if TYPE_CHECKING:
    import aiohttp

_MAX_LINE_BYTES = 64 * 1024 * 1024
_DATA = b"data:"
_DONE = b"[DONE]"


class Completion:
    """What has arrived of one completion. `has_output` is whether readers have seen any of it."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self.tool_calls = ToolCallAssembler()
        self.finished = False
        self.has_output = False
        self.output_bytes = 0
        self.usage: TokenUsage | None = None
        self.cached_tokens = 0
        self.cost_usd: float | None = None
        self._secrets = secrets

    def feed(self, data: bytes) -> list[ModelSignal]:
        """Parse the data of one event, and return its chunks. Raises ModelError."""
        if data == _DONE:
            self.finished = True
            return []
        try:
            return self._chunk(json.loads(data))
        except (AttributeError, TypeError, KeyError):
            raise ModelError(INVALID_RESPONSE) from None

    def _chunk(self, chunk: dict[str, Any]) -> list[ModelSignal]:
        if error := chunk.get("error"):
            raise stream_error(error, self._secrets)
        usage = chunk.get("usage") or (chunk["x_groq"].get("usage") if "x_groq" in chunk else None)
        if usage:
            self._record_usage(usage)
        choices = chunk.get("choices")
        if not choices:
            return []
        choice = choices[0]
        if choice.get("finish_reason"):
            self.finished = True
        return self._delta(choice.get("delta") or choice.get("message") or {})

    def _delta(self, delta: dict[str, Any]) -> list[ModelSignal]:
        signals: list[ModelSignal] = []
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            signals.append(ThoughtArrived(self._output(reasoning)))
        if text := delta.get("content"):
            signals.append(TextArrived(self._output(text)))
        for position, fragment in enumerate(delta.get("tool_calls") or ()):
            function = fragment.get("function") or {}
            arguments = function.get("arguments") or ""
            self.tool_calls.add(fragment.get("index", position), fragment.get("id"), function.get("name"), arguments)
            self._count(arguments)
            # Arguments are not shown until they are complete. An empty chunk tells the stall timer that they arrive.
            signals.append(TextArrived(""))
        return signals

    def _output(self, text: str) -> str:
        self.has_output = True
        self._count(text)
        return text

    def _count(self, text: str) -> None:
        self.output_bytes += len(text) if text.isascii() else len(text.encode(errors="replace"))

    def _record_usage(self, usage: dict[str, Any]) -> None:
        prompt_tokens, completion_tokens = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        if prompt_tokens or completion_tokens:
            self.usage = TokenUsage(prompt_tokens, completion_tokens)
            details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
            self.cached_tokens = int(details.get("cached_tokens") or 0)
            cost = usage.get("cost")
            self.cost_usd = float(cost) if isinstance(cost, int | float) else None


async def event_data(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    """The data of each server-sent event of a response; the whole body if it is JSON. Raises ModelError."""
    is_json = response.content_type == "application/json"
    rest: list[bytes] = []  # of an incomplete line, or of the JSON body
    size = 0
    while received := await response.content.readany():
        lines = [received] if is_json else received.split(b"\n")
        if len(lines) > 1:
            lines[0] = b"".join((*rest, lines[0]))
            rest, size = [], 0
        for line in lines[:-1]:
            if line.startswith(_DATA):
                yield line[len(_DATA) :].strip()
        rest.append(lines[-1])
        size += len(lines[-1])
        if size > _MAX_LINE_BYTES:
            raise ModelError(INVALID_RESPONSE)
    last = b"".join(rest)
    if is_json or last.startswith(_DATA):
        yield last.removeprefix(_DATA).strip()
