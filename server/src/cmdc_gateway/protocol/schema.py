"""The published schema of the events (EVT-5), made from their classes."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.alias_generators import to_camel

from cmdc_gateway.protocol.events import EVENT_TYPES, Event, LastMessage
from cmdc_gateway.protocol.examples import event_examples
from cmdc_gateway.protocol.history import TokenUsage

CURSOR_PATTERN = "^[0-9a-z]{1,32}\\.(0|[1-9][0-9]*)$"

_RULES = re.compile(r"\s*\((?:[A-Z]+-\d+[, ]*(?:… )?)+\)")

_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_SHAPES: dict[Any, dict[str, Any]] = {
    TokenUsage: {
        "title": "TokenUsage",
        "description": "Input, output, and total tokens of this run.",
        "type": "object",
        "properties": {"promptTokens": _COUNT, "completionTokens": _COUNT, "totalTokens": _COUNT},
        "required": ["promptTokens", "completionTokens", "totalTokens"],
        "additionalProperties": False,
    },
    LastMessage | None: {
        "anyOf": [
            {
                "title": "LastMessage",
                "description": "The agent's last message in this run.",
                "type": "object",
                "properties": {"role": {"const": "assistant", "type": "string"}, "content": {"type": "string"}},
                "required": ["role", "content"],
                "additionalProperties": False,
            },
            {"type": "null"},
        ]
    },
}


def prose(docstring: str | None) -> str:
    """A docstring for readers of a published document: on one line, without the ids of rules it refers to."""
    return _RULES.sub("", " ".join((docstring or "").split()))


def event_schemas() -> dict[str, dict[str, Any]]:
    """One schema for each event type, by class name."""
    examples = event_examples()
    return {kind.__name__: {**_event_schema(kind), "examples": [examples[kind]]} for kind in EVENT_TYPES}


def events_schema(version: str) -> dict[str, Any]:
    """The event schema as it is published: JSON Schema 2020-12, one of fifteen objects."""
    schemas = event_schemas()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "/events.schema.json",
        "title": "Event",
        "description": f"An event of a CMDC Gateway session (protocol 0.1, server {version}).",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in schemas],
        "$defs": schemas,
    }


def _event_schema(kind: type[Event]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    members = {to_camel(field.name): _shape(hints[field.name]) for field in fields(kind)}
    members["requestId"] = {"type": "string", "description": "ID of the prompt that started this run."}
    data = {
        "title": f"{kind.__name__}Data",
        "type": "object",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }
    return {
        "title": kind.__name__,
        "description": prose(kind.__doc__),
        "type": "object",
        "properties": {
            "event": {"const": kind.name, "type": "string"},
            "data": data,
            "id": {
                "type": "string",
                "pattern": CURSOR_PATTERN,
                "description": "ID of the event, and the cursor just after it: `<epoch>.<seq>`.",
            },
        },
        "required": ["event", "data"],
        "additionalProperties": False,
    }


def _shape(hint: Any) -> dict[str, Any]:
    if hint in _SHAPES:
        return _SHAPES[hint]
    shape = TypeAdapter(hint).json_schema()
    if shape.pop("$defs", None):  # of JsonValue, which is anything
        shape["additionalProperties"] = True
    return shape
