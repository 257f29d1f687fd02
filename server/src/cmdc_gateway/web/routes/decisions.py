"""Approvals and questions: what people decide and answer (§3.7, §7)."""

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
    """Let a tool call run, as it was shown or with edited arguments."""
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
    """Keep a tool call from running; the model is told so and the run goes on."""
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
    """Give the answer to a question the agent asked."""
    return answer(await gateway.actions.respond(caller, key, sent, once))
