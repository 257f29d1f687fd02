"""The subset of JSON Schema that validates arguments of tools (CB-1, CB-2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from minimal_gateway.errors import ApiError

Schema = dict[str, Any]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    ),
}
_KEYWORDS: dict[str, Callable[[Any], bool]] = {
    "properties": lambda value: isinstance(value, dict),
    "required": lambda value: (
        isinstance(value, list) and all(isinstance(name, str) for name in cast("list[Any]", value))
    ),
    "enum": lambda value: isinstance(value, list),
    "pattern": lambda value: isinstance(value, str),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems"),
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _TYPES["number"]),
    **dict.fromkeys(("items", "additionalProperties", "not"), lambda value: isinstance(value, dict | bool)),
    **dict.fromkeys(
        ("anyOf", "allOf", "oneOf"), lambda value: isinstance(value, list) and bool(cast("list[Any]", value))
    ),
}


def check_parameters(schema: Schema) -> None:
    """Raise ApiError unless this is a valid schema of an object."""
    if schema.get("type") != "object":
        raise ApiError("registration_failed", "parameters: the schema must be of type object")
    _check(schema, "parameters")


def _check(schema: Any, path: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise ApiError("registration_failed", f"{path}: invalid schema")
    payload = cast("Schema", schema)
    types = payload.get("type", [])
    if not all(isinstance(name, str) and name in _TYPES for name in ([types] if isinstance(types, str) else types)):
        raise ApiError("registration_failed", f"{path}: unknown type")
    for keyword, is_valid in _KEYWORDS.items():
        if keyword in payload and not is_valid(payload[keyword]):
            raise ApiError("registration_failed", f"{path}: {keyword} is invalid")
    for name in ("items", "additionalProperties", "not"):
        _check(payload.get(name, True), f"{path}.{name}")
    for name in ("anyOf", "allOf", "oneOf"):
        for part in payload.get(name, []):
            _check(part, f"{path}.{name}")
    for name, part in payload.get("properties", {}).items():
        _check(part, f"{path}.{name}")


def validation_error(schema: Any, value: Any, path: str = "the arguments") -> str | None:
    """The first error of a value, or None."""
    if isinstance(schema, bool):
        return None if schema else f"{path}: no value is allowed"
    types = schema.get("type", list(_TYPES))
    if not any(_TYPES[name](value) for name in ([types] if isinstance(types, str) else types)):
        return f"{path}: must be of type {types}"
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return f"{path}: is not an allowed value"
    errors = [validation_error(part, value, path) for part in schema.get("anyOf", [])]
    if errors and None not in errors:
        return errors[0]
    if "oneOf" in schema and [validation_error(part, value, path) for part in schema["oneOf"]].count(None) != 1:
        return f"{path}: does not match exactly one schema"
    if "not" in schema and validation_error(schema["not"], value, path) is None:
        return f"{path}: matches a schema that it must not match"
    parts = [validation_error(part, value, path) for part in schema.get("allOf", [])]
    return next(filter(None, [*parts, _nested_error(schema, value, path)]), None)


def _nested_error(schema: Schema, value: Any, path: str) -> str | None:
    match value:
        case dict():
            return _object_error(schema, cast("dict[str, Any]", value), path)
        case list():
            items = cast("list[Any]", value)
            if not schema.get("minItems", 0) <= len(items) <= schema.get("maxItems", len(items)):
                return f"{path}: has too few or too many items"
            errors = (
                validation_error(schema.get("items", True), item, f"{path}[{index}]")
                for index, item in enumerate(items)
            )
            return next(filter(None, errors), None)
        case str():
            if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
                return f"{path}: is too short or too long"
            return None if re.search(schema.get("pattern", ""), value) else f"{path}: does not match its pattern"
        case bool() | None:
            return None
        case _:
            low = schema.get("minimum", value) <= value and not value <= schema.get("exclusiveMinimum", float("-inf"))
            high = value <= schema.get("maximum", value) and not value >= schema.get("exclusiveMaximum", float("inf"))
            return None if low and high else f"{path}: is out of range"


def _object_error(schema: Schema, value: dict[str, Any], path: str) -> str | None:
    for name in schema.get("required", []):
        if name not in value:
            return f"{path}.{name}: required"
    properties = schema.get("properties", {})
    other = schema.get("additionalProperties", True)
    errors = (validation_error(properties.get(name, other), item, f"{path}.{name}") for name, item in value.items())
    return next(filter(None, errors), None)
