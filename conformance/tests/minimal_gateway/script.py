"""The scripted model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

_BLOCK = re.compile(r"^(`{3,})script[ \t]*\n(?P<script>.*?)(?:^\1`*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """Input and output tokens."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion)

    def wire(self) -> dict[str, int]:
        return {
            "promptTokens": self.prompt,
            "completionTokens": self.completion,
            "totalTokens": self.prompt + self.completion,
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's reply to one call. `chunks` are pairs of "thinking" or "text" and the chunk."""

    chunks: list[tuple[str, str]]
    calls: list[dict[str, Any]]
    usage: Usage
    delay_seconds: float = 0.0
    fail_status: int = 0
    fail_attempts: int = 0
    cut: bool = False
    name: str = ""


class ScriptError(Exception):
    """The last user message contains an invalid script."""


class Attempts:
    """Counts the attempts of replies that fail at first."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def fails(self, reply: Reply) -> bool:
        if not reply.fail_status:
            return False
        self._counts[reply.name] += 1
        return reply.fail_attempts == 0 or self._counts[reply.name] <= reply.fail_attempts


def reply_to(messages: Sequence[Message]) -> Reply:
    """The model's reply to this history. Raises ScriptError."""
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    text: str = messages[last]["content"]
    calls_made = sum(message["role"] == "assistant" for message in messages[last:])
    block = _BLOCK.search(text)
    if block is None:
        return _plain(f"You said: {text}", text)
    try:
        script = json.loads(block["script"])
        if calls_made >= len(script["replies"]):
            return _plain("done", text)
        return _reply(script["replies"][calls_made], text, f"{script.get('nonce', text)} {calls_made}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScriptError(f"invalid script: {error}") from None


def _reply(payload: dict[str, Any], text: str, name: str) -> Reply:
    chunks = [(kind, chunk) for kind in ("thinking", "text") for chunk in payload.get(kind, [])]
    calls = [{"name": call["name"], "args": call.get("args", {})} for call in payload.get("toolCalls", [])]
    usage, fail = payload.get("usage"), payload.get("fail", {})
    return Reply(
        chunks,
        calls,
        Usage(usage["promptTokens"], usage["completionTokens"])
        if usage
        else Usage(len(text.split()), len(chunks) + len(calls)),
        delay_seconds=payload.get("delayMs", 0) / 1000,
        fail_status=fail.get("status", 0),
        fail_attempts=fail.get("attempts", 0),
        cut=payload.get("cut", False),
        name=name,
    )


def _plain(text_of_reply: str, text: str) -> Reply:
    words = re.findall(r"\S+\s*|\s+", text_of_reply)
    return Reply([("text", word) for word in words], [], Usage(len(text.split()), len(words)))
