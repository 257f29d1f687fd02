"""From values to the JSON bytes that every reader gets.

One encoder for everything that is stored or sent, so that an event delivered twice is byte-identical (EVT-7).
"""

from __future__ import annotations

import json
from typing import Any

# Legal inside JSON strings, but clients that split a stream with `str.splitlines` would cut a line there.
_LINE_BREAKERS = (("\u0085", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> bytes:
    """Encode a JSON value, compact, in UTF-8, on one line by anybody's definition of a line.

    Raises:
        ValueError: the value holds NaN or an infinity.
    """
    return one_line(_encoder.encode(value))


def one_line(text: str) -> bytes:
    """The UTF-8 bytes of JSON text, with the line breaks that JSON would allow written as escapes."""
    if text.isascii():
        return text.encode("ascii")
    for raw, escaped in _LINE_BREAKERS:
        if raw in text:
            text = text.replace(raw, escaped)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return whole_text(text).encode()


def whole_text(text: str) -> str:
    """Unicode text made of whole characters: surrogate pairs joined, a lone surrogate replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
