"""Approvals and questions: approve or reject a tool call, answer a question (APP-1, ASK-1)."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from cmdc_gateway.protocol.decisions import ApproveBody, DecisionTaken, RejectBody, RespondBody, ResponseTaken
from cmdc_gateway.web.dependencies import IdempotencyKeyDep, KeyDep, PrincipalDep, body_of
from cmdc_gateway.web.responses import stored_response
from cmdc_gateway.web.routes.sessions import GONE
from cmdc_gateway.web.routing import Operation, RouteGroup
from cmdc_gateway.web.state import GatewayDep

routes = RouteGroup("/v1/sessions/{session_id}", tag="decisions")


@routes.route(
    "POST",
    "/approve",
    Operation(
        "Approve a tool call",
        DecisionTaken,
        body=ApproveBody,
        errors=(*GONE, "already_resolved", "digest_mismatch"),
        features=("approval_args", "approval_digest"),
        examples=("approved",),
    ),
)
async def approve(
    gateway: GatewayDep,
    principal: PrincipalDep,
    key: KeyDep,
    body: Annotated[ApproveBody, body_of(ApproveBody)],
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """Approve a pending tool call, as shown or with edited arguments."""
    return stored_response(await gateway.actions.approve(principal, key, body, idempotency_key))


@routes.route(
    "POST",
    "/reject",
    Operation(
        "Reject a tool call",
        DecisionTaken,
        body=RejectBody,
        errors=(*GONE, "already_resolved"),
        examples=("rejected",),
    ),
)
async def reject(
    gateway: GatewayDep,
    principal: PrincipalDep,
    key: KeyDep,
    body: Annotated[RejectBody, body_of(RejectBody)],
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """Reject a pending tool call. The model receives the rejection as the tool result, and the run continues."""
    return stored_response(await gateway.actions.reject(principal, key, body, idempotency_key))


@routes.route(
    "POST",
    "/respond",
    Operation("Answer a question", ResponseTaken, body=RespondBody, errors=(*GONE, "already_resolved")),
)
async def respond(
    gateway: GatewayDep,
    principal: PrincipalDep,
    key: KeyDep,
    body: Annotated[RespondBody, body_of(RespondBody)],
    idempotency_key: IdempotencyKeyDep,
) -> Response:
    """Answer a question that the agent asked with `ask_user`."""
    return stored_response(await gateway.actions.respond(principal, key, body, idempotency_key))
