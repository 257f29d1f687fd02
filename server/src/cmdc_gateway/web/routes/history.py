"""What was said and what it cost (§3.8, §3.9)."""

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
    **operation("Read the history", MessageList, takes=PageQuery, errors=(*GONE, "invalid_cursor")),
)
async def get_messages(
    gateway: GatewayDep, key: KeyDep, page: Annotated[PageQuery, Depends(query(PageQuery))]
) -> Response:
    """What was said in this session, in order; all of it, unless pages are asked for."""
    await gateway.registry.find(key)
    return json_answer(await message_list(gateway.store, key, page.limit, page.cursor))


@router.get("/sessions/{session_id}/stats", **operation("Count what a session used", SessionStats, errors=GONE))
async def get_stats(gateway: GatewayDep, key: KeyDep) -> Response:
    """This session's figures alone."""
    return json_answer(session_stats(await gateway.registry.find(key)))


@router.get("/usage", **operation("Count what your tenant used", TenantUsage))
async def get_usage(gateway: GatewayDep, caller: PrincipalDep) -> Response:
    """Your tenant's figures, and those of each of its keys."""
    return json_answer(await tenant_usage(gateway.store, caller.tenant))
