# Derived from _async/live.py by derive_sync.py: change that, and run this again.
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
from cmdc_client.policies import Decider


@dataclass(frozen=True, slots=True)
class LiveApproval(ApprovalRequired):
    """An `ApprovalRequired` that can be decided here and now."""

    _decider: Decider = field(repr=False, compare=False)

    def approve(self, *, args: Mapping[str, Any] | None = None) -> None:
        """Let the call run, as it was shown or with other arguments. Raises AlreadyResolved if it was decided otherwise."""
        self._decider.approve(self.approval_id, args=args, digest=self.digest or None)

    def reject(self, *, reason: str | None = None) -> None:
        """Keep the call from running; the agent is told, and goes on. Raises AlreadyResolved if it was decided otherwise."""
        self._decider.reject(self.approval_id, reason=reason)


@dataclass(frozen=True, slots=True)
class LiveQuestion(AskUser):
    """An `AskUser` that can be answered here and now."""

    _decider: Decider = field(repr=False, compare=False)

    def answer(self, response: str) -> None:
        """Answer the question. Raises AlreadyResolved if it was answered otherwise."""
        self._decider.respond(self.ref, response)


LiveEvent = (
    PromptReceived
    | AgentStart
    | ThinkingStart
    | ThinkingDelta
    | MessageStart
    | MessageDelta
    | ToolCalls
    | LiveApproval
    | ApprovalResolved
    | ToolExecutionStart
    | LiveQuestion
    | ToolExecutionEnd
    | RunError
    | AgentEnd
    | AgentAbort
    | UnknownEvent
)
"""What is iterated over. Match it with the plain classes: `case ApprovalRequired():` gives what can be approved."""


def live(event: Event, decider: Decider) -> LiveEvent:
    """The event, such that it can be acted upon."""
    match event:
        case ApprovalRequired():
            return LiveApproval(**_values(event), _decider=decider)
        case AskUser():
            return LiveQuestion(**_values(event), _decider=decider)
        case _:
            return event


def _values(event: ApprovalRequired | AskUser) -> dict[str, Any]:
    return {each.name: getattr(event, each.name) for each in fields(event) if each.init}
