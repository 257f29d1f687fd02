"""The interface of a tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.events import ToolStatus
from cmdc_gateway.protocol.history import ToolCall


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The outcome of a call. The model and the readers receive `result`."""

    status: ToolStatus
    result: str


class Tool(Protocol):
    """A tool of one session."""

    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, call: ToolCall) -> ToolResult:
        """Run a call. A failure is a ToolResult with the status `error`, never an exception.

        Cancelling it stops all its work.
        """
        ...
