"""What a tool returns, as JSON: dataclasses are objects, members of an Enum their values, tuples lists."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from typing import Any


class NotJson(ValueError):
    """This value has no JSON; the sentence says which part of it."""


def dumps(value: object) -> bytes:
    """The JSON of a value. Raises NotJson."""
    try:
        return json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise NotJson("it holds half of a surrogate pair, which is not text") from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise NotJson(str(error)) from None


def _plain(value: Any) -> object:
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"a {type(value).__name__} has no JSON")
