"""What can happen to a run: the kernel's inputs."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from cmdc_gateway.protocol.events import ToolStatus
from cmdc_gateway.protocol.history import TokenUsage


@dataclass(frozen=True, slots=True)
class Prompted:
    """The run begins."""

    text: str


@dataclass(frozen=True, slots=True)
class ThoughtArrived:
    """The model gave a piece of its reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class TextArrived:
    """The model gave a piece of its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolRequested:
    """The model asked for a tool. `flaw` says why `args` are not what it meant, where its JSON was broken."""

    name: str
    args: dict[str, JsonValue]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFinished:
    """The model call is complete. `usage` and `cost_usd` are of this call alone."""

    usage: TokenUsage
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The model call broke off for good. What it used until then still counts."""

    reason: str
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetRefused:
    """The next model call may not be paid for (MTR-2)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Approved:
    """A person allowed a tool call, with other arguments where `args` is given (already checked)."""

    approval_id: str
    args: dict[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A person refused a tool call."""

    approval_id: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """Nobody decided in time."""

    approval_id: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A person answered a question."""

    ref: str
    response: str


@dataclass(frozen=True, slots=True)
class ToolReplaced:
    """A tool was registered again, or removed: what waited for approval under its name was not about this one."""

    name: str


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool is done."""

    call_id: str
    status: ToolStatus
    result: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """The run is to stop now. What the model used until then still counts.

    `error`, where given, is told to readers before the end.
    """

    reason: str
    error: str | None = None
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0


Chunk = ThoughtArrived | TextArrived
CHUNKS = (ThoughtArrived, TextArrived)
"""What `isinstance` is to look for: to make a union for each piece would take longer than looking."""

ModelSignal = Chunk | ToolRequested | ModelFinished

Signal = (
    Prompted
    | ModelSignal
    | ModelFailed
    | BudgetRefused
    | Approved
    | Rejected
    | Expired
    | Answered
    | ToolReplaced
    | ToolFinished
    | Aborted
)
