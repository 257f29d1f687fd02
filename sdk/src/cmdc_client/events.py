"""The fifteen events of a run, as they are read from a stream, a page or a WebSocket.

The classes are generated from the published event schema. An event has `event` (its name on the wire), `id` (its
cursor), `seq`, `request_id`, and the members of its data. Match over them with `match`/`case`; what a newer server
sends is an `UnknownEvent`.
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
from cmdc_client.errors import ProtocolError

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

# A server of the base protocol gives no ids, and does not say these things: they are empty, or 0, then.
_BASE: Final[Mapping[str, Mapping[str, Any]]] = {
    "approval_required": {"callId": "", "digest": "", "expiresAt": None},
    "agent_end": {"costUsd": 0.0},
}


def is_terminal(event: Event) -> bool:
    """Whether this event is the last of its run."""
    return isinstance(event, AgentEnd | AgentAbort)


def read_event(name: str, data: Mapping[str, Any], cursor: str | None, where: str, *, request_id: str = "") -> Event:
    """The event of this name and data. Raises ProtocolError, which says what is wrong with it.

    Where there is no cursor, the server speaks the base protocol, and `request_id` is what is known without it.
    """
    if cursor is None:
        data = {"requestId": request_id, **_BASE.get(name, {}), **data}
    try:
        return parse_event(name, data, cursor)
    except (ValueError, OverflowError) as flaw:
        raise ProtocolError(where, f"the event {name[:80]!r} is not as it must be: {flaw}") from None
