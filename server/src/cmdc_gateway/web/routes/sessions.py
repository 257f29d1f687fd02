"""Sessions: create, list, get, delete; prompts, aborts, and tickets."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
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
from cmdc_gateway.web.dependencies import IdempotencyKeyDep, KeyDep, PageQuery, PrincipalDep, body, query
from cmdc_gateway.web.schema.operations import operation, success
from cmdc_gateway.web.serializers import session_info, session_list
from cmdc_gateway.web.state import GatewayDep, answer, json_answer

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

GONE = ("not_found", "session_dead")


class SessionsQuery(PageQuery):
    """Query parameters of the session list."""

    state: Literal["idle", "working", "waiting_approval", "waiting_input"] | None = Field(
        None, description="Only sessions in this state."
    )


@router.post(
    "",
    **operation(
        "Create a session",
        SessionCreated,
        status=201,
        body=CreateSessionBody,
        posted=True,
        errors=("create_failed", "session_exists"),
    ),
)
async def create_session(
    gateway: GatewayDep,
    caller: PrincipalDep,
    sent: Annotated[CreateSessionBody, body(CreateSessionBody)],
    once: IdempotencyKeyDep,
) -> Response:
    """Create an agent with its own settings, an empty history, and an empty event log."""
    return answer(await gateway.actions.create(caller, sent, once))


@router.get("", **operation("List sessions", SessionList, takes=SessionsQuery, errors=("invalid_cursor",)))
async def list_sessions(
    gateway: GatewayDep, caller: PrincipalDep, page: Annotated[SessionsQuery, Depends(query(SessionsQuery))]
) -> Response:
    """Your tenant's sessions, newest first."""
    return json_answer(await session_list(gateway.store, caller.tenant, page.limit, page.cursor, page.state))


@router.get("/{session_id}", **operation("Get a session", SessionInfo, errors=GONE))
async def get_session(gateway: GatewayDep, key: KeyDep) -> Response:
    """The session's current state, its queued prompts, and its pending approvals and questions."""
    return json_answer(session_info(await gateway.registry.find(key), gateway.registry.services.clock()))


@router.delete("/{session_id}", **operation("Delete a session", SessionDeleted, errors=GONE))
async def delete_session(gateway: GatewayDep, caller: PrincipalDep, key: KeyDep) -> Response:
    """Stop the session's run, end its streams, and delete its tools, event log, and history."""
    return json_answer((await gateway.registry.delete(key, caller.key_id)).body.encode())


@router.post(
    "/{session_id}/prompt",
    **operation(
        "Send a prompt",
        PromptAccepted,
        status=202,
        body=PromptBody,
        posted=True,
        errors=(*GONE, "budget_exceeded", "queue_full"),
    ),
)
async def post_prompt(
    gateway: GatewayDep,
    caller: PrincipalDep,
    key: KeyDep,
    sent: Annotated[PromptBody, body(PromptBody)],
    once: IdempotencyKeyDep,
) -> Response:
    """Send a prompt to the agent. 202 means the prompt is committed and survives a server crash."""
    return answer(await gateway.actions.prompt(caller, key, sent, once))


@router.post(
    "/{session_id}/abort",
    **operation(
        "Abort the active run",
        AbortTaken,
        status=202,
        body=AbortBody,
        body_may_be_empty=True,
        posted=True,
        errors=GONE,
        examples=("aborted",),
        more={200: success(AbortTaken, ("nothing_active",), "No run was active.")},
    ),
)
async def abort_run(
    gateway: GatewayDep,
    caller: PrincipalDep,
    key: KeyDep,
    sent: Annotated[AbortBody, body(AbortBody)],
    once: IdempotencyKeyDep,
) -> Response:
    """Abort the active run. Queued prompts are not affected."""
    return answer(await gateway.actions.abort(caller, key, sent, once))


@router.post(
    "/{session_id}/tickets",
    **operation(
        "Create a ticket",
        TicketIssued,
        status=201,
        body=TicketBody,
        body_may_be_empty=True,
        posted=True,
        errors=GONE,
    ),
)
async def issue_ticket(
    gateway: GatewayDep,
    caller: PrincipalDep,
    key: KeyDep,
    sent: Annotated[TicketBody, body(TicketBody)],
    once: IdempotencyKeyDep,
) -> Response:
    """Create a single-use credential for one connection to this session, for browsers. It expires after 30 seconds."""
    return answer(await gateway.actions.ticket(caller, key, sent, once))
