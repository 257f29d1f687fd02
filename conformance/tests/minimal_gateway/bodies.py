"""The fields of each request body, with a predicate for their values (HTTP-3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from minimal_gateway.errors import bad_request

Predicate = Callable[[Any], bool]


def string(value: Any) -> bool:
    return isinstance(value, str)


def text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def json_object(value: Any) -> bool:
    return isinstance(value, dict)


def strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[Any]", value))


def integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def between(low: int, high: int) -> Predicate:
    return lambda value: integer(value) and low <= value <= high


def session_id(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,128}", value) is not None


SESSION: dict[str, Predicate] = {
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
    "providerOpts": json_object,
}
PROMPT: dict[str, Predicate] = {"text": text}
DECISION: dict[str, Predicate] = {"approvalId": string}
RESPONSE: dict[str, Predicate] = {"ref": string, "response": string}
TOOL: dict[str, Predicate] = {
    "name": string,
    "description": string,
    "parameters": json_object,
    "callbackUrl": string,
    "timeoutMs": integer,
}


def check(payload: dict[str, Any], fields: dict[str, Predicate], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Validate a body. Raises ApiError naming an unknown, missing or invalid field."""
    for name in payload:
        if name not in fields:
            raise bad_request(f"{name}: unknown field")
    for name, is_valid in fields.items():
        if name in payload and not is_valid(payload[name]):
            raise bad_request(f"{name}: invalid value")
        if name not in payload and name not in optional:
            raise bad_request(f"{name}: required")
    return payload
