"""Message history and usage (MTR-1)."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from cmdc_gateway.protocol.sessions import MessageList, SessionStats, TenantUsage
from cmdc_gateway.web.dependencies import KeyDep, PageQuery, PrincipalDep, query_of
from cmdc_gateway.web.responses import json_response
from cmdc_gateway.web.routes.sessions import GONE
from cmdc_gateway.web.routing import Operation, RouteGroup
from cmdc_gateway.web.serializers import message_list, session_stats, tenant_usage
from cmdc_gateway.web.state import GatewayDep

routes = RouteGroup("/v1", tag="history")


@routes.route(
    "GET",
    "/sessions/{session_id}/messages",
    Operation("List messages", MessageList, query=PageQuery, errors=(*GONE, "invalid_cursor")),
)
async def get_messages(gateway: GatewayDep, key: KeyDep, page: Annotated[PageQuery, query_of(PageQuery)]) -> Response:
    """The session's messages, oldest first. Returns all of them unless `limit` or `cursor` is given."""
    await gateway.registry.find(key)
    return json_response(await message_list(gateway.store, key, page.limit, page.cursor))


@routes.route("GET", "/sessions/{session_id}/stats", Operation("Get session usage", SessionStats, errors=GONE))
async def get_stats(gateway: GatewayDep, key: KeyDep) -> Response:
    """Model calls, prompts, tokens, and cost of one session."""
    return json_response(session_stats(await gateway.registry.find(key)))


@routes.route("GET", "/usage", Operation("Get usage", TenantUsage, features=("usage",)))
async def get_usage(gateway: GatewayDep, principal: PrincipalDep) -> Response:
    """Prompts, tokens, and cost of your tenant, in total and per API key. Includes deleted sessions."""
    return json_response(await tenant_usage(gateway.store, principal.tenant))
