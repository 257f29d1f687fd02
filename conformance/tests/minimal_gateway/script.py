"""The scripted model (PROTOCOL §10)."""

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
    """Tokens read and written."""

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
    """What the model answers to one call. `pieces` are ("thinking" or "text", piece)."""

    pieces: list[tuple[str, str]]
    calls: list[dict[str, Any]]
    usage: Usage
    delay_seconds: float = 0.0
    fail_status: int = 0
    fail_attempts: int = 0
    cut: bool = False
    name: str = ""


class ScriptFlaw(Exception):
    """The last user message holds a script that cannot be obeyed."""


class Tries:
    """How often a reply that is to fail was asked for."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def fails(self, reply: Reply) -> bool:
        if not reply.fail_status:
            return False
        self._counts[reply.name] += 1
        return reply.fail_attempts == 0 or self._counts[reply.name] <= reply.fail_attempts


def reply_to(messages: Sequence[Message]) -> Reply:
    """What the model says to this history. Raises ScriptFlaw."""
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    text: str = messages[last]["content"]
    answered = sum(message["role"] == "assistant" for message in messages[last:])
    block = _BLOCK.search(text)
    if block is None:
        return _plain(f"You said: {text}", text)
    try:
        script = json.loads(block["script"])
        if answered >= len(script["replies"]):
            return _plain("done", text)
        return _reply(script["replies"][answered], text, f"{script.get('nonce', text)} {answered}")
    except (ValueError, KeyError, TypeError, AttributeError) as flaw:
        raise ScriptFlaw(f"the script cannot be obeyed: {flaw}") from None


def _reply(given: dict[str, Any], text: str, name: str) -> Reply:
    pieces = [(kind, piece) for kind in ("thinking", "text") for piece in given.get(kind, [])]
    calls = [{"name": call["name"], "args": call.get("args", {})} for call in given.get("toolCalls", [])]
    usage, fail = given.get("usage"), given.get("fail", {})
    return Reply(
        pieces,
        calls,
        Usage(usage["promptTokens"], usage["completionTokens"])
        if usage
        else Usage(len(text.split()), len(pieces) + len(calls)),
        delay_seconds=given.get("delayMs", 0) / 1000,
        fail_status=fail.get("status", 0),
        fail_attempts=fail.get("attempts", 0),
        cut=given.get("cut", False),
        name=name,
    )


def _plain(answer: str, text: str) -> Reply:
    words = re.findall(r"\S+\s*|\s+", answer)
    return Reply([("text", word) for word in words], [], Usage(len(text.split()), len(words)))
