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

Make a session, send it a prompt, read the events of the run. `/asyncapi.json` describes the WebSocket,
`/events.schema.json` the events.

Every error has the body `{"error": "<code>", "message": "<sentence>"}`. A path that is not there is 404 `not_found`; a
path that is there, but not with this method, is 405 `method_not_allowed` with the header `Allow`.
"""

LICENSE = {
    "name": "Apache License 2.0 with the Commons Clause",
    "identifier": "Apache-2.0 AND LicenseRef-Commons-Clause-1.0",
}

TAGS = [
    {"name": "sessions", "description": "Agents with settings of their own: made, prompted, looked at, ended."},
    {"name": "events", "description": "What happens in a session, as it happens or later."},
    {"name": "decisions", "description": "Approvals and questions: what people decide and answer."},
    {"name": "tools", "description": "Tools of yours that the agent calls over HTTP."},
    {"name": "history", "description": "What was said and what it cost."},
    {"name": "service", "description": "The server about itself."},
]

SECURITY_SCHEMES: dict[str, dict[str, Any]] = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "It wins over the other header."},
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key, as `Authorization: Bearer KEY`."},
    "Ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "Single-use, for one event stream, for browsers; `POST …/tickets` gives one.",
    },
}

HEADERS: dict[str, dict[str, Any]] = {
    "RateLimit": {
        "description": "Requests that are left, and seconds until there are more. Absent where there is no limit.",
        "schema": {"type": "string"},
        "example": '"default";r=57;t=3',
    },
    "RateLimit-Policy": {
        "description": "Requests a minute and key. Absent where there is no limit.",
        "schema": {"type": "string"},
        "example": '"default";q=60;w=60',
    },
    "Retry-After": {
        "description": "Whole seconds to wait before the next try. Absent with `queue_full`.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 7,
    },
    "WWW-Authenticate": {
        "description": "How to send a key.",
        "required": True,
        "schema": {"type": "string"},
        "example": "Bearer",
    },
    "Allow": {
        "description": "The methods this path has.",
        "required": True,
        "schema": {"type": "string"},
        "example": "GET, POST",
    },
    "Upgrade": {
        "description": "What this address speaks.",
        "required": True,
        "schema": {"const": "websocket", "type": "string"},
        "example": "websocket",
    },
    "Idempotent-Replayed": {
        "description": "`true`: this answer was given before, to the same Idempotency-Key. Absent otherwise.",
        "schema": {"const": "true", "type": "string"},
        "example": "true",
    },
}

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "sessionId": {"description": "The session.", "example": "support-4711"},
    "name": {"description": "The name of a callback tool.", "example": "get_weather"},
}

_WEBHOOK_HEADERS: dict[str, dict[str, Any]] = {
    "webhook-id": {
        "description": "The callId. It is the same when the server tries again: do not run the tool twice.",
        "schema": {"type": "string"},
        "example": "call_20179a1c02ca3430_1",
    },
    "webhook-timestamp": {
        "description": "When this try was made, in seconds since 1970. Refuse one that is not from now.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "1795348783",
    },
    "webhook-signature": {
        "description": "`v1,` and the base64 of HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>` with the "
        "tool's secret, as in Standard Webhooks.",
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
                "summary": "The server calls your tool",
                "description": "Sent when the agent calls the tool, with arguments that hold for its `parameters`. Redirects "
                "are not followed. Tried again, at most twice, only if nothing was sent or the tool is `idempotent`.",
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
                        "description": "The result, or why there is none. At most 256 KiB.",
                        "content": _json(CallbackResult, CallbackError),
                    },
                    "4XX": {"description": "The call failed: the model is told the status, and the run goes on."},
                    "5XX": {"description": "The same; tried again if the tool is `idempotent`."},
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
        "description": "The stream; or a page, with `Accept: application/json`.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "x-item-schema": {"$ref": "#/components/schemas/Event"},
                "examples": {"stream": {"value": ": heartbeat\n" + "".join(frames)}},
            },
            **_json(EventPage),
        },
    }
