"""How much work it is to check a value against a JSON Schema, without doing it.

A validator walks a schema as it is written. Where `$ref`s fan out that can be 2^n steps for a few lines of schema, and
`jsonschema_rs` holds the interpreter's lock meanwhile. Here every pair of a subschema and a value is looked at once,
however often a validator would come back to it, so the bound is cheap where the work is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

from pydantic import JsonValue

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

_ANCHORS = ("$anchor", "$dynamicAnchor")
_SELF_ONE = ("not", "if", "then", "else")
_SELF_LIST = ("allOf", "anyOf", "oneOf")
_SELF_NAMED = ("dependentSchemas", "dependencies")
_CHILD_ONE = (
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
)
_CHILD_LIST = ("prefixItems", "items")
_CHILD_NAMED = ("properties", "patternProperties")
_DEFINITIONS = ("$defs", "definitions")

Schema = dict[str, JsonValue]
Cost = int | float
"""A number of steps; infinite for what cannot be bounded."""


class TooMuch(Exception):
    """More pairs of subschema and value than are worth looking at."""


class ValidationCost:
    """Bounds the work of checking values against one schema."""

    def __init__(self, schema: Schema, *, max_pairs: int = 100_000) -> None:
        self._schema = schema
        self._max_pairs = max_pairs
        self._anchors = dict(_anchors(schema))

    def steps(self, value: JsonValue) -> Cost:
        """An upper bound of the steps a validator needs that does not remember what it has seen."""
        try:
            return self._steps(self._schema, value, {})
        except (TooMuch, RecursionError):
            return math.inf

    def target(self, reference: JsonValue) -> JsonValue:
        """What a local reference points to.

        Raises:
            LookupError: nothing, or the reference leaves the schema.
        """
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise LookupError(reference)
        pointer = unquote(reference[1:])
        if pointer and not pointer.startswith("/"):
            return self._anchors[pointer]
        found: Any = self._schema
        for token in pointer.split("/")[1:]:
            key = token.replace("~1", "/").replace("~0", "~")
            found = _member(found, key)
        return cast("JsonValue", found)

    def _steps(self, schema: JsonValue, value: JsonValue, seen: dict[tuple[int, int], Cost]) -> Cost:
        if not isinstance(schema, dict):
            return 1
        pair = (id(schema), id(value))
        if pair in seen:
            return seen[pair]
        if len(seen) >= self._max_pairs:
            raise TooMuch
        seen[pair] = 1  # a reference that comes back to the same place does no more work: validators stop there
        total: Cost = 1
        for part in self._on_itself(schema):
            total += self._steps(part, value, seen)
        for part, child in _on_children(schema, value):
            total += self._steps(part, child, seen)
        seen[pair] = total
        return total

    def _on_itself(self, schema: Schema) -> Iterator[JsonValue]:
        """The subschemas that are applied to the same value."""
        yield from _parts(schema, _SELF_ONE, _SELF_LIST, _SELF_NAMED)
        for keyword in REFERENCES:
            if keyword in schema:
                try:
                    yield self.target(schema[keyword])
                except LookupError:
                    raise TooMuch from None


def subschemas(schema: JsonValue) -> Iterator[Schema]:
    """The schema and every schema inside it, at the places where the standard puts them. Data is not looked into."""
    waiting = [schema]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting += _parts(found, (*_SELF_ONE, *_CHILD_ONE), (*_SELF_LIST, *_CHILD_LIST), _NAMED)


_NAMED = (*_SELF_NAMED, *_CHILD_NAMED, *_DEFINITIONS)


def _parts(schema: Schema, one: tuple[str, ...], lists: tuple[str, ...], named: tuple[str, ...]) -> Iterator[JsonValue]:
    for keyword in one:
        if isinstance(part := schema.get(keyword), dict):
            yield part
    for keyword in lists:
        if isinstance(part := schema.get(keyword), list):
            yield from part
    for keyword in named:
        if isinstance(part := schema.get(keyword), dict):
            yield from part.values()


def _on_children(schema: Schema, value: JsonValue) -> Iterator[tuple[JsonValue, JsonValue]]:
    """Every subschema that may be applied to a member of the value, with that member."""
    if isinstance(value, dict):
        common = list(_parts(schema, _CHILD_ONE[:2], (), ("patternProperties",)))
        names = list(_parts(schema, ("propertyNames",), (), ()))
        properties = schema.get("properties")
        for key, child in value.items():
            if isinstance(properties, dict) and key in properties:
                yield properties[key], child
            yield from ((part, child) for part in common)
            yield from ((part, key) for part in names)
    elif isinstance(value, list):
        parts = list(_parts(schema, _CHILD_ONE[3:], (), ()))
        for at, child in enumerate(value):
            for keyword in _CHILD_LIST:
                if isinstance(listed := schema.get(keyword), list) and at < len(listed):
                    yield listed[at], child
            yield from ((part, child) for part in parts)


def _anchors(schema: Schema) -> Iterator[tuple[str, JsonValue]]:
    for found in subschemas(schema):
        for keyword in _ANCHORS:
            if isinstance(name := found.get(keyword), str):
                yield name, found


def _member(found: Any, key: str) -> Any:
    if isinstance(found, list) and key.isdecimal():
        return cast("list[Any]", found)[int(key)]
    members = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return members[key]
