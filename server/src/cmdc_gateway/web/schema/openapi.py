"""The published schemas and the API reference page, built once when the app is created."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.schema import event_schemas, events_schema
from cmdc_gateway.protocol.service import ErrorBody, EventPage
from cmdc_gateway.protocol.tools import CallbackCall, CallbackError, CallbackResult
from cmdc_gateway.protocol.wire import RequestBody
from cmdc_gateway.web.routing import Operation, Route
from cmdc_gateway.web.schema.asyncapi import asyncapi
from cmdc_gateway.web.schema.components import DESCRIPTION, HEADERS, LICENSE, PATH_PARAMETERS, SECURITY_SCHEMES, TAGS
from cmdc_gateway.web.schema.examples import EXAMPLES, error_example
from cmdc_gateway.web.schema.operations import (
    UNREADABLE,
    error_meanings,
    error_responses,
    fastapi_arguments,
    without_titles,
)

_TEMPLATE = "#/components/schemas/{model}"
_ANSWERS = (EventPage, CallbackCall, CallbackResult, CallbackError)

_ERROR_BODY = {"$ref": _TEMPLATE.format(model=ErrorBody.__name__)}

_DOCUMENTS = {
    "/openapi.json": ("get_openapi", "Get the OpenAPI 3.1 document", "application/json"),
    "/asyncapi.json": ("get_asyncapi", "Get the AsyncAPI 3.0 document", "application/json"),
    "/events.schema.json": (
        "get_events_schema",
        "Get the event schema (JSON Schema 2020-12)",
        "application/schema+json",
    ),
    "/docs": ("get_docs", "View the API reference", "text/html"),
}

DOCUMENTS_FEATURE = "schemas"
"""Feature string of `GET /v1/capabilities` for the published documents."""


def add_api_routes(app: FastAPI, routes: tuple[Route, ...]) -> None:
    """Register the routes with FastAPI, which serves them and derives the OpenAPI document from them."""
    app.state.routes = routes
    for route in routes:
        app.add_api_route(
            route.path, route.handler, methods=[route.method], tags=[route.tag], **fastapi_arguments(route)
        )


def add_documents(app: FastAPI) -> tuple[Route, ...]:
    """Register the published documents, which need no API key, and return their routes."""
    contents = {
        "/openapi.json": dumps(openapi(app)),
        "/asyncapi.json": dumps(asyncapi(app.version)),
        "/events.schema.json": dumps(events_schema(app.version)),
        "/docs": files("cmdc_gateway.web.schema").joinpath("reference.html").read_bytes(),
    }
    routes: list[Route] = []
    for path, (_, summary, media_type) in _DOCUMENTS.items():
        handler = _document(contents[path], media_type)
        app.router.add_route(path, handler, methods=["GET"], include_in_schema=False)
        operation = Operation(summary, None, public=True, features=(DOCUMENTS_FEATURE,))
        routes.append(Route("GET", path, handler, operation, answers_head=True))
    return tuple(routes)


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document: what FastAPI derives from the routes, and what it cannot know."""
    derived = get_openapi(title=app.title, version=app.version, routes=app.routes, openapi_version="3.1.0")
    routes = cast("tuple[Route, ...]", app.state.routes)
    bodies = [route.operation.body for route in routes if route.operation.body is not None]
    schemas = _schemas(derived["components"]["schemas"], bodies)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": app.title, "version": app.version, "description": DESCRIPTION, "license": LICENSE},
        "servers": [{"url": "/", "description": "The server that published this document."}],
        "security": [{"ApiKey": []}, {"Bearer": []}],
        "tags": TAGS,
        "paths": {_in_camel_case(path): methods for path, methods in derived["paths"].items()} | _documents(),
        "components": {
            "schemas": schemas,
            "examples": _examples(),
            "headers": HEADERS,
            "responses": {"MethodNotAllowed": _method_not_allowed()},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }
    for operation in _operations(document):
        _without_fastapi_errors(operation)
        _describe_path_parameters(operation)
    for route in routes:
        if route.operation.stream == "sse":
            operation = document["paths"][_in_camel_case(route.path)][route.method.lower()]
            operation["security"] = [*document["security"], {"Ticket": []}]
    return document


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return every operation of an OpenAPI document."""
    for methods in document["paths"].values():
        yield from methods.values()


def _in_camel_case(path: str) -> str:
    """Return a path template with its parameters in camelCase, like every other name on the wire."""
    return re.sub(r"\{(\w+)\}", lambda found: f"{{{to_camel(found[1])}}}", path)


def _schemas(answers: dict[str, Any], bodies: Iterable[type[RequestBody]]) -> dict[str, Any]:
    """Return every schema of the document: of answers, request bodies, callbacks, and events."""
    received: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in bodies]
    sent: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "serialization") for model in _ANSWERS]
    _, definitions = models_json_schema([*received, *sent], ref_template=_TEMPLATE)
    models = {
        name: without_titles(schema)
        for name, schema in sorted((answers | definitions["$defs"]).items())
        if name not in ("HTTPValidationError", "ValidationError")
    }
    events = event_schemas()
    references = {
        schema["properties"]["event"]["const"]: _TEMPLATE.format(model=name) for name, schema in events.items()
    }
    union = {
        "title": "Event",
        "description": "An event of a run.",
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "event", "mapping": references},
    }
    return models | events | {"Event": union}


def _examples() -> dict[str, Any]:
    """Return every example, named after its model and its own name, or after its error code."""
    bodies = {
        f"{model.__name__}.{name}": {"value": value}
        for model, named in EXAMPLES.items()
        for name, value in named.items()
    }
    return bodies | {
        code: {"summary": meaning, "value": error_example(code)} for code, meaning in error_meanings().items()
    }


def _without_fastapi_errors(operation: dict[str, Any]) -> None:
    """Remove the 422 of FastAPI's own validation, which is not used."""
    content = operation["responses"].get("422", {}).get("content", {})
    if "HTTPValidationError" in str(content):
        del operation["responses"]["422"]


def _describe_path_parameters(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["name"] = to_camel(parameter["name"])
            parameter |= {"schema": {"type": "string"}, **PATH_PARAMETERS[parameter["name"]]}


def _method_not_allowed() -> dict[str, Any]:
    [response] = error_responses(["method_not_allowed"], quota=False).values()
    return _as_json(response)


def _documents() -> dict[str, Any]:
    """Return the published documents as operations."""
    errors = {str(status): _as_json(error) for status, error in error_responses(UNREADABLE, quota=False).items()}
    paths: dict[str, Any] = {}
    for path, (name, summary, media_type) in _DOCUMENTS.items():
        schema = {"type": "string" if media_type == "text/html" else "object"}
        answer = {"description": "The document.", "content": {media_type: {"schema": schema}}}
        described = {"tags": ["service"], "summary": summary, "operationId": name, "security": list[Any]()}
        paths[path] = {"get": {**described, "responses": {"200": answer, **errors}}}
    return paths


def _as_json(response: dict[str, Any]) -> dict[str, Any]:
    content = response["content"]["application/json"]
    described = {key: value for key, value in response.items() if key != "model"}
    return described | {"content": {"application/json": {"schema": _ERROR_BODY, **content}}}


def _document(content: bytes, media_type: str) -> Any:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer
