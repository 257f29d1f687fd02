"""Signals: the kernel's inputs, one class for each thing that can happen to a run."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from cmdc_gateway.protocol.events import ToolStatus
from cmdc_gateway.protocol.history import TokenUsage


@dataclass(frozen=True, slots=True)
class Prompted:
    """The run starts with this prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class ThoughtArrived:
    """A chunk of reasoning text arrived from the model."""

    text: str


@dataclass(frozen=True, slots=True)
class TextArrived:
    """A chunk of answer text arrived from the model."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolRequested:
    """The model requested a tool call. `error` is set if its arguments were not valid JSON."""

    name: str
    args: dict[str, JsonValue]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFinished:
    """The model call completed. `usage` and `cost_usd` are those of this call."""

    usage: TokenUsage
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The model call failed after all retries. Tokens used until then still count."""

    reason: str
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetRefused:
    """A budget does not allow the next model call (MTR-2)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Approved:
    """The user approved a tool call; `args`, already validated, replace its arguments if given."""

    approval_id: str
    args: dict[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The user rejected a tool call."""

    approval_id: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalExpired:
    """An approval reached its time limit undecided."""

    approval_id: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The user answered a question."""

    ref: str
    response: str


@dataclass(frozen=True, slots=True)
class ToolReplaced:
    """A tool was registered again or removed, which invalidates the approvals pending for the old one (APP-3)."""

    name: str


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool call finished."""

    call_id: str
    status: ToolStatus
    result: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """The run must stop now. Tokens used until then still count.

    `error`, if given, becomes an `error` event before the `agent_abort`.
    """

    reason: str
    error: str | None = None
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0


Chunk = ThoughtArrived | TextArrived
CHUNKS = (ThoughtArrived, TextArrived)
"""For `isinstance`: building the union for every chunk costs more than the check itself."""

ModelSignal = Chunk | ToolRequested | ModelFinished

Signal = (
    Prompted
    | ModelSignal
    | ModelFailed
    | BudgetRefused
    | Approved
    | Rejected
    | ApprovalExpired
    | Answered
    | ToolReplaced
    | ToolFinished
    | Aborted
)
