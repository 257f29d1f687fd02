"""Live events: an approval or a question that a run, a stream or a WebSocket delivers can be resolved directly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from cmdc_client.events import (
    AgentAbort,
    AgentEnd,
    AgentStart,
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    Event,
    MessageDelta,
    MessageStart,
    PromptReceived,
    RunError,
    ThinkingDelta,
    ThinkingStart,
    ToolCalls,
    ToolExecutionEnd,
    ToolExecutionStart,
    UnknownEvent,
)
from cmdc_client.policies import AsyncDecisionSender


@dataclass(frozen=True, slots=True)
class AsyncLiveApproval(ApprovalRequired):
    """An `ApprovalRequired` with methods that decide it."""

    _sender: AsyncDecisionSender = field(repr=False, compare=False)

    async def approve(self, *, args: Mapping[str, Any] | None = None) -> None:
        """Approve the tool call, optionally with other arguments.

        The digest of the call is sent along, so that no other call can be approved. Raises AlreadyResolved if the call
        was already decided differently.
        """
        await self._sender.approve(self.approval_id, args=args, digest=self.digest or None)

    async def reject(self, *, reason: str | None = None) -> None:
        """Reject the tool call; the run continues without it, and the agent receives the reason.

        Raises AlreadyResolved if the call was already decided differently.
        """
        await self._sender.reject(self.approval_id, reason=reason)


@dataclass(frozen=True, slots=True)
class AsyncLiveQuestion(AskUser):
    """An `AskUser` with a method that answers it."""

    _sender: AsyncDecisionSender = field(repr=False, compare=False)

    async def answer(self, response: str) -> None:
        """Answer the question. Raises AlreadyResolved if it was already answered differently."""
        await self._sender.respond(self.ref, response)


AsyncLiveEvent = (
    PromptReceived
    | AgentStart
    | ThinkingStart
    | ThinkingDelta
    | MessageStart
    | MessageDelta
    | ToolCalls
    | AsyncLiveApproval
    | ApprovalResolved
    | ToolExecutionStart
    | AsyncLiveQuestion
    | ToolExecutionEnd
    | RunError
    | AgentEnd
    | AgentAbort
    | UnknownEvent
)
"""An event as it is delivered. Match it with the plain classes: `case ApprovalRequired()` matches a live approval."""


def to_live_event(event: Event, sender: AsyncDecisionSender) -> AsyncLiveEvent:
    """Return the event, with methods that use the sender if it is an approval or a question."""
    match event:
        case ApprovalRequired():
            return AsyncLiveApproval(**_field_values(event), _sender=sender)
        case AskUser():
            return AsyncLiveQuestion(**_field_values(event), _sender=sender)
        case _:
            return event


def _field_values(event: ApprovalRequired | AskUser) -> dict[str, Any]:
    return {each.name: getattr(event, each.name) for each in fields(event) if each.init}
