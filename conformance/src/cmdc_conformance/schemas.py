"""Validators made from the published contract, the generated JSON files in `contract/`.

For a server that implements only the base layer, the fields of the extended layer are optional and additional fields are
allowed.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jsonschema_rs

# The fields that the extended layer adds to responses and events of the base layer, by schema.
EXTENDED_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "SessionInfo": frozenset(
        {"model", "createdAt", "metadata", "queue", "pendingApprovals", "pendingQuestions", "cursor"}
    ),
    "PromptAccepted": frozenset({"cursor"}),
    "ApprovalRequired": frozenset({"callId", "digest", "expiresAt"}),
    "AgentEnd": frozenset({"costUsd"}),
}


@cache
def document(name: str) -> Mapping[str, Any]:
    """Return a published document by name: openapi, asyncapi or events.schema."""
    return json.loads(files("cmdc_conformance").joinpath("contract", f"{name}.json").read_text(encoding="utf-8"))


def _resolved(schema: Mapping[str, Any], ref: str) -> Any:
    found: Any = schema
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _events() -> tuple[str, ...]:
    events: Any = document("events.schema")
    names = (each["$ref"].rpartition("/")[2] for each in events["oneOf"])
    return tuple(events["$defs"][name]["properties"]["event"]["const"] for name in names)


def _statuses() -> dict[str, int]:
    """Map error codes to statuses. The OpenAPI names the examples of an error response by their codes."""
    openapi: Any = document("openapi")
    found = {"method_not_allowed": 405}  # belongs to no operation, so no example names it
    for operations in openapi["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                described = _resolved(openapi, response["$ref"]) if "$ref" in response else response
                examples = described.get("content", {}).get("application/json", {}).get("examples", {})
                found.update(dict.fromkeys(examples, int(status)) if int(status) >= 400 else {})
    return found


EVENTS: Final = _events()
TERMINAL: Final = ("agent_end", "agent_abort")
STATUS_OF: Final[Mapping[str, int]] = _statuses()

Validate = Callable[[Any], Iterator[str]]


@cache
def event_errors(*, extended: bool) -> Validate:
    """Return a function that lists the schema errors of an event {"event", "data", "id"?}."""
    schema = dict(document("events.schema"))
    for name in ("$id", "oneOf"):
        schema.pop(name, None)
    if not extended:
        schema = _relaxed(schema, schema["$defs"], drop_request_id=True)
    by_name = {
        definition["properties"]["event"]["const"]: _validator({**schema, "$ref": f"#/$defs/{title}"})
        for title, definition in schema["$defs"].items()
        if "event" in definition.get("properties", {})
    }

    def errors(event: Any) -> Iterator[str]:
        validator = by_name.get(event.get("event") if isinstance(event, dict) else None)  # pyright: ignore[reportUnknownMemberType]
        if validator is None:
            yield "unknown event"
            return
        yield from _errors(validator, event)

    return errors


@cache
def response_errors(route: str, status: int, *, extended: bool) -> Validate | None:
    """Return a function that lists the schema errors of a response body; None if the contract defines no JSON for it.

    `route` is a method and path template of the OpenAPI document: `POST /v1/sessions/{sessionId}/prompt`.
    """
    method, path = route.split(" ", 1)
    schema = dict(document("openapi"))
    operation = schema["paths"].get(path, {}).get(method.lower())
    response = operation["responses"].get(str(status)) if operation else None
    if response is None:
        return None
    if "$ref" in response:
        response = _resolved(schema, response["$ref"])
    content = response.get("content", {}).get("application/json")
    if content is None or "schema" not in content:
        return None
    components: Any = {"components": schema["components"]}
    if not extended:
        components = _relaxed(components, components["components"]["schemas"], drop_request_id=False)
    validator = _validator({**content["schema"], **components})
    return lambda body: _errors(validator, body)


@cache
def routes() -> tuple[str, ...]:
    """Every method and path template of the contract."""
    return tuple(f"{method.upper()} {path}" for path, each in document("openapi")["paths"].items() for method in each)


def route_of(method: str, path: str) -> str | None:
    """The route that matches a request; None if the contract has none."""
    return next((f"{method} {template}" for template, pattern in _patterns() if pattern.fullmatch(path)), None)


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    def pattern(template: str) -> re.Pattern[str]:
        return re.compile(
            "/".join("[^/]+" if part.startswith("{") else re.escape(part) for part in template.split("/"))
        )

    return tuple((template, pattern(template)) for template in document("openapi")["paths"])


def _relaxed(schema: Any, where: Mapping[str, Any], *, drop_request_id: bool) -> Any:
    """A copy in which the fields of the extended layer are optional and additional fields are allowed."""
    relaxed = copy.deepcopy(schema)
    definitions: Any = relaxed["$defs"] if "$defs" in relaxed else relaxed["components"]["schemas"]
    for title in where:
        extra = EXTENDED_FIELDS.get(title, frozenset[str]())
        data = definitions[title].get("properties", {}).get("data") if drop_request_id else None
        parts: tuple[Any, ...] = (definitions[title], data)
        for part in parts:
            if part is None:
                continue
            if "required" in part:
                dropped = {*extra, "requestId", "id"} if drop_request_id else extra
                part["required"] = [name for name in part["required"] if name not in dropped]
            if part.get("additionalProperties") is False:
                del part["additionalProperties"]
    return relaxed


def _validator(schema: Any) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=False)


def _errors(validator: jsonschema_rs.Draft202012Validator, value: Any) -> Iterator[str]:
    for error in validator.iter_errors(value):
        where = ".".join(map(str, error.instance_path)) or "the value"
        yield f"{where}: {error.message[:300]}"
