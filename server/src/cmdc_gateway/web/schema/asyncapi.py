"""The AsyncAPI document of the WebSocket (WS-1 to WS-7)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from cmdc_gateway.protocol.decisions import ApproveBody, DecisionTaken, RejectBody, RespondBody, ResponseTaken
from cmdc_gateway.protocol.examples import EPOCH
from cmdc_gateway.protocol.schema import CURSOR_PATTERN, event_schemas, prose
from cmdc_gateway.protocol.service import ErrorBody
from cmdc_gateway.protocol.sessions import AbortBody, AbortTaken, PromptAccepted, PromptBody
from cmdc_gateway.protocol.wire import AnswerBody, RequestBody
from cmdc_gateway.web.schema.components import LICENSE, SECURITY_SCHEMES
from cmdc_gateway.web.schema.examples import EXAMPLES, TICKET, error_example
from cmdc_gateway.web.schema.operations import error_meanings, without_titles

Described = dict[str, Any]

_ACTIONS: dict[str, tuple[type[RequestBody], type[AnswerBody]]] = {
    "prompt": (PromptBody, PromptAccepted),
    "approve": (ApproveBody, DecisionTaken),
    "reject": (RejectBody, DecisionTaken),
    "respond": (RespondBody, ResponseTaken),
    "abort": (AbortBody, AbortTaken),
}
_ANSWERS: tuple[type[AnswerBody], ...] = (PromptAccepted, DecisionTaken, ResponseTaken, AbortTaken, ErrorBody)

_REJECTIONS = ("bad_request", "unauthorized", "forbidden", "not_found", "cursor_expired", "rate_limited", "unavailable")
_CLOSE_CODES = {
    1000: "closed by the client",
    1001: "server going away",
    1008: "connection refused",
    1009: "message too big",
    1011: "server error or no pong",
    1012: "server restarting: reconnect",
    4001: "API key revoked",
    4004: "session deleted",
    4008: "client too slow: reconnect with `after`",
}

_DESCRIPTION = """\
Events and actions of one session over one connection. The HTTP API is described in `/openapi.json`.

**Credentials** are sent in the header `X-API-Key` or `Authorization`; in a browser, as the subprotocols `cmdc.v1` and
`cmdc.ticket.<ticket>`, with a ticket created by `POST /v1/sessions/{sessionId}/tickets`; or in the query parameter
`api_key`, if the server allows it. Connections are rejected before the upgrade with the usual error body: {rejections}.

**Events** are sent from the time of connecting, or from just after the cursor `after`, across runs.

**Actions** are JSON text frames. Each action gets exactly one acknowledgement, sent before any event that the action
causes. An acknowledgement has no `event` member and repeats the `actionId` of its action, if any. An invalid frame is
answered with `error` and `message`, and the connection stays open. At most 20 messages per second are accepted.

**Keepalive**: the server pings every 20 s and closes the connection if no pong arrives within 20 s.

