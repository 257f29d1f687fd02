"""Callback tools: register, list, and delete (CB-1)."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from cmdc_gateway.protocol.tools import RegisterToolBody, ToolList, ToolRegistered, ToolRemoved
from cmdc_gateway.web.dependencies import IdempotencyKeyDep, KeyDep, PrincipalDep, body_of
from cmdc_gateway.web.responses import json_response, stored_response
from cmdc_gateway.web.routes.sessions import GONE
from cmdc_gateway.web.routing import Operation, RouteGroup
from cmdc_gateway.web.schema.components import CALLBACKS
from cmdc_gateway.web.serializers import tool_list
from cmdc_gateway.web.state import GatewayDep

routes = RouteGroup("/v1/sessions/{session_id}/tools", tag="tools")


@routes.route(
    "POST",
    "",
    Operation(
        "Register a callback tool",
        ToolRegistered,
        status=201,
        body=RegisterToolBody,
        errors=(*GONE, "registration_failed"),
        features=("signed_callbacks",),
        callbacks=CALLBACKS,
    ),
)
async def register_tool(
    gateway: GatewayDep,
    principal: PrincipalDep,
    key: KeyDep,
    body: Annotated[RegisterToolBody, body_of(RegisterToolBody)],
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """Register a tool that the server calls over HTTP, with signed requests. The same name replaces the tool."""
    return stored_response(await gateway.actions.register(principal, key, body, idempotency_key))


@routes.route("GET", "", Operation("List tools", ToolList, errors=GONE, features=("tool_list",)))
async def list_tools(gateway: GatewayDep, key: KeyDep) -> Response:
    """The session's built-in and callback tools. Secrets are never returned."""
    return json_response(tool_list(await gateway.registry.find(key)))


@routes.route("DELETE", "/{name}", Operation("Delete a callback tool", ToolRemoved, errors=GONE))
async def remove_tool(gateway: GatewayDep, principal: PrincipalDep, key: KeyDep, name: str) -> Response:
    """Delete a callback tool. Pending approvals of its calls are cancelled."""
    session = await gateway.registry.find(key)
    return json_response((await session.commands.remove_tool(name, principal.key_id)).body.encode())
