"""The JSON encoder for everything that is stored or sent.

There is exactly one, so that an event delivered twice is byte-identical (EVT-7).
"""

from __future__ import annotations

import json
from typing import Any

# Valid inside JSON strings, but clients that split a stream with `str.splitlines` break lines at them.
_LINE_BREAKERS = (("\u0085", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> bytes:
    """Encode a JSON value as compact UTF-8 on one line, free of Unicode line breaks.

    Raises:
        ValueError: the value contains NaN or an infinity.
    """
    return one_line(_encoder.encode(value))


def one_line(text: str) -> bytes:
    """Encode JSON text as UTF-8, with Unicode line breaks written as escapes."""
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
    """Join surrogate pairs, and replace lone surrogates by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
