"""Serializes the result of a tool as JSON."""

from __future__ import annotations

import json

from pydantic_core import to_jsonable_python


class NotSerializable(ValueError):
    """A value cannot be represented as JSON. The message says which part of it."""


def to_json(value: object) -> bytes:
    """Return the JSON of a value, which may contain everything that pydantic serializes. Raises NotSerializable."""
    try:
        text = json.dumps(value, default=to_jsonable_python, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError:
        raise NotSerializable("it contains a lone surrogate, which is not valid Unicode text") from None
    except RecursionError:
        raise NotSerializable("it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise NotSerializable(str(error)) from None