**Close codes**: {codes}.
"""

_ACTION_ID: Described = {
    "type": "string",
    "maxLength": 64,
    "description": "Chosen by the client; repeated in the acknowledgement.",
}
_IDEMPOTENCY_KEY: Described = {
    "type": "string",
    "pattern": "^[!-~]{1,255}$",
    "description": "Repeating an action with the same key within 24 hours has no second effect.",
}
_SCHEMA = "#/components/schemas/{model}"
_MESSAGE = "#/channels/session/messages/{name}"
_CHANNEL = {"$ref": "#/channels/session"}


def asyncapi(version: str) -> Described:
    """The AsyncAPI 3.0 document of `GET /v1/sessions/{sessionId}/ws`, as the server sees it: it receives actions."""
    events = event_schemas()
    schemas = {**_definitions(), **events}
    actions = {
        f"{name.capitalize()}Action": _action(name, schemas.pop(body.__name__)) for name, (body, _) in _ACTIONS.items()
    }
    acknowledgements = {_acknowledgement(answer): _with_action_id(schemas.pop(answer.__name__)) for answer in _ANSWERS}
    schemas |= actions | acknowledgements
    messages = {name: _message(name, schema) for name, schema in (actions | acknowledgements | events).items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "CMDC Gateway", "version": version, "description": _description(), "license": _license()},
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "{host}",
                "protocol": "ws",
                "description": "The server that published this document; `wss` behind a TLS proxy.",
                "variables": {"host": {"default": "127.0.0.1:4000", "description": "Address of the server."}},
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _security_schemes()],
            }
        },
        "channels": {"session": _channel(list(messages))},
        "operations": {
            **{name: _operation(name, answer) for name, (_, answer) in _ACTIONS.items()},
            "events": {
                "action": "send",
                "channel": _CHANNEL,
                "summary": "Receive the session's events in log order.",
                "messages": [{"$ref": _MESSAGE.format(name=name)} for name in events],
            },
        },
        "components": {"messages": messages, "schemas": schemas, "securitySchemes": _security_schemes()},
    }


def _description() -> str:
    codes = ", ".join(f"{code} {meaning}" for code, meaning in _CLOSE_CODES.items())
    rejections = ", ".join(f"`{code}`" for code in _REJECTIONS)
    return _DESCRIPTION.replace("{codes}", codes).replace("{rejections}", rejections)


def _license() -> Described:
    return {"name": LICENSE["identifier"]}


def _definitions() -> dict[str, Described]:
    bodies: list[tuple[type[BaseModel], JsonSchemaMode]] = [(body, "validation") for body, _ in _ACTIONS.values()]
    sent: list[tuple[type[BaseModel], JsonSchemaMode]] = [(answer, "serialization") for answer in _ANSWERS]
    _, definitions = models_json_schema([*bodies, *sent], ref_template=_SCHEMA)
    return {name: without_titles(schema) for name, schema in definitions["$defs"].items()}


def _channel(messages: list[str]) -> Described:
    return {
        "address": "/v1/sessions/{sessionId}/ws",
        "title": "A session",
        "parameters": {"sessionId": {"description": "ID of the session.", "examples": ["support-4711"]}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {
                    "type": "object",
                    "properties": {
                        "after": {
                            "description": "A cursor, `start` or `latest` (default).",
                            "anyOf": [
                                {"type": "string", "pattern": CURSOR_PATTERN, "examples": [f"{EPOCH}.8"]},
                                {"enum": ["start", "latest"]},
                            ],
                        },
                        "api_key": {"type": "string", "description": "API key, for clients that cannot set headers."},
                    },
                    "additionalProperties": False,
                },
                "headers": {
                    "type": "object",
                    "properties": {
                        "Sec-WebSocket-Protocol": {
                            "type": "string",
                            "description": "`cmdc.v1`, and for browsers the ticket.",
                            "examples": [f"cmdc.v1, cmdc.ticket.{TICKET}"],
                        }
                    },
                },
                "bindingVersion": "0.1.0",
            }
        },
        "x-close-codes": {str(code): meaning for code, meaning in _CLOSE_CODES.items()},
    }


def _operation(name: str, answer: type[AnswerBody]) -> Described:
    replies = (_acknowledgement(answer), _acknowledgement(ErrorBody))
    return {
        "action": "receive",
        "channel": _CHANNEL,
        "summary": prose(_ACTIONS[name][0].__doc__),
        "messages": [{"$ref": _MESSAGE.format(name=f"{name.capitalize()}Action")}],
        "reply": {
            "channel": _CHANNEL,
            "messages": [{"$ref": _MESSAGE.format(name=reply)} for reply in replies],
        },
    }


def _message(name: str, schema: Described) -> Described:
    message: Described = {
        "name": schema["properties"].get("event", {}).get("const", name),
        "title": name,
        "summary": schema["description"],
        "payload": {"$ref": _SCHEMA.format(model=name)},
        "examples": [{"payload": example} for example in schema["examples"]],
    }
    if "actionId" in schema["properties"]:
        message["correlationId"] = {"location": "$message.payload#/actionId"}
    return message


def _action(name: str, schema: Described) -> Described:
    """The frame of an action: the members of the HTTP body, and what a frame has besides."""
    body, _ = _ACTIONS[name]
    return schema | {
        "title": f"{name.capitalize()}Action",
        "properties": {
            "action": {"const": name, "type": "string"},
            **schema["properties"],
            "actionId": _ACTION_ID,
            "idempotencyKey": _IDEMPOTENCY_KEY,
        },
        "required": ["action", *schema.get("required", [])],
        "examples": [{"action": name, **example, "actionId": "a1"} for example in EXAMPLES[body].values()],
    }


def _acknowledgement(answer: type[AnswerBody]) -> str:
    return "ActionRefused" if answer is ErrorBody else answer.__name__


def _with_action_id(schema: Described) -> Described:
    """An answer as it comes over the WebSocket."""
    title = schema["title"]
    if title == ErrorBody.__name__:
        title, examples = "ActionRefused", [error_example(code) for code in ("bad_request", "rate_limited")]
        description = f"{schema['description']} Uses the error codes of the HTTP API: {', '.join(error_meanings())}."
    else:
        examples = next(EXAMPLES[answer] for answer in _ANSWERS if answer.__name__ == title).values()
        description = schema["description"]
    return schema | {
        "title": title,
        "description": description,
        "properties": {**schema["properties"], "actionId": _ACTION_ID},
        "examples": [{**example, "actionId": "a1"} for example in examples],
    }


def _security_schemes() -> dict[str, Described]:
    """The credentials of WS-1; those in headers win."""
    return {
        "ApiKey": {"type": "httpApiKey", "in": "header", "name": SECURITY_SCHEMES["ApiKey"]["name"]},
        "Bearer": {"type": "http", "scheme": "bearer"},
        "SubprotocolTicket": {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": "`cmdc.v1, cmdc.ticket.<ticket>`; a ticket with scope `read` does not allow actions.",
        },
        "QueryKey": {
            "type": "httpApiKey",
            "in": "query",
            "name": "api_key",
            "description": "Can be disabled by the operator.",
        },
    }
