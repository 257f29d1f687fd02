"""JSON that can be kept and sent on exactly, or a refusal (HTTP-4)."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from minimal_gateway.refusals import wrong

_DEEPEST = 64


def read_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in these bytes. Raises Refusal."""
    if raw.startswith(b"\xef\xbb\xbf"):
        raise wrong("the JSON begins with a byte order mark")
    try:
        value: object = json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except UnicodeDecodeError:
        raise wrong("the JSON is not UTF-8") from None
    except RecursionError:
        raise wrong("the JSON is nested too deeply") from None
    except ValueError as flaw:
        raise wrong(f"this is not acceptable JSON: {flaw}") from None
    if not isinstance(value, dict):
        raise wrong("the JSON is not an object")
    _check(cast("object", value))
    return cast("dict[str, Any]", value)


def _check(value: object) -> None:
    """Refuse what json lets through: depth, U+0000, halves of surrogate pairs. Without recursion, whatever the depth."""
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if "\0" in item or any("\ud800" <= letter <= "\udfff" for letter in item):
                raise wrong("the JSON holds a character that is not text")
        elif isinstance(item, dict | list):
            if depth > _DEEPEST:
                raise wrong(f"the JSON is nested deeper than {_DEEPEST} levels")
            inside = cast("dict[str, object] | list[object]", item)
            parts = [*inside, *inside.values()] if isinstance(inside, dict) else inside
            waiting += [(part, depth + 1) for part in parts]


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(members)) < len(members):
        raise ValueError("a key is given twice")
    return dict(members)


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError("an integer does not fit into 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    if math.isinf(float(digits)):
        raise ValueError("a number is too large")
    return float(digits)


def _constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
