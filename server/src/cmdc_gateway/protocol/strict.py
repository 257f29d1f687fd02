"""A strict JSON parser (HTTP-4) for the raw bytes of HTTP bodies, WebSocket messages and callback responses.

The standard library accepts input that is not JSON, or that cannot be stored and sent again: lone surrogates, NaN,
integers of any size, duplicate keys. Values that pass this parser can be encoded again, fit into 64-bit integers, and
never contain U+0000. Validating what they mean is left to the models of the bodies.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NoReturn, cast

from pydantic import JsonValue

MAX_DEPTH = 64
INT64 = range(-(2**63), 2**63)

_BOM = b"\xef\xbb\xbf"
# A string, also one that is not terminated, so that no quote is scanned twice.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
# In valid JSON a backslash always starts an escape, so consecutive matches cover every escape.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<surrogate>\\u[dD][89a-fA-F]..)|(?P<null>\\u0000)|\\.", re.DOTALL
)


class NotStrictJson(ValueError):
    """The bytes are not strict JSON (HTTP-4); the message says what is wrong and, if known, where."""


def parse_object(raw: bytes) -> dict[str, JsonValue]:
    """Parse a JSON object. Raises `NotStrictJson`, also for any other JSON value."""
    value = parse_value(raw)
    if not isinstance(value, dict):
        raise NotStrictJson(f"the JSON must be an object, not {_kind(value)}")
    return value


def parse_value(raw: bytes) -> JsonValue:
    """Parse any JSON value in linear time. Raises `NotStrictJson`."""
    text = _text(raw)
    _check_depth(raw)
    try:
        value = cast("JsonValue", _DECODER.decode(text))
    except json.JSONDecodeError as error:
        raise NotStrictJson(_syntax_error(error)) from None
    if b"\\u" in raw:
        _check_escapes(raw)
    return value


def _text(raw: bytes) -> str:
    if not raw or raw.isspace():
        raise NotStrictJson("the input is empty; a JSON value is expected")
    if raw.startswith(_BOM):
        raise NotStrictJson("the JSON must not begin with a byte order mark")
    if (at := raw.find(0)) >= 0:
        raise NotStrictJson(f"the character U+0000 at byte {at} is not allowed; send JSON as UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotStrictJson(f"the JSON is not valid UTF-8: {error.reason} at byte {error.start}") from None


def _check_depth(raw: bytes) -> None:
    """Reject deep nesting before the parser, which is recursive, sees it.

    Up to the first syntax error, where the parser stops, the brackets outside strings are balanced, so that their
    running sum is the nesting depth.
    """
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    if any(depth > MAX_DEPTH for depth in accumulate(map(_STEPS.__getitem__, brackets))):
        raise NotStrictJson(f"the JSON is nested deeper than {MAX_DEPTH} levels")


def _check_escapes(raw: bytes) -> None:
    for escape in _ESCAPE.finditer(raw):
        match escape.lastgroup:
            case "surrogate":
                raise NotStrictJson(f"the lone surrogate at byte {escape.start()} is not valid text")
            case "null":
                raise NotStrictJson(f"the character U+0000 at byte {escape.start()} is not allowed")
            case _:
                pass


def _integer(digits: str) -> int:
    # Check the length first: converting a million digits is slow, and Python refuses it.
    if len(digits) > len(str(INT64.start)) or (number := int(digits)) not in INT64:
        raise NotStrictJson(f"the integer {_excerpt(digits)} does not fit into 64 bits")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotStrictJson(f"the number {_excerpt(digits)} is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise NotStrictJson(f"{name} is not JSON")


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise NotStrictJson(f"the key {_excerpt(_first_repeated(key for key, _ in members))} is duplicated")
    return found


def _first_repeated(keys: Iterable[str]) -> str:
    seen: set[str] = set()
    # `set.add` returns None, so the first key that is already in the set is returned.
    return next(key for key in keys if key in seen or seen.add(key))


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant, strict=True
)


def _syntax_error(error: json.JSONDecodeError) -> str:
    reason = error.msg.removesuffix(" at").removesuffix(" starting").rstrip(": ")
    return f"the JSON is not valid at line {error.lineno}, column {error.colno}: {reason[:1].lower()}{reason[1:]}"


def _excerpt(text: str) -> str:
    """A short ASCII excerpt of the input for an error message."""
    excerpt = ascii(text[:40])
    return excerpt if len(text) <= 40 and len(excerpt) <= 40 else f"{excerpt[:36]}..."


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "a number"
