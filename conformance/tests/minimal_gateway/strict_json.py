"""A strict JSON parser (HTTP-4)."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from minimal_gateway.errors import bad_request

_MAX_DEPTH = 64


def read_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ApiError."""
    if raw.startswith(b"\xef\xbb\xbf"):
        raise bad_request("the JSON begins with a byte order mark")
    try:
        value: object = json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except UnicodeDecodeError:
        raise bad_request("the JSON is not UTF-8") from None
    except RecursionError:
        raise bad_request("the JSON is nested too deeply") from None
    except ValueError as error:
        raise bad_request(f"invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad_request("the JSON is not an object")
    _check(cast("object", value))
    return cast("dict[str, Any]", value)


def _check(value: object) -> None:
    """Reject what `json` accepts: deep nesting, U+0000, lone surrogates. Iterative, because the depth is unbounded."""
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if "\0" in item or any("\ud800" <= letter <= "\udfff" for letter in item):
                raise bad_request("the JSON contains an invalid character")
        elif isinstance(item, dict | list):
            if depth > _MAX_DEPTH:
                raise bad_request(f"the JSON is nested deeper than {_MAX_DEPTH} levels")
            inside = cast("dict[str, object] | list[object]", item)
            parts = [*inside, *inside.values()] if isinstance(inside, dict) else inside
            waiting += [(part, depth + 1) for part in parts]


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(members)) < len(members):
        raise ValueError("duplicate key")
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
