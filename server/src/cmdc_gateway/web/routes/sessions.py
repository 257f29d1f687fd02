"""Sessions: making, finding, prompting and deleting them (§3.2 – §3.5, §3.11)."""

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
    """Which sessions to list."""

    state: Literal["idle", "working", "waiting_approval", "waiting_input"] | None = Field(
        None, description="Only sessions in this state."
    )


@router.post(
    "",
    **operation(
        "Make a session",
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
    """Make an agent with settings of its own. Its history and its event log are empty."""
    return answer(await gateway.actions.create(caller, sent, once))


@router.get("", **operation("List sessions", SessionList, takes=SessionsQuery, errors=("invalid_cursor",)))
async def list_sessions(
    gateway: GatewayDep, caller: PrincipalDep, page: Annotated[SessionsQuery, Depends(query(SessionsQuery))]
) -> Response:
    """Your tenant's sessions, newest first."""
    return json_answer(await session_list(gateway.store, caller.tenant, page.limit, page.cursor, page.state))


@router.get("/{session_id}", **operation("Look at a session", SessionInfo, errors=GONE))
async def get_session(gateway: GatewayDep, key: KeyDep) -> Response:
    """What a session is doing now, what waits in its queue, and what waits for a person."""
    return json_answer(session_info(await gateway.registry.find(key), gateway.registry.services.clock()))


@router.delete("/{session_id}", **operation("Delete a session", SessionDeleted, errors=GONE))
async def delete_session(gateway: GatewayDep, caller: PrincipalDep, key: KeyDep) -> Response:
    """Stop its run, end its streams, and forget its tools, log and history."""
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
    """Hand the agent a prompt. 202 means that it is committed: it survives a crash of the server."""
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
    """End the active run; prompts that wait go on."""
    return answer(await gateway.actions.abort(caller, key, sent, once))


@router.post(
    "/{session_id}/tickets",
    **operation(
        "Get a ticket",
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
    """A single-use credential for one stream of this session, for browsers. It is good for 30 seconds."""
    return answer(await gateway.actions.ticket(caller, key, sent, once))
