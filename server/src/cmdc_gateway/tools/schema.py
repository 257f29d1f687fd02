"""The arguments a tool takes: a JSON Schema that was checked, and checks.

Schemas come from tenants and arguments from models, so both may be hostile: nothing is ever fetched, patterns take
linear time, and what would take too long to check is refused instead.
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
# With `unevaluated…` the compiler follows every path of references: n of them make at most 3^(n/3) paths.
MAX_REFERENCES_UNEVALUATED: Final = 16
MAX_STEPS: Final = 1_000_000
# Making the sentences costs a validator a thousand times what a yes or no costs.
MAX_STEPS_EXPLAINED: Final = 5_000
SHOWN_VIOLATIONS: Final = 3

# The engine without look-around and back-references: time linear in the text, and a limit on what a pattern may grow to.
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=256 * 1024, dfa_size_limit=256 * 1024)
_UNEVALUATED: Final = ("unevaluatedProperties", "unevaluatedItems")
_THE_VALUE: Final = "the value"


class InvalidSchema(ValueError):
    """This cannot be the schema of a tool's arguments; the sentence says why."""


class Parameters:
    """The compiled schema of a tool's arguments (CB-1)."""

    def __init__(self, schema: dict[str, JsonValue]) -> None:
        """Compile it. Raises `InvalidSchema`."""
        _check_size(schema)
        if schema.get("type") != "object":
            raise InvalidSchema('the schema of a tool\'s arguments must have "type": "object"')
        self._effort = ValidationCost(schema)
        _check_parts(schema, self._effort)
        try:
            self._validator = jsonschema_rs.validator_for(
                schema, offline=True, validate_formats=False, pattern_options=_PATTERNS, mask=_THE_VALUE
            )
        except jsonschema_rs.ValidationError as error:
            raise InvalidSchema(f"not a valid JSON Schema: {_violation(error, 'schema')}{_hint(error)}") from None
        except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
            raise InvalidSchema(f"not a valid JSON Schema: {_short(str(error), 200)}") from None

    def flaw(self, args: dict[str, JsonValue]) -> str | None:
        """What is wrong with these arguments, in a sentence for the model; None if nothing is."""
        steps = self._effort.steps(args)
        if steps > MAX_STEPS:
            return "the arguments are too large to be checked against the schema of this tool"
        try:
            if self._validator.is_valid(args):
                return None
            if steps > MAX_STEPS_EXPLAINED:
                return "the arguments do not match the schema of this tool"
            errors = list(islice(self._validator.iter_errors(args), SHOWN_VIOLATIONS + 1))
        except ValueError:
            return "the arguments are nested too deeply or hold what is not JSON"
        shown = "; ".join(_violation(error, "args") for error in errors[:SHOWN_VIOLATIONS])
        return f"{shown}; and more" if len(errors) > SHOWN_VIOLATIONS else shown


def _check_size(schema: dict[str, JsonValue]) -> None:
    try:
        size = len(dumps(schema))
    except (RecursionError, ValueError, TypeError):
        raise InvalidSchema("the schema is nested too deeply or holds what is not JSON") from None
    if size > MAX_SCHEMA_BYTES:
        raise InvalidSchema(f"the schema is longer than {MAX_SCHEMA_BYTES} bytes")


def _check_parts(schema: dict[str, JsonValue], effort: ValidationCost) -> None:
    patterns = references = 0
    unevaluated = False
    for part in subschemas(schema):
        if part is not schema and isinstance(part.get("$id"), str):
            raise InvalidSchema("only the whole schema may have an $id, no part of it")
        named = part.get("patternProperties")
        patterns += ("pattern" in part) + (len(named) if isinstance(named, dict) else 0)
        unevaluated = unevaluated or any(keyword in part for keyword in _UNEVALUATED)
        for keyword in REFERENCES:
            if keyword in part:
                references += 1
                _check_reference(part[keyword], effort)
    if patterns > MAX_PATTERNS:
        raise InvalidSchema(f"the schema has more than {MAX_PATTERNS} patterns")
    if unevaluated and references > MAX_REFERENCES_UNEVALUATED:
        raise InvalidSchema(f"a schema with {_UNEVALUATED[0]} may have {MAX_REFERENCES_UNEVALUATED} references at most")


def _check_reference(reference: JsonValue, effort: ValidationCost) -> None:
    try:
        effort.target(reference)
    except (LookupError, ValueError):
        shown = _short(str(reference), 60)
        raise InvalidSchema(f"{shown!r} does not refer to a part of this schema; nothing is fetched") from None


def _violation(error: jsonschema_rs.ValidationError, root: str) -> str:
    return f"{_short(_path(root, error.instance_path), 120)}: {_short(error.message, 200)}"


def _hint(error: jsonschema_rs.ValidationError) -> str:
    wrong = error.message.endswith('is not a "regex"')
    return " that this server takes: no look-around, no back-references, no large repetitions" if wrong else ""


def _path(root: str, steps: Sequence[Any]) -> str:
    """Where it is, as one would write it: `args.places[0].name`."""
    shown = [root]
    for step in steps:
        if isinstance(step, int):
            shown.append(f"[{step}]")
        elif re.fullmatch(r"\w{1,60}", str(step)):
            shown.append(f".{step}")
        else:
            shown.append(f"[{_short(str(step), 60)!r}]")
    return "".join(shown)


def _short(text: str, most: int) -> str:
    text = whole_text(" ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"
