"""How a route is described, beside its code, for the published contract."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastapi import Depends
from pydantic import BaseModel

from cmdc_gateway.errors import GatewayError
from cmdc_gateway.protocol.schema import CURSOR_PATTERN, prose
from cmdc_gateway.protocol.service import ErrorBody
from cmdc_gateway.protocol.wire import AnswerBody, RequestBody
from cmdc_gateway.web.dependencies import NoQuery, QueryModel, no_body, query
from cmdc_gateway.web.errors import STATUS
from cmdc_gateway.web.schema.examples import EXAMPLES

Described = dict[str, Any]

REQUEST_BODIES: dict[str, type[RequestBody]] = {}

UNREADABLE = ("request_timeout", "uri_too_long", "headers_too_large")
_EVERYWHERE = (*UNREADABLE, "bad_request", "payload_too_large", "internal")
_WITH_KEY = ("unauthorized", "rate_limited", "unavailable")
_WITH_BODY = ("unsupported_media_type",)
_POSTED = ("idempotency_in_progress", "idempotency_mismatch")

# What pydantic leaves as it is where a validator stands before the type.
_BOUNDS = {"ge": "minimum", "le": "maximum"}
_NOT_OF_THE_SHAPE = ("default", "title", "description")

_ERROR_HEADERS = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    426: ("Upgrade",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_QUOTA = ("RateLimit", "RateLimit-Policy")
_BEFORE_COUNTING = (401, 414, 431)

REQUEST_HEADERS: dict[str, Described] = {
    "Idempotency-Key": {
        "description": "Within 24 hours, the same key and body return the stored response without a second effect.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "3f0c7c1e-prompt-17",
    },
    "Last-Event-ID": {
        "description": "Resume after this event. `EventSource` sends it automatically. Takes precedence over `after`.",
        "schema": {"anyOf": [{"type": "string", "pattern": CURSOR_PATTERN}, {"enum": ["start", "latest"]}]},
        "example": "koyx4hiu.8",
    },
}


def operation(
    summary: str,
    answer: type[AnswerBody] | None,
    *,
    status: int = 200,
    body: type[RequestBody] | None = None,
    body_may_be_empty: bool = False,
    takes: type[QueryModel] = NoQuery,
    headers: tuple[str, ...] = (),
    errors: tuple[str, ...] = (),
    posted: bool = False,
    public: bool = False,
    examples: tuple[str, ...] = (),
    more: dict[int, Described] | None = None,
    callbacks: Described | None = None,
) -> dict[str, Any]:
    """Arguments for a FastAPI route: what it takes, what it answers, and every way it refuses.

    `errors` are codes of PROTOCOL §1 beside those that every such route has; `posted` adds those of HTTP-11.
    `examples` names those of the answer's examples that this route can give, if not all.
    """
    codes = {*errors, *_EVERYWHERE, *(() if public else _WITH_KEY)}
    codes |= {*(_WITH_BODY if body else ()), *(_POSTED if posted else ())}
    replayed = ("Idempotent-Replayed",) if posted else ()
    responses: dict[int | str, Described] = dict(more.items()) if more else {}
    if answer is not None:
        responses[status] = success(answer, examples)
    for described in responses.values():
        described["headers"] = _header_references((*replayed, *(() if public else _QUOTA)))
    responses |= refusals(codes, quota=not public)
    parameters = [*_query_parameters(takes), *_header_parameters((*headers, *(("Idempotency-Key",) if posted else ())))]
    extra: Described = {}
    if parameters:
        extra["parameters"] = parameters
    if body is not None:
        REQUEST_BODIES[body.__name__] = body
        extra["requestBody"] = {"required": not body_may_be_empty, "content": _content(body)}
    if public:
        extra["security"] = []
    if callbacks:
        extra["callbacks"] = callbacks
    checks = [Depends(query(takes))] if takes is NoQuery else []
    if body is None:
        checks.append(Depends(no_body))
    return {
        "summary": summary,
        "status_code": status,
        "responses": responses,
        "response_model": None,
        "openapi_extra": extra,
        "dependencies": checks,
    }


def success(answer: type[AnswerBody], examples: tuple[str, ...] = (), description: str = "") -> Described:
    """A success that answers this body."""
    return {
        "model": answer,
        "description": description or prose(answer.__doc__),
        "content": {"application/json": {"examples": example_references(answer, examples)}},
    }


def example_references(model: type[BaseModel], chosen: tuple[str, ...] = ()) -> dict[str, Described]:
    """References to a model's examples, all or those chosen; FastAPI would take the nulls out of the values."""
    return {
        name: {"$ref": f"#/components/examples/{model.__name__}.{name}"}
        for name in EXAMPLES[model]
        if not chosen or name in chosen
    }


def refusals(codes: Iterable[str], *, quota: bool) -> dict[int | str, Described]:
    """An answer for each status these codes have, with an example of each code."""
    meanings = error_meanings()
    answers: dict[int | str, Described] = {}
    for code in sorted(codes, key=lambda code: (STATUS[code], code)):
        status = STATUS[code]
        refusal = answers.setdefault(status, {"model": ErrorBody, "description": "", "content": {}})
        meaning = f"`{code}`: {meanings[code]}"
        refusal["description"] = "\n\n".join(filter(None, (refusal["description"], meaning)))
        examples = refusal["content"].setdefault("application/json", {"examples": {}})["examples"]
        examples[code] = {"$ref": f"#/components/examples/{code}"}
        names = (*_ERROR_HEADERS.get(status, ()), *(_QUOTA if quota and status not in _BEFORE_COUNTING else ()))
        if names:
            refusal["headers"] = _header_references(names)
    return answers


def without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """A model's schema without the titles that only repeat its fields' names, and without ids of rules."""
    told = {"description": prose(schema["description"])} if "description" in schema else {}
    properties = {
        name: {key: value for key, value in field.items() if key != "title"}
        for name, field in schema.get("properties", {}).items()
    }
    return {**schema, **told, **({"properties": properties} if properties else {})}


def error_meanings() -> dict[str, str]:
    """What each error code says: the first sentence about its class, as the rest is about the attributes."""
    return {kind.code: re.split(r"(?<=\.) ", prose(kind.__doc__))[0] for kind in GatewayError.__subclasses__()}


def _content(body: type[RequestBody]) -> Described:
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {"application/json": {"schema": schema, "examples": example_references(body)}}


def _header_references(names: Iterable[str]) -> Described:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header_parameters(names: Iterable[str]) -> list[Described]:
    return [{"name": name, "in": "header", "required": False, **REQUEST_HEADERS[name]} for name in names]


def _query_parameters(model: type[BaseModel]) -> list[Described]:
    schema = model.model_json_schema()
    parameters: list[Described] = []
    for name, described in schema.get("properties", {}).items():
        kinds: list[Described] = described.pop("anyOf", [])
        shape = next((kind for kind in kinds if kind != {"type": "null"}), dict[str, Any]())
        shape |= {key: value for key, value in described.items() if key not in _NOT_OF_THE_SHAPE}
        shape = {_BOUNDS.get(key, key): value for key, value in shape.items()}
        parameter: Described = {"name": name, "in": "query", "required": False}
        if "description" in described:
            parameter["description"] = described["description"]
        if shape["type"] == "array":
            parameter |= {"style": "form", "explode": False}
        parameters.append({**parameter, "schema": shape})
    return parameters
