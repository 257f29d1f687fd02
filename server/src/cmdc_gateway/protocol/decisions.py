"""What people decide and answer, on the wire (§3.7)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from cmdc_gateway.protocol.wire import AnswerBody, LeftOut, RequestBody


class ApproveBody(RequestBody):
    """Let a tool call run."""

    approval_id: str
    args: LeftOut[dict[str, JsonValue]] = Field(None, description="Edited arguments; these are what runs.")
    digest: LeftOut[str] = Field(None, description="The digest that was shown; another one decides nothing.")


class RejectBody(RequestBody):
    """Keep a tool call from running."""

    approval_id: str
    reason: LeftOut[str] = Field(None, description="Told to the model.")


class DecisionTaken(AnswerBody):
    """The decision holds."""

    ok: Literal[True]
    action: Literal["approve", "reject"]
    approval_id: str


class RespondBody(RequestBody):
    """The answer to a question."""

    ref: str
    response: str


class ResponseTaken(AnswerBody):
    """The answer was passed on."""

    ok: Literal[True]
    action: Literal["respond"]
    ref: str
