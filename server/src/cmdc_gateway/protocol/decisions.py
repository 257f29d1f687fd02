"""What people decide and answer, on the wire (§3.7)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from cmdc_gateway.protocol.wire import AnswerBody, LeftOut, RequestBody


class ApproveBody(RequestBody):
    approval_id: str
    args: LeftOut[dict[str, JsonValue]] = Field(None, description="Edited arguments; these are what runs.")
    digest: LeftOut[str] = Field(None, description="The digest that was shown; another one decides nothing.")


class RejectBody(RequestBody):
    approval_id: str
    reason: LeftOut[str] = Field(None, description="Told to the model.")


class DecisionTaken(AnswerBody):
    ok: Literal[True]
    action: Literal["approve", "reject"]
    approval_id: str


class RespondBody(RequestBody):
    ref: str
    response: str


class ResponseTaken(AnswerBody):
    ok: Literal[True]
    action: Literal["respond"]
    ref: str
