"""Validation of a tool's arguments against its JSON Schema.

Schemas come from tenants and arguments from models, so both may be hostile: no reference is fetched, patterns take linear
time, and validation that would take too long is rejected.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import jsonschema_rs
from pydantic import JsonValue

from cmdc_gateway.protocol.encoding import dumps, whole_text
from cmdc_gateway.tools.validation_cost import REFERENCES, ValidationCost, subschemas

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_PATTERNS: Final = 200
# With `unevaluated…`, the compiler follows every path of references: n references make up to 3^(n/3) paths.
MAX_REFERENCES_UNEVALUATED: Final = 16
MAX_STEPS: Final = 1_000_000
# Collecting the violations costs a thousand times as much as deciding whether there is one.
MAX_STEPS_FOR_DETAILS: Final = 5_000
MAX_VIOLATIONS: Final = 3

# An engine without look-around and back-references: linear time, and a bounded size of compiled patterns.
_PATTERN_OPTIONS: Final = jsonschema_rs.RegexOptions(size_limit=256 * 1024, dfa_size_limit=256 * 1024)
_UNEVALUATED: Final = ("unevaluatedProperties", "unevaluatedItems")
# Stands for the value in messages: it may be long or secret.
_MASK: Final = "the value"


class InvalidSchema(ValueError):
    """Not a usable schema for the arguments of a tool; the message says why."""


class Parameters:
    """The compiled schema of a tool's arguments (CB-1)."""

    def __init__(self, schema: dict[str, JsonValue]) -> None:
        """Compile it. Raises `InvalidSchema`."""
        _check_size(schema)
        if schema.get("type") != "object":
            raise InvalidSchema('the schema must have "type": "object"')
        self._cost = ValidationCost(schema)
        _check_parts(schema, self._cost)
        try:
            self._validator = jsonschema_rs.validator_for(
                schema, offline=True, validate_formats=False, pattern_options=_PATTERN_OPTIONS, mask=_MASK
            )
        except jsonschema_rs.ValidationError as error:
            raise InvalidSchema(f"not a valid JSON Schema: {_violation(error, 'schema')}{_hint(error)}") from None
        except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
            raise InvalidSchema(f"not a valid JSON Schema: {_shorten(str(error), 200)}") from None

    def error(self, args: dict[str, JsonValue]) -> str | None:
        """Why these arguments are invalid, as a message for the model; None if they are valid."""
        steps = self._cost.steps(args)
        if steps > MAX_STEPS:
            return "the arguments are too large to be validated against the schema of this tool"
        try:
            if self._validator.is_valid(args):
                return None
            if steps > MAX_STEPS_FOR_DETAILS:
                return "the arguments do not match the schema of this tool"
            errors = list(islice(self._validator.iter_errors(args), MAX_VIOLATIONS + 1))
        except ValueError:
            return "the arguments are nested too deeply, or are not JSON"
        violations = "; ".join(_violation(error, "args") for error in errors[:MAX_VIOLATIONS])
        return f"{violations}; and more" if len(errors) > MAX_VIOLATIONS else violations


def _check_size(schema: dict[str, JsonValue]) -> None:
    try:
        size = len(dumps(schema))
    except (RecursionError, ValueError, TypeError):
        raise InvalidSchema("the schema is nested too deeply, or is not JSON") from None
    if size > MAX_SCHEMA_BYTES:
        raise InvalidSchema(f"the schema has {size} bytes; the maximum is {MAX_SCHEMA_BYTES}")


def _check_parts(schema: dict[str, JsonValue], cost: ValidationCost) -> None:
    parts = list(subschemas(schema))
    if any(isinstance(part.get("$id"), str) for part in parts if part is not schema):
        raise InvalidSchema("$id is only allowed at the top level of the schema")
    patterns = sum(map(_pattern_count, parts))
    if patterns > MAX_PATTERNS:
        raise InvalidSchema(f"the schema has {patterns} patterns; the maximum is {MAX_PATTERNS}")
    references = [part[keyword] for part in parts for keyword in REFERENCES if keyword in part]
    for reference in references:
        _check_reference(reference, cost)
    unevaluated = any(keyword in part for part in parts for keyword in _UNEVALUATED)
    if unevaluated and len(references) > MAX_REFERENCES_UNEVALUATED:
        raise InvalidSchema(
            f"the schema has {len(references)} references; "
            f"with {_UNEVALUATED[0]}, the maximum is {MAX_REFERENCES_UNEVALUATED}"
        )


def _pattern_count(part: dict[str, JsonValue]) -> int:
    properties = part.get("patternProperties")
    return ("pattern" in part) + (len(properties) if isinstance(properties, dict) else 0)


def _check_reference(reference: JsonValue, cost: ValidationCost) -> None:
    try:
        cost.resolve(reference)
    except (LookupError, ValueError):
        shown = _shorten(str(reference), 60)
        raise InvalidSchema(
            f"the reference {shown!r} does not resolve within this schema; other schemas are not fetched"
        ) from None


def _violation(error: jsonschema_rs.ValidationError, root: str) -> str:
    return f"{_shorten(_path(root, error.instance_path), 120)}: {_shorten(error.message, 200)}"


def _hint(error: jsonschema_rs.ValidationError) -> str:
    is_pattern = error.message.endswith('is not a "regex"')
    return " without look-around, back-references and large repetitions" if is_pattern else ""


def _path(root: str, steps: Sequence[Any]) -> str:
    """A path in the notation of Python and JavaScript: `args.places[0].name`."""
    parts = [root]
    for step in steps:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif re.fullmatch(r"\w{1,60}", str(step)):
            parts.append(f".{step}")
        else:
            parts.append(f"[{_shorten(str(step), 60)!r}]")
    return "".join(parts)


def _shorten(text: str, max_length: int) -> str:
    text = whole_text(" ".join(text.split()))
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
