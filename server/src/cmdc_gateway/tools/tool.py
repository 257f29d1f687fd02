"""What a tool is to a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.events import ToolStatus
from cmdc_gateway.protocol.history import ToolCall


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a call ended. `result` goes to the model and to readers."""

    status: ToolStatus
    result: str


class Tool(Protocol):
    """Something a session can run for its agent."""

    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, call: ToolCall) -> ToolResult:
        """Run it. A failure is a ToolResult with status `error`, never an exception; cancelling stops all its work."""
        ...
