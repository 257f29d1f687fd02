"""Sessions: create, list, get, delete; prompts, aborts, and tickets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from starlette.responses import Response

from cmdc_gateway.protocol.service import TicketBody, TicketIssued
from cmdc_gateway.protocol.sessions import (
    AbortBody,
    AbortTaken,
    CreateSessionBody,
    PromptAccepted,
    PromptBody,
    SessionCreated,
    SessionDeleted,
    SessionInfo,
    SessionList,
)
from cmdc_gateway.web.dependencies import IdempotencyKeyDep, KeyDep, PageQuery, PrincipalDep, body_of, query_of
from cmdc_gateway.web.responses import json_response, stored_response
from cmdc_gateway.web.routing import Operation, RouteGroup
from cmdc_gateway.web.schema.operations import success
from cmdc_gateway.web.serializers import session_info, session_list
from cmdc_gateway.web.state import GatewayDep

routes = RouteGroup("/v1/sessions", tag="sessions")

GONE = ("not_found", "session_dead")


class SessionsQuery(PageQuery):
    """Query parameters of the session list."""

    state: Literal["idle", "working", "waiting_approval", "waiting_input"] | None = Field(
        None, description="Only sessions in this state."
    )


@routes.route(
    "POST",
    "",
    Operation(
        "Create a session",
        SessionCreated,
        status=201,
        body=CreateSessionBody,
        errors=("create_failed", "session_exists"),
        features=("approval_timeout", "budgets", "metadata"),
    ),
)
async def create_session(
    gateway: GatewayDep,
    principal: PrincipalDep,
    body: Annotated[CreateSessionBody, body_of(CreateSessionBody)],
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """Create an agent with its own settings, an empty history, and an empty event log."""
    return stored_response(await gateway.actions.create(principal, body, idempotency_key))


@routes.route(
    "GET",
    "",
    Operation(
        "List sessions",
        SessionList,
        query=SessionsQuery,
        errors=("invalid_cursor",),
        features=("list_sessions",),
    ),
)
async def list_sessions(
    gateway: GatewayDep, principal: PrincipalDep, page: Annotated[SessionsQuery, query_of(SessionsQuery)]
) -> Response:
    """Your tenant's sessions, newest first."""
    return json_response(await session_list(gateway.store, principal.tenant, page.limit, page.cursor, page.state))


@routes.route("GET", "/{session_id}", Operation("Get a session", SessionInfo, errors=GONE))
async def get_session(gateway: GatewayDep, key: KeyDep) -> Response:
    """The session's current state, its queued prompts, and its pending approvals and questions."""
    return json_response(session_info(await gateway.registry.find(key), gateway.registry.services.clock()))


@routes.route("DELETE", "/{session_id}", Operation("Delete a session", SessionDeleted, errors=GONE))
async def delete_session(gateway: GatewayDep, principal: PrincipalDep, key: KeyDep) -> Response:
    """Stop the session's run, end its streams, and delete its tools, event log, and history."""
    return json_response((await gateway.registry.delete(key, principal.key_id)).body.encode())


@routes.route(
    "POST",
    "/{session_id}/prompt",
    Operation(
        "Send a prompt",
        PromptAccepted,
        status=202,
        body=PromptBody,
        errors=(*GONE, "budget_exceeded", "queue_full"),
    ),
)
async def post_prompt(
    gateway: GatewayDep,
    principal: PrincipalDep,
    key: KeyDep,
    body: Annotated[PromptBody, body_of(PromptBody)],
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """Send a prompt to the agent. 202 means the prompt is committed and survives a server crash."""
    return stored_response(await gateway.actions.prompt(principal, key, body, idempotency_key))


@routes.route(
    "POST",
    "/{session_id}/abort",
    Operation(
        "Abort the active run",
        AbortTaken,
        status=202,
        body=AbortBody,
        body_required=False,
        errors=GONE,
        features=("abort",),
        examples=("aborted",),
        more_responses={200: success(AbortTaken, ("nothing_active",), "No run was active.")},
    ),
)
async def abort_run(
    gateway: GatewayDep,
    principal: PrincipalDep,
    key: KeyDep,
    body: Annotated[AbortBody, body_of(AbortBody)],
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """Abort the active run. Queued prompts are not affected."""
    return stored_response(await gateway.actions.abort(principal, key, body, idempotency_key))


@routes.route(
    "POST",
    "/{session_id}/tickets",
    Operation(
        "Create a ticket",
        TicketIssued,
        status=201,
        body=TicketBody,
        body_required=False,
        errors=GONE,
        features=("tickets",),
    ),
)
async def issue_ticket(
    gateway: GatewayDep,
    principal: PrincipalDep,
    key: KeyDep,
    body: Annotated[TicketBody, body_of(TicketBody)],
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """Create a single-use credential for one connection to this session, for browsers. It expires after 30 seconds."""
    return stored_response(await gateway.actions.ticket(principal, key, body, idempotency_key))
