"""Callback tools: registering, listing and removing them (§3.10, §7)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from cmdc_gateway.protocol.tools import RegisterToolBody, ToolList, ToolRegistered, ToolRemoved
from cmdc_gateway.web.dependencies import IdempotencyKeyDep, KeyDep, PrincipalDep, body
from cmdc_gateway.web.routes.sessions import GONE
from cmdc_gateway.web.schema.components import CALLBACKS
from cmdc_gateway.web.schema.operations import operation
from cmdc_gateway.web.serializers import tool_list
from cmdc_gateway.web.state import GatewayDep, answer, json_answer

router = APIRouter(prefix="/v1/sessions/{session_id}/tools", tags=["tools"])


@router.post(
    "",
    **operation(
        "Register a callback tool",
        ToolRegistered,
        status=201,
        body=RegisterToolBody,
        posted=True,
        errors=(*GONE, "registration_failed"),
        callbacks=CALLBACKS,
    ),
)
async def register_tool(
    gateway: GatewayDep,
    caller: PrincipalDep,
    key: KeyDep,
    sent: Annotated[RegisterToolBody, body(RegisterToolBody)],
    once: IdempotencyKeyDep,
) -> Response:
    """Give the agent a tool of yours; it is called over HTTP, signed. The same name again replaces it."""
    return answer(await gateway.actions.register(caller, key, sent, once))


@router.get("", **operation("List tools", ToolList, errors=GONE))
async def list_tools(gateway: GatewayDep, key: KeyDep) -> Response:
    """The tools the agent has, built-in ones and yours. Never a secret."""
    return json_answer(tool_list(await gateway.registry.find(key)))


@router.delete("/{name}", **operation("Remove a callback tool", ToolRemoved, errors=GONE))
async def remove_tool(gateway: GatewayDep, caller: PrincipalDep, key: KeyDep, name: str) -> Response:
    """Take a callback tool away from the agent."""
    session = await gateway.registry.find(key)
    return json_answer((await session.commands.remove_tool(name, caller.key_id)).body.encode())
