"""The published contract, as validators. The JSON files in `contract/` are derived; this module only reads them.

A base server gives base answers: what the extended layer adds is then not required, and anything more is not refused.
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

# What the extended layer adds to a base answer or event, by schema.
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
    """One of the published documents: openapi, asyncapi or events.schema."""
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
    """The examples of a refusal are named by the codes that it may have."""
    openapi: Any = document("openapi")
    found = {"method_not_allowed": 405}  # of no route: the contract describes this answer beside them
    for operations in openapi["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                described = _resolved(openapi, answer["$ref"]) if "$ref" in answer else answer
                examples = described.get("content", {}).get("application/json", {}).get("examples", {})
                found.update(dict.fromkeys(examples, int(status)) if int(status) >= 400 else {})
    return found


EVENTS: Final = _events()
TERMINAL: Final = ("agent_end", "agent_abort")
STATUS_OF: Final[Mapping[str, int]] = _statuses()

Flaws = Callable[[Any], Iterator[str]]


@cache
def event_flaws(*, extended: bool) -> Flaws:
    """Says what is wrong with an event, given as {"event", "data", "id"?}."""
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

    def flaws(event: Any) -> Iterator[str]:
        validator = by_name.get(event.get("event") if isinstance(event, dict) else None)  # pyright: ignore[reportUnknownMemberType]
        if validator is None:
            yield "there is no such event"
            return
        yield from _said(validator, event)

    return flaws


@cache
def answer_flaws(route: str, status: int, *, extended: bool) -> Flaws | None:
    """Says what is wrong with the JSON of an answer; None where the contract describes no JSON for it.

    `route` is a method and a path of the OpenAPI: `POST /v1/sessions/{sessionId}/prompt`.
    """
    method, path = route.split(" ", 1)
    schema = dict(document("openapi"))
    operation = schema["paths"].get(path, {}).get(method.lower())
    answer = operation["responses"].get(str(status)) if operation else None
    if answer is None:
        return None
    if "$ref" in answer:
        answer = _resolved(schema, answer["$ref"])
    content = answer.get("content", {}).get("application/json")
    if content is None or "schema" not in content:
        return None
    components: Any = {"components": schema["components"]}
    if not extended:
        components = _relaxed(components, components["components"]["schemas"], drop_request_id=False)
    validator = _validator({**content["schema"], **components})
    return lambda body: _said(validator, body)


@cache
def routes() -> tuple[str, ...]:
    """Every method and path that the contract describes."""
    return tuple(f"{method.upper()} {path}" for path, each in document("openapi")["paths"].items() for method in each)


def route_of(method: str, path: str) -> str | None:
    """The route that a request goes to; None where the contract has no such route."""
    return next((f"{method} {template}" for template, pattern in _patterns() if pattern.fullmatch(path)), None)


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    def pattern(template: str) -> re.Pattern[str]:
        return re.compile(
            "/".join("[^/]+" if part.startswith("{") else re.escape(part) for part in template.split("/"))
        )

    return tuple((template, pattern(template)) for template in document("openapi")["paths"])


def _relaxed(schema: Any, where: Mapping[str, Any], *, drop_request_id: bool) -> Any:
    """A copy that does not require what the extended layer adds, and lets a server say more."""
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


def _said(validator: jsonschema_rs.Draft202012Validator, value: Any) -> Iterator[str]:
    for error in validator.iter_errors(value):
        where = ".".join(map(str, error.instance_path)) or "it"
        yield f"{where}: {error.message[:300]}"
