"""The fifteen events of a run.

The classes are generated from the published event schema. Every event has `event` (its name on the wire), `id` (its
cursor), `seq`, `request_id`, and the members of its data in snake_case. Handle them with `match`; an event that only a
newer server knows is an `UnknownEvent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cmdc_client._generated.events import (
    AgentAbort,
    AgentEnd,
    AgentStart,
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    Event,
    LastMessage,
    MessageDelta,
    MessageStart,
    PromptReceived,
    RunError,
    ThinkingDelta,
    ThinkingStart,
    TokenUsage,
    ToolCalls,
    ToolExecutionEnd,
    ToolExecutionStart,
    UnknownEvent,
    parse_event,
)
from cmdc_client.base_errors import ProtocolError

__all__ = [
    "AgentAbort",
    "AgentEnd",
    "AgentStart",
    "ApprovalRequired",
    "ApprovalResolved",
    "AskUser",
    "Event",
    "LastMessage",
    "MessageDelta",
    "MessageStart",
    "PromptReceived",
    "RunError",
    "ThinkingDelta",
    "ThinkingStart",
    "TokenUsage",
    "ToolCalls",
    "ToolExecutionEnd",
    "ToolExecutionStart",
    "UnknownEvent",
    "is_terminal",
    "read_event",
]

TERMINAL: Final = frozenset({"agent_end", "agent_abort"})

# A server of the base protocol sends neither ids nor these members.
_BASE_PROTOCOL_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "approval_required": {"callId": "", "digest": "", "expiresAt": None},
    "agent_end": {"costUsd": 0.0},
}


def is_terminal(event: Event) -> bool:
    """Return whether this event is the last of its run."""
    return isinstance(event, AgentEnd | AgentAbort)


def read_event(name: str, data: Mapping[str, Any], cursor: str | None, where: str, *, request_id: str = "") -> Event:
    """Parse an event. Raises ProtocolError, which names the invalid member, at `where`.

    Without a cursor the event comes from a server of the base protocol; `request_id` is then the id of its run.
    """
    if cursor is None:
        data = {"requestId": request_id, **_BASE_PROTOCOL_DEFAULTS.get(name, {}), **data}
    try:
        return parse_event(name, data, cursor)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(where, f"invalid event {name[:80]!r}: {error}") from None
