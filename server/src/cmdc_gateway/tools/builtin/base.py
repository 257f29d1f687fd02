"""What the built-in tools share: a spec, a check of the arguments, and file work in a thread that stops when asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pydantic import JsonValue

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.builtin.arguments import Arguments
from cmdc_gateway.tools.builtin.output import text_of
from cmdc_gateway.tools.schema import Parameters
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

PATH: Final[dict[str, JsonValue]] = {
    "type": "string",
    "description": "Relative to the working folder; cannot leave the workspace.",
}


class ToolFailed(Exception):
    """The tool cannot do this; the sentence is its result."""


class Stopped(Exception):
    """The call was cancelled: nobody wants the rest."""


class Stop:
    """Tells work in a thread to end."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        self._asked.set()

    def check(self) -> None:
        """Raise `Stopped` if the work is to end. Work calls this in every loop."""
        if self._asked.is_set():
            raise Stopped


FileWork = Callable[[Workspace, Arguments, Stop], str]


@dataclass(frozen=True)
class Definition:
    """A built-in tool before it has a workspace."""

    name: str
    description: str
    properties: dict[str, JsonValue]
    required: tuple[str, ...] = ()
    idempotent: bool = False

    @cached_property
    def spec(self) -> ToolSpec:
        schema: dict[str, JsonValue] = {
            "type": "object",
            "properties": self.properties,
            "required": list(self.required),
            "additionalProperties": False,
        }
        return ToolSpec(self.name, self.description, schema, idempotent=self.idempotent)

    @cached_property
    def parameters(self) -> Parameters:
        return Parameters(self.spec.parameters)


class FileTool:
    """A tool that works on files, in a thread."""

    def __init__(self, definition: Definition, work: FileWork, workspace: Workspace) -> None:
        self._definition = definition
        self._work = work
        self._workspace = workspace

    @property
    def spec(self) -> ToolSpec:
        return self._definition.spec

    async def run(self, call: ToolCall) -> ToolResult:
        if flaw := self._definition.parameters.flaw(call.args):
            return ToolResult("error", flaw)
        stop = Stop()
        try:
            return ToolResult("ok", await asyncio.to_thread(self._work, self._workspace, call.args, stop))
        except (ToolFailed, WorkspaceError) as error:
            return ToolResult("error", text_of(str(error)))
        finally:
            stop.ask()
