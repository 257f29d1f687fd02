"""An upper bound for the work of validating a value against a JSON Schema.

A validator follows a schema as it is written. References that fan out can cost 2^n steps in a few lines of schema, and
`jsonschema_rs` holds the GIL meanwhile. The bound visits every pair of a subschema and a value only once, however often a
validator would visit it, so it is cheap even if validation is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

from pydantic import JsonValue

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

_ANCHORS = ("$anchor", "$dynamicAnchor")
_SAME_SCHEMA = ("not", "if", "then", "else")
_SAME_LIST = ("allOf", "anyOf", "oneOf")
_SAME_MAP = ("dependentSchemas", "dependencies")
_CHILD_SCHEMA = (
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
)
_CHILD_LIST = ("prefixItems", "items")
_CHILD_MAP = ("properties", "patternProperties")
_DEFINITION_MAP = ("$defs", "definitions")

Schema = dict[str, JsonValue]
Cost = int | float
"""A number of steps; infinite if there is no bound."""


class CostUnbounded(Exception):
    """There are too many pairs of subschema and value to visit, or a reference does not resolve."""


class ValidationCost:
    """Bounds the work of validating values against one schema."""

    def __init__(self, schema: Schema, *, max_pairs: int = 100_000) -> None:
        self._schema = schema
        self._max_pairs = max_pairs
        self._anchors = dict(_anchors(schema))

    def steps(self, value: JsonValue) -> Cost:
        """An upper bound for the steps of a validator that caches nothing."""
        try:
            return self._steps(self._schema, value, {})
        except (CostUnbounded, RecursionError):
            return math.inf

    def resolve(self, reference: JsonValue) -> JsonValue:
        """The subschema that a local reference points to.

        Raises:
            LookupError: it does not exist, or the reference leaves the schema.
        """
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise LookupError(reference)
        pointer = unquote(reference[1:])
        if pointer and not pointer.startswith("/"):
            return self._anchors[pointer]
        node: Any = self._schema
        for token in pointer.split("/")[1:]:
            key = token.replace("~1", "/").replace("~0", "~")
            node = _member(node, key)
        return cast("JsonValue", node)

    def _steps(self, schema: JsonValue, value: JsonValue, seen: dict[tuple[int, int], Cost]) -> Cost:
        if not isinstance(schema, dict):
            return 1
        pair = (id(schema), id(value))
        if pair in seen:
            return seen[pair]
        if len(seen) >= self._max_pairs:
            raise CostUnbounded
        seen[pair] = 1  # validators stop at a reference to a pair that they are visiting
        total: Cost = 1
        for part in self._for_same_value(schema):
            total += self._steps(part, value, seen)
        for part, child in _for_children(schema, value):
            total += self._steps(part, child, seen)
        seen[pair] = total
        return total

    def _for_same_value(self, schema: Schema) -> Iterator[JsonValue]:
        """The subschemas that apply to the same value."""
        yield from _parts(schema, _SAME_SCHEMA, _SAME_LIST, _SAME_MAP)
        for keyword in REFERENCES:
            if keyword in schema:
                try:
                    yield self.resolve(schema[keyword])
                except LookupError:
                    raise CostUnbounded from None


def subschemas(schema: JsonValue) -> Iterator[Schema]:
    """The schema and all subschemas, as the standard defines their places. Data, such as `enum`, is not searched."""
    pending = [schema]
    while pending:
        subschema = pending.pop()
        if isinstance(subschema, dict):
            yield subschema
            pending += _parts(subschema, (*_SAME_SCHEMA, *_CHILD_SCHEMA), (*_SAME_LIST, *_CHILD_LIST), _MAPS)


_MAPS = (*_SAME_MAP, *_CHILD_MAP, *_DEFINITION_MAP)


def _parts(
    schema: Schema, schemas: tuple[str, ...], lists: tuple[str, ...], maps: tuple[str, ...]
) -> Iterator[JsonValue]:
    """The subschemas under keywords whose value is a schema, a list of schemas, or a map of schemas."""
    for keyword in schemas:
        if isinstance(part := schema.get(keyword), dict):
            yield part
    for keyword in lists:
        if isinstance(part := schema.get(keyword), list):
            yield from part
    for keyword in maps:
        if isinstance(part := schema.get(keyword), dict):
            yield from part.values()


def _for_children(schema: Schema, value: JsonValue) -> Iterator[tuple[JsonValue, JsonValue]]:
    """Every subschema that may apply to a member of the value, with that member."""
    if isinstance(value, dict):
        common = list(_parts(schema, _CHILD_SCHEMA[:2], (), ("patternProperties",)))
        names = list(_parts(schema, ("propertyNames",), (), ()))
        properties = schema.get("properties")
        for key, child in value.items():
            if isinstance(properties, dict) and key in properties:
                yield properties[key], child
            yield from ((part, child) for part in common)
            yield from ((part, key) for part in names)
    elif isinstance(value, list):
        parts = list(_parts(schema, _CHILD_SCHEMA[3:], (), ()))
        for index, child in enumerate(value):
            for keyword in _CHILD_LIST:
                if isinstance(listed := schema.get(keyword), list) and index < len(listed):
                    yield listed[index], child
            yield from ((part, child) for part in parts)


def _anchors(schema: Schema) -> Iterator[tuple[str, JsonValue]]:
    for subschema in subschemas(schema):
        for keyword in _ANCHORS:
            if isinstance(name := subschema.get(keyword), str):
                yield name, subschema


def _member(node: Any, key: str) -> Any:
    if isinstance(node, list) and key.isdecimal():
        return cast("list[Any]", node)[int(key)]
    members = cast("dict[str, Any]", node) if isinstance(node, dict) else {}
    return members[key]
