"""JSON as HTTP-4 wants it: read exactly or refused, with a sentence.

The standard library reads a lot that is not JSON, or that cannot be stored and sent on: lone surrogates, NaN, numbers
of any size, duplicate keys. This reader takes the raw bytes of HTTP bodies, WebSocket frames and callback answers. What
it gives back can be encoded again, fits into SQLite's integers, and never holds U+0000. It knows nothing of what a body
means: that is for the models that take the value from here.
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
# A string, or what the end of the input left of one, so that no quote is ever looked at twice.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
# In valid JSON a backslash always begins an escape, so the matches follow one another without a gap that matters.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<surrogate>\\u[dD][89a-fA-F]..)|(?P<null>\\u0000)|\\.", re.DOTALL
)


class NotStrictJson(ValueError):
    """The bytes are not JSON as HTTP-4 wants it; the sentence says what is wrong and, where known, where."""


def parse_object(raw: bytes) -> dict[str, JsonValue]:
    """Read a JSON object. Raises `NotStrictJson`, also for any other JSON value."""
    value = parse_value(raw)
    if not isinstance(value, dict):
        raise NotStrictJson(f"the JSON must be an object, not {_kind(value)}")
    return value


def parse_value(raw: bytes) -> JsonValue:
    """Read any JSON value, in time proportional to its length. Raises `NotStrictJson`."""
    text = _text(raw)
    _refuse_depth(raw)
    try:
        value = cast("JsonValue", _DECODER.decode(text))
    except json.JSONDecodeError as error:
        raise NotStrictJson(_what_is_wrong(error)) from None
    if b"\\u" in raw:
        _refuse_escapes(raw)
    return value


def _text(raw: bytes) -> str:
    if not raw or raw.isspace():
        raise NotStrictJson("there is no JSON here: the input is empty")
    if raw.startswith(_BOM):
        raise NotStrictJson("the JSON must not begin with a byte order mark")
    if (at := raw.find(0)) >= 0:
        raise NotStrictJson(f"the character U+0000 at byte {at} is not allowed; JSON is sent as UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotStrictJson(f"the JSON is not valid UTF-8: {error.reason} at byte {error.start}") from None


def _refuse_depth(raw: bytes) -> None:
    """Refuse deep nesting before the parser sees it: the parser recurses.

    Up to the first syntax error, where the parser stops, the brackets outside strings are balanced, and what is counted
    here is its depth.
    """
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    if any(depth > MAX_DEPTH for depth in accumulate(map(_STEPS.__getitem__, brackets))):
        raise NotStrictJson(f"the JSON is nested deeper than {MAX_DEPTH} levels")


def _refuse_escapes(raw: bytes) -> None:
    for escape in _ESCAPE.finditer(raw):
        match escape.lastgroup:
            case "surrogate":
                raise NotStrictJson(f"half of a surrogate pair at byte {escape.start()} is not text")
            case "null":
                raise NotStrictJson(f"the character U+0000 at byte {escape.start()} is not allowed")
            case _:
                pass


def _integer(digits: str) -> int:
    # The length first: making an int of a million digits takes its time, and Python refuses it besides.
    if len(digits) > len(str(INT64.start)) or (number := int(digits)) not in INT64:
        raise NotStrictJson(f"the integer {_shown(digits)} does not fit into 64 bits")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotStrictJson(f"the number {_shown(digits)} is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise NotStrictJson(f"{name} is not JSON")


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise NotStrictJson(f"the key {_shown(_first_repeated(key for key, _ in members))} is given twice")
    return found


def _first_repeated(keys: Iterable[str]) -> str:
    seen: set[str] = set()
    # `set.add` gives None: a key is kept when it was there before.
    return next(key for key in keys if key in seen or seen.add(key))


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant, strict=True
)


def _what_is_wrong(error: json.JSONDecodeError) -> str:
    reason = error.msg.removesuffix(" at").removesuffix(" starting").rstrip(": ")
    return f"the JSON is not valid at line {error.lineno}, column {error.colno}: {reason[:1].lower()}{reason[1:]}"


def _shown(given: str) -> str:
    """As much of the input as an error may repeat, in plain ASCII."""
    shown = ascii(given[:40])
    return shown if len(given) <= 40 and len(shown) <= 40 else f"{shown[:36]}..."


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
