"""Message history and usage (MTR-1)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from cmdc_gateway.protocol.sessions import MessageList, SessionStats, TenantUsage
from cmdc_gateway.web.dependencies import KeyDep, PageQuery, PrincipalDep, query
from cmdc_gateway.web.routes.sessions import GONE
from cmdc_gateway.web.schema.operations import operation
from cmdc_gateway.web.serializers import message_list, session_stats, tenant_usage
from cmdc_gateway.web.state import GatewayDep, json_answer

router = APIRouter(prefix="/v1", tags=["history"])


@router.get(
    "/sessions/{session_id}/messages",
    **operation("List messages", MessageList, takes=PageQuery, errors=(*GONE, "invalid_cursor")),
)
async def get_messages(
    gateway: GatewayDep, key: KeyDep, page: Annotated[PageQuery, Depends(query(PageQuery))]
) -> Response:
    """The session's messages, oldest first. Returns all of them unless `limit` or `cursor` is given."""
    await gateway.registry.find(key)
    return json_answer(await message_list(gateway.store, key, page.limit, page.cursor))


@router.get("/sessions/{session_id}/stats", **operation("Get session usage", SessionStats, errors=GONE))
async def get_stats(gateway: GatewayDep, key: KeyDep) -> Response:
    """Model calls, prompts, tokens, and cost of one session."""
    return json_answer(session_stats(await gateway.registry.find(key)))


@router.get("/usage", **operation("Get usage", TenantUsage))
async def get_usage(gateway: GatewayDep, caller: PrincipalDep) -> Response:
    """Prompts, tokens, and cost of your tenant, in total and per API key. Includes deleted sessions."""
    return json_answer(await tenant_usage(gateway.store, caller.tenant))
