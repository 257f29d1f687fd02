"""Approvals and questions: approve or reject a tool call, answer a question (APP-1, ASK-1)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from cmdc_gateway.protocol.decisions import ApproveBody, DecisionTaken, RejectBody, RespondBody, ResponseTaken
from cmdc_gateway.web.dependencies import IdempotencyKeyDep, KeyDep, PrincipalDep, body
from cmdc_gateway.web.routes.sessions import GONE
from cmdc_gateway.web.schema.operations import operation
from cmdc_gateway.web.state import GatewayDep, answer

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["decisions"])


@router.post(
    "/approve",
    **operation(
        "Approve a tool call",
        DecisionTaken,
        body=ApproveBody,
        posted=True,
        errors=(*GONE, "already_resolved", "digest_mismatch"),
        examples=("approved",),
    ),
)
async def approve(
    gateway: GatewayDep,
    caller: PrincipalDep,
    key: KeyDep,
    sent: Annotated[ApproveBody, body(ApproveBody)],
    once: IdempotencyKeyDep,
) -> Response:
    """Approve a pending tool call, as shown or with edited arguments."""
    return answer(await gateway.actions.approve(caller, key, sent, once))


@router.post(
    "/reject",
    **operation(
        "Reject a tool call",
        DecisionTaken,
        body=RejectBody,
        posted=True,
        errors=(*GONE, "already_resolved"),
        examples=("rejected",),
    ),
)
async def reject(
    gateway: GatewayDep,
    caller: PrincipalDep,
    key: KeyDep,
    sent: Annotated[RejectBody, body(RejectBody)],
    once: IdempotencyKeyDep,
) -> Response:
    """Reject a pending tool call. The model receives the rejection as the tool result, and the run continues."""
    return answer(await gateway.actions.reject(caller, key, sent, once))


@router.post(
    "/respond",
    **operation("Answer a question", ResponseTaken, body=RespondBody, posted=True, errors=(*GONE, "already_resolved")),
)
async def respond(
    gateway: GatewayDep,
    caller: PrincipalDep,
    key: KeyDep,
    sent: Annotated[RespondBody, body(RespondBody)],
    once: IdempotencyKeyDep,
) -> Response:
    """Answer a question that the agent asked with `ask_user`."""
    return answer(await gateway.actions.respond(caller, key, sent, once))
