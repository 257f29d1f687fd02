"""Events that can be acted upon: as a run, a stream or a WebSocket delivers them."""

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
from cmdc_client.policies import AsyncDecider


@dataclass(frozen=True, slots=True)
class AsyncLiveApproval(ApprovalRequired):
    """An `ApprovalRequired` that can be decided here and now."""

    _decider: AsyncDecider = field(repr=False, compare=False)

    async def approve(self, *, args: Mapping[str, Any] | None = None) -> None:
        """Let the call run, as it was shown or with other arguments. Raises AlreadyResolved if it was decided otherwise."""
        await self._decider.approve(self.approval_id, args=args, digest=self.digest or None)

    async def reject(self, *, reason: str | None = None) -> None:
        """Keep the call from running; the agent is told, and goes on. Raises AlreadyResolved if it was decided otherwise."""
        await self._decider.reject(self.approval_id, reason=reason)


@dataclass(frozen=True, slots=True)
class AsyncLiveQuestion(AskUser):
    """An `AskUser` that can be answered here and now."""

    _decider: AsyncDecider = field(repr=False, compare=False)

    async def answer(self, response: str) -> None:
        """Answer the question. Raises AlreadyResolved if it was answered otherwise."""
        await self._decider.respond(self.ref, response)


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
"""What is iterated over. Match it with the plain classes: `case ApprovalRequired():` gives what can be approved."""


def live(event: Event, decider: AsyncDecider) -> AsyncLiveEvent:
    """The event, such that it can be acted upon."""
    match event:
        case ApprovalRequired():
            return AsyncLiveApproval(**_values(event), _decider=decider)
        case AskUser():
            return AsyncLiveQuestion(**_values(event), _decider=decider)
        case _:
            return event


def _values(event: ApprovalRequired | AskUser) -> dict[str, Any]:
    return {each.name: getattr(event, each.name) for each in fields(event) if each.init}
