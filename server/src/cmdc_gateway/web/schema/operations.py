"""From an entry of the route table to its description in the published contract."""

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
from cmdc_gateway.web.dependencies import NoQuery, no_body, query_of
from cmdc_gateway.web.errors import STATUS
from cmdc_gateway.web.routing import Operation, Route
from cmdc_gateway.web.schema.examples import EXAMPLES

Described = dict[str, Any]

UNREADABLE = ("request_timeout", "uri_too_long", "headers_too_large")
_EVERYWHERE = (*UNREADABLE, "bad_request", "payload_too_large", "internal")
_WITH_KEY = ("unauthorized", "rate_limited", "unavailable")
_WITH_BODY = ("unsupported_media_type",)
_WITH_IDEMPOTENCY_KEY = ("idempotency_in_progress", "idempotency_mismatch")

# Bounds that pydantic does not translate if a validator precedes the type.
_BOUNDS = {"ge": "minimum", "le": "maximum"}
_NOT_IN_SCHEMA = ("default", "title", "description")

_ERROR_HEADERS = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    426: ("Upgrade",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_QUOTA = ("RateLimit", "RateLimit-Policy")
_BEFORE_RATE_LIMIT = (401, 414, 431)

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


def fastapi_arguments(route: Route) -> dict[str, Any]:
    """Return arguments for `FastAPI.add_api_route`: parameters, success responses, and every possible error."""
    operation, is_post = route.operation, route.method == "POST"
    codes = _error_codes(operation, is_post=is_post)
    responses = _success_responses(operation, replayable=is_post)
    return {
        "summary": operation.summary,
        "status_code": operation.status,
        "responses": responses | error_responses(codes, quota=not operation.public),
        "response_model": None,
        "openapi_extra": _openapi_extra(operation, is_post=is_post),
        "dependencies": _checks(operation),
    }


def _success_responses(operation: Operation, *, replayable: bool) -> dict[int | str, Described]:
    headers = (*(("Idempotent-Replayed",) if replayable else ()), *(() if operation.public else _QUOTA))
    responses: dict[int | str, Described] = {status: dict(more) for status, more in operation.more_responses.items()}
    if operation.answer is not None:
        responses[operation.status] = success(operation.answer, operation.examples)
    for response in responses.values():
        response["headers"] = _header_references(headers)
    return responses


def _error_codes(operation: Operation, *, is_post: bool) -> set[str]:
    codes = {*operation.errors, *_EVERYWHERE}
    if not operation.public:
        codes.update(_WITH_KEY)
    if operation.body is not None:
        codes.update(_WITH_BODY)
    if is_post:
        codes.update(_WITH_IDEMPOTENCY_KEY)
    return codes


def _openapi_extra(operation: Operation, *, is_post: bool) -> Described:
    headers = (*operation.headers, *(("Idempotency-Key",) if is_post else ()))
    extra: Described = {}
    if parameters := [*_query_parameters(operation.query), *_header_parameters(headers)]:
        extra["parameters"] = parameters
    if operation.body is not None:
        extra["requestBody"] = {"required": operation.body_required, "content": _content(operation.body)}
    if operation.public:
        extra["security"] = []
    if operation.callbacks:
        extra["callbacks"] = dict(operation.callbacks)
    return extra


def _checks(operation: Operation) -> list[Any]:
    """Return dependencies that reject parameters and drop bodies which the handler does not take."""
    checks = [query_of(NoQuery)] if operation.query is NoQuery else []
    return [*checks, Depends(no_body)] if operation.body is None else checks


def success(answer: type[AnswerBody], examples: tuple[str, ...] = (), description: str = "") -> Described:
    """Return a success response with this body."""
    return {
        "model": answer,
        "description": description or prose(answer.__doc__),
        "content": {"application/json": {"examples": example_references(answer, examples)}},
    }


def example_references(model: type[BaseModel], chosen: tuple[str, ...] = ()) -> dict[str, Described]:
    """Return references to a model's examples, all or the chosen ones. Inline, FastAPI would remove nulls from them."""
    return {
        name: {"$ref": f"#/components/examples/{model.__name__}.{name}"}
        for name in EXAMPLES[model]
        if not chosen or name in chosen
    }


def error_responses(codes: Iterable[str], *, quota: bool) -> dict[int | str, Described]:
    """Return a response for each status of these codes, with an example for each code."""
    meanings = error_meanings()
    responses: dict[int | str, Described] = {}
    for code in sorted(codes, key=lambda code: (STATUS[code], code)):
        status = STATUS[code]
        response = responses.setdefault(status, {"model": ErrorBody, "description": "", "content": {}})
        meaning = f"`{code}`: {meanings[code]}"
        response["description"] = "\n\n".join(filter(None, (response["description"], meaning)))
        examples = response["content"].setdefault("application/json", {"examples": {}})["examples"]
        examples[code] = {"$ref": f"#/components/examples/{code}"}
        names = (*_ERROR_HEADERS.get(status, ()), *(_QUOTA if quota and status not in _BEFORE_RATE_LIMIT else ()))
        if names:
            response["headers"] = _header_references(names)
    return responses


def without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a model's schema without titles, which only repeat field names, and without rule ids."""
    described = {"description": prose(schema["description"])} if "description" in schema else {}
    properties = {
        name: {key: value for key, value in field.items() if key != "title"}
        for name, field in schema.get("properties", {}).items()
    }
    return {**schema, **described, **({"properties": properties} if properties else {})}


def error_meanings() -> dict[str, str]:
    """Return the meaning of each error code: the first sentence of its class's docstring."""
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
        variants: list[Described] = described.pop("anyOf", [])
        shape = next((kind for kind in variants if kind != {"type": "null"}), dict[str, Any]())
        shape |= {key: value for key, value in described.items() if key not in _NOT_IN_SCHEMA}
        shape = {_BOUNDS.get(key, key): value for key, value in shape.items()}
        parameter: Described = {"name": name, "in": "query", "required": False}
        if "description" in described:
            parameter["description"] = described["description"]
        if shape["type"] == "array":
            parameter |= {"style": "form", "explode": False}
        parameters.append({**parameter, "schema": shape})
    return parameters
