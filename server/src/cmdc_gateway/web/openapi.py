"""The published schemas, and a page to read them on (§3.11). Made once, when the app is."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.schema import event_schemas, events_schema
from cmdc_gateway.protocol.service import EventPage
from cmdc_gateway.web.asyncapi import asyncapi
from cmdc_gateway.web.operation import REQUEST_BODIES

_DESCRIPTION = "An AI agent behind HTTP, SSE and WebSocket."
_TEMPLATE = "#/components/schemas/{model}"
_SECURITY = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
    "Ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "Single-use, for one event stream; see POST …/tickets.",
    },
}


def publish(app: FastAPI) -> None:
    """Add `/openapi.json`, `/asyncapi.json`, `/events.schema.json` and `/docs`. None of them needs a key."""
    reference = files("cmdc_gateway.web").joinpath("reference.html").read_bytes()
    documents = {
        "/openapi.json": (dumps(openapi(app)), "application/json"),
        "/asyncapi.json": (dumps(asyncapi(app.version)), "application/json"),
        "/events.schema.json": (dumps(events_schema(app.version)), "application/schema+json"),
        "/docs": (reference, "text/html; charset=utf-8"),
    }
    for path, (content, media_type) in documents.items():
        app.router.add_route(path, _document(content, media_type), methods=["GET"], include_in_schema=False)


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI derives from the routes, and what it cannot know."""
    document = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes, openapi_version="3.1.0"
    )
    schemas: dict[str, Any] = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    bodies: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in REQUEST_BODIES.values()]
    _, definitions = models_json_schema([*bodies, (EventPage, "serialization")], ref_template=_TEMPLATE)
    schemas |= definitions["$defs"]
    events = event_schemas()
    schemas |= events
    references = {
        schema["properties"]["event"]["const"]: f"#/components/schemas/{name}" for name, schema in events.items()
    }
    schemas["Event"] = {
        "title": "Event",
        "description": "Something that has happened in a run.",
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "event", "mapping": references},
    }
    document["components"]["securitySchemes"] = _SECURITY
    document["security"] = [{"ApiKey": []}, {"Bearer": []}]
    stream = document["paths"]["/v1/sessions/{session_id}/events"]["get"]
    stream["security"] = [*document["security"], {"Ticket": []}]
    _without_fastapi_errors(document)
    return document


def _without_fastapi_errors(document: dict[str, Any]) -> None:
    """Take out the 422 that FastAPI would answer by itself, and we do not."""
    for path in document["paths"].values():
        for operation in path.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(content):
                del operation["responses"]["422"]


def _document(content: bytes, media_type: str) -> Any:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer
