"""Whether a generated model holds what its annotations say: its own reading does not look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import attrs

from cmdc_client._generated import models


def flaw(value: object, hint: Any, path: str = "") -> str | None:
    """What is wrong with a value, in words; None where nothing is. A path is written as the attributes are."""
    if hint is Any:
        return None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        flaws = [flaw(value, choice, path) for choice in arguments]
        return None if None in flaws else flaws[0]
    if origin is Literal:
        return (
            None if value in arguments else f"{path} is {value!r}, which is none of {', '.join(map(repr, arguments))}"
        )
    if origin is list:
        return (
            _among(cast("list[object]", value), arguments[0], path)
            if isinstance(value, list)
            else _wrong(value, "a list", path)
        )
    if origin is dict:
        return (
            _inside(cast("dict[Any, object]", value), arguments[1], path)
            if isinstance(value, dict)
            else _wrong(value, "an object", path)
        )
    if isinstance(hint, type) and attrs.has(hint):
        return _fields(value, hint, path)
    return None if _is(value, hint) else _wrong(value, _NAMES.get(hint, str(hint)), path)


_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def _is(value: object, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _wrong(value: object, expected: str, path: str) -> str:
    return f"{path or 'it'} is {value!r:.80}, not {expected}"


def _among(values: Iterable[object], hint: Any, path: str) -> str | None:
    return _first(flaw(value, hint, f"{path}[{index}]") for index, value in enumerate(values))


def _inside(values: Mapping[Any, object], hint: Any, path: str) -> str | None:
    return _first(flaw(value, hint, f"{path}[{name!r}]") for name, value in values.items())


def _fields(value: object, kind: type, path: str) -> str | None:
    if not isinstance(value, kind):
        return _wrong(value, f"a {kind.__name__}", path)
    return _first(flaw(getattr(value, name), hint, f"{path}.{name}".lstrip(".")) for name, hint in _hints(kind))


def _first(flaws: Iterable[str | None]) -> str | None:
    return next((found for found in flaws if found is not None), None)


@cache
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    """A model's attributes and their types, whose names stand where the models import them for type checkers alone."""
    hints = get_type_hints(kind, localns=vars(models))
    return tuple((field.name, hints[field.name]) for field in attrs.fields(cast("Any", kind)))
