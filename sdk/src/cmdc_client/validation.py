"""Checks that a generated model holds values of its declared types, which its own `from_dict` does not check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import attrs

from cmdc_client._generated import models


def find_error(value: object, hint: Any, path: str = "") -> str | None:
    """Return the first type error of a value, with its path in attribute names, or None if the value is valid."""
    if hint is Any:
        return None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        errors = [find_error(value, choice, path) for choice in arguments]
        return None if None in errors else errors[0]
    if origin is Literal:
        choices = ", ".join(map(repr, arguments))
        return None if value in arguments else f"{path} is {value!r:.80}, not one of {choices}"
    if origin is list:
        if not isinstance(value, list):
            return _wrong_type(value, "a list", path)
        return _first(
            find_error(item, arguments[0], f"{path}[{index}]") for index, item in enumerate(cast("list[object]", value))
        )
    if origin is dict:
        if not isinstance(value, dict):
            return _wrong_type(value, "an object", path)
        members = cast("Mapping[Any, object]", value)
        return _first(find_error(member, arguments[1], f"{path}[{name!r}]") for name, member in members.items())
    if isinstance(hint, type) and attrs.has(hint):
        return _find_attribute_error(value, hint, path)
    return None if _is_instance(value, hint) else _wrong_type(value, _NAMES.get(hint, str(hint)), path)


_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", NoneType: "null"}


def _is_instance(value: object, expected: Any) -> bool:
    if isinstance(value, bool):  # a bool is an int in Python, but not in JSON
        return expected is bool
    return isinstance(value, int | float) if expected is float else isinstance(value, expected)


def _wrong_type(value: object, expected: str, path: str) -> str:
    return f"{path or 'it'} is {value!r:.80}, not {expected}"


def _find_attribute_error(value: object, model: type, path: str) -> str | None:
    if not isinstance(value, model):
        return _wrong_type(value, f"a {model.__name__}", path)
    return _first(find_error(getattr(value, name), hint, f"{path}.{name}".lstrip(".")) for name, hint in _hints(model))


def _first(errors: Iterable[str | None]) -> str | None:
    return next((error for error in errors if error is not None), None)


@cache
def _hints(model: type) -> tuple[tuple[str, Any], ...]:
    """Return the attributes of a model and their types."""
    # The models import one another for type checkers only, so their names must be passed in.
    hints = get_type_hints(model, localns=vars(models))
    return tuple((field.name, hints[field.name]) for field in attrs.fields(cast("Any", model)))
