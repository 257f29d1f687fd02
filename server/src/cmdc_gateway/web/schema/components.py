"""What the published contract says that belongs to no single route."""

from __future__ import annotations

from typing import Any

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.examples import event_examples
from cmdc_gateway.protocol.service import EventPage
from cmdc_gateway.protocol.tools import CallbackCall, CallbackError, CallbackResult
from cmdc_gateway.protocol.wire import AnswerBody
from cmdc_gateway.web.schema.operations import example_references

DESCRIPTION = """\
An AI agent behind HTTP, Server-Sent Events and WebSocket.

Create a session, send a prompt, and read the events of the run. The WebSocket is described in `/asyncapi.json`, the
events in `/events.schema.json`.

Every error response has the body `{"error": "<code>", "message": "<sentence>"}`. An unknown path returns 404
`not_found`; a known path with an unsupported method returns 405 `method_not_allowed` with an `Allow` header.
"""

LICENSE = {
    "name": "Apache License 2.0 with the Commons Clause",
    "identifier": "Apache-2.0 AND LicenseRef-Commons-Clause-1.0",
}

TAGS = [
    {"name": "sessions", "description": "Create, list, get, prompt, and delete sessions."},
    {"name": "events", "description": "Read a session's events, live or later."},
    {"name": "decisions", "description": "Approve or reject tool calls and answer questions."},
    {"name": "tools", "description": "Your own tools, called over HTTP."},
    {"name": "history", "description": "Messages, tokens, and cost."},
    {"name": "service", "description": "Health, capabilities, and the published documents."},
]

SECURITY_SCHEMES: dict[str, dict[str, Any]] = {
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "Takes precedence over `Authorization`.",
    },
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key, as `Authorization: Bearer KEY`."},
    "Ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "Single-use credential for one event stream, for browsers; created with `POST …/tickets`.",
    },
}

HEADERS: dict[str, dict[str, Any]] = {
    "RateLimit": {
        "description": "Remaining requests (`r`) and seconds until the quota is full (`t`). Absent if there is no limit.",
        "schema": {"type": "string"},
        "example": '"default";r=57;t=3',
    },
    "RateLimit-Policy": {
        "description": "Requests (`q`) per window of `w` seconds and API key. Absent if there is no limit.",
        "schema": {"type": "string"},
        "example": '"default";q=60;w=60',
    },
    "Retry-After": {
        "description": "Whole seconds to wait before retrying. Absent with `queue_full`.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 7,
    },
    "WWW-Authenticate": {
        "description": "Authentication scheme.",
        "required": True,
        "schema": {"type": "string"},
        "example": "Bearer",
    },
    "Allow": {
        "description": "Methods supported by this path.",
        "required": True,
        "schema": {"type": "string"},
        "example": "GET, POST",
    },
    "Upgrade": {
        "description": "Protocol required by this endpoint.",
        "required": True,
        "schema": {"const": "websocket", "type": "string"},
        "example": "websocket",
    },
    "Idempotent-Replayed": {
        "description": "`true` if this is the stored response to an earlier request with the same key. Absent otherwise.",
        "schema": {"const": "true", "type": "string"},
        "example": "true",
    },
}

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "sessionId": {"description": "ID of the session.", "example": "support-4711"},
    "name": {"description": "Name of a callback tool.", "example": "get_weather"},
}

_WEBHOOK_HEADERS: dict[str, dict[str, Any]] = {
    "webhook-id": {
        "description": "The `callId`. Retries have the same value: use it to avoid running the tool twice.",
        "schema": {"type": "string"},
        "example": "call_20179a1c02ca3430_1",
    },
    "webhook-timestamp": {
        "description": "Time of this attempt, in seconds since the Unix epoch. Reject calls that are too old.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "1795348783",
    },
    "webhook-signature": {
        "description": "`v1,` followed by the base64-encoded HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>`, "
        "keyed with the tool's secret (Standard Webhooks).",
        "schema": {"type": "string"},
        "example": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    },
}


def _json(*models: type[AnswerBody]) -> dict[str, Any]:
    schemas = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    examples = {name: example for model in models for name, example in example_references(model).items()}
    return {
        "application/json": {"schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas}, "examples": examples}
    }


CALLBACKS: dict[str, Any] = {
    "toolCall": {
        "{$request.body#/callbackUrl}": {
            "post": {
                "tags": ["tools"],
                "summary": "Call a callback tool",
                "description": "Sent when the agent calls the tool. The arguments are valid against its `parameters`. Redirects "
                "are not followed. Retried, at most twice, only if nothing was sent or the tool is `idempotent`.",
                "operationId": "call_tool",
                "security": [],
                "parameters": [
                    {"name": name, "in": "header", "required": True, **described}
                    for name, described in _WEBHOOK_HEADERS.items()
                ],
                "requestBody": {
                    "required": True,
                    "content": _json(CallbackCall),
                },
                "responses": {
                    "2XX": {
                        "description": "The result or an error, at most 256 KiB.",
                        "content": _json(CallbackResult, CallbackError),
                    },
                    "4XX": {"description": "The call failed. The model receives the status, and the run continues."},
                    "5XX": {"description": "The call failed; retried if the tool is `idempotent`."},
                },
            }
        }
    }
}


def stream_or_page() -> dict[str, Any]:
    """The two things that reading events can answer."""
    frames = (
        f"id: {frame['id']}\nevent: {frame['event']}\ndata: {dumps(frame['data']).decode()}\n\n"
        for frame in event_examples().values()
        if frame["event"] in ("message_delta", "agent_end")
    )
    return {
        "description": "The event stream, or a page of the log with `Accept: application/json`.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "x-item-schema": {"$ref": "#/components/schemas/Event"},
                "examples": {"stream": {"value": ": heartbeat\n" + "".join(frames)}},
            },
            **_json(EventPage),
        },
    }
