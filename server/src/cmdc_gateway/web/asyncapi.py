"""The WebSocket, described (PROTOCOL §6)."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from cmdc_gateway.protocol.decisions import ApproveBody, DecisionTaken, RejectBody, RespondBody, ResponseTaken
from cmdc_gateway.protocol.schema import event_schemas
from cmdc_gateway.protocol.service import ErrorBody
from cmdc_gateway.protocol.sessions import AbortBody, AbortTaken, PromptAccepted, PromptBody
from cmdc_gateway.protocol.wire import AnswerBody, RequestBody

_ACTIONS: dict[str, tuple[type[RequestBody], type[AnswerBody]]] = {
    "prompt": (PromptBody, PromptAccepted),
    "approve": (ApproveBody, DecisionTaken),
    "reject": (RejectBody, DecisionTaken),
    "respond": (RespondBody, ResponseTaken),
    "abort": (AbortBody, AbortTaken),
}
_TEMPLATE = "#/components/schemas/{model}"


def asyncapi(version: str) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of `GET /v1/sessions/{sessionId}/ws`."""
    events = event_schemas()
    answers = {answer for _, answer in _ACTIONS.values()} | {ErrorBody}
    _, definitions = models_json_schema(
        [(answer, "serialization") for answer in sorted(answers, key=lambda model: model.__name__)],
        ref_template=_TEMPLATE,
    )
    actions = {f"{name.capitalize()}Action": _action(name, body) for name, (body, _) in _ACTIONS.items()}
    schemas = {**definitions["$defs"], **events, **actions}
    messages = {name: {"payload": {"$ref": _TEMPLATE.format(model=name)}} for name in schemas if name != "ErrorDetail"}
    channel = "#/channels/session"
    received = [*events, *sorted(answer.__name__ for answer in answers)]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "CMDC Gateway", "version": version},
        "channels": {
            "session": {
                "address": "/v1/sessions/{sessionId}/ws",
                "parameters": {"sessionId": {"description": "The session."}},
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "act": {
                "action": "send",
                "channel": {"$ref": channel},
                "messages": [{"$ref": f"{channel}/messages/{name}"} for name in actions],
            },
            "receive": {
                "action": "receive",
                "channel": {"$ref": channel},
                "messages": [{"$ref": f"{channel}/messages/{name}"} for name in received],
            },
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _action(name: str, body: type[RequestBody]) -> dict[str, Any]:
    """The frame of an action: the members of the HTTP body, and what a frame has besides."""
    schema = body.model_json_schema()
    return schema | {
        "title": f"{name.capitalize()}Action",
        "properties": {
            "action": {"const": name, "type": "string"},
            **schema["properties"],
            "actionId": {"type": "string", "maxLength": 64},
            "idempotencyKey": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        },
        "required": ["action", *schema.get("required", [])],
    }
