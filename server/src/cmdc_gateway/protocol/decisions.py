"""Request and response bodies of approvals and questions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from cmdc_gateway.protocol.wire import AnswerBody, LeftOut, RequestBody


class ApproveBody(RequestBody):
    """Approve a tool call, as shown or with edited arguments."""

    approval_id: str
    args: LeftOut[dict[str, JsonValue]] = Field(None, description="Edited arguments, which run instead of those shown.")
    digest: LeftOut[str] = Field(None, description="Digest of the call shown; a mismatch decides nothing.")


class RejectBody(RequestBody):
    """Reject a tool call."""

    approval_id: str
    reason: LeftOut[str] = Field(None, description="Passed to the model.")


class DecisionTaken(AnswerBody):
    """The decision was recorded."""

    ok: Literal[True]
    action: Literal["approve", "reject"]
    approval_id: str


class RespondBody(RequestBody):
    """Answer a question of the agent."""

    ref: str
    response: str


class ResponseTaken(AnswerBody):
    """The answer was recorded."""

    ok: Literal[True]
    action: Literal["respond"]
    ref: str
