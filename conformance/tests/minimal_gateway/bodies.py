"""What a body may hold: each field by name, with what its value must be (HTTP-3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from minimal_gateway.refusals import wrong

Fits = Callable[[Any], bool]


def string(value: Any) -> bool:
    return isinstance(value, str)


def text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def an_object(value: Any) -> bool:
    return isinstance(value, dict)


def strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[Any]", value))


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def between(low: int, high: int) -> Fits:
    return lambda value: whole(value) and low <= value <= high


def session_id(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,128}", value) is not None


SESSION: dict[str, Fits] = {
    "model": text,
    "sessionId": session_id,
    "systemPrompt": string,
    "workingDir": string,
    "tools": strings,
    "plugins": strings,
    "blueprint": string,
    "maxTurns": between(1, 1000),
    "maxTokens": between(1, 2**31 - 1),
    "skillsDirs": strings,
    "providerOpts": an_object,
}
PROMPT: dict[str, Fits] = {"text": text}
DECISION: dict[str, Fits] = {"approvalId": string}
RESPONSE: dict[str, Fits] = {"ref": string, "response": string}
TOOL: dict[str, Fits] = {
    "name": string,
    "description": string,
    "parameters": an_object,
    "callbackUrl": string,
    "timeoutMs": whole,
}


def check(given: dict[str, Any], fields: dict[str, Fits], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The body, if it holds these fields and no other. Raises Refusal, naming the field that is wrong."""
    for name in given:
        if name not in fields:
            raise wrong(f"{name}: there is no such field")
    for name, fits in fields.items():
        if name in given and not fits(given[name]):
            raise wrong(f"{name}: this is not what it should be")
        if name not in given and name not in optional:
            raise wrong(f"{name}: is required")
    return given
