"""Tools that work on files: a function that runs in a thread, and stops when the call is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.builtin.arguments import Arguments
from cmdc_gateway.tools.builtin.definition import Definition
from cmdc_gateway.tools.builtin.output import clean_text
from cmdc_gateway.tools.tool import Tool, ToolResult
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError


class ToolFailed(Exception):
    """The call failed; the message is its result."""


class Cancelled(Exception):
    """The call was cancelled."""


class CancelToken:
    """Tells a function in a thread that its call was cancelled."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def check(self) -> None:
        """Raise `Cancelled` if the call was cancelled. A function calls this in every loop."""
        if self._cancelled.is_set():
            raise Cancelled


FileFunction = Callable[[Workspace, Arguments, CancelToken], str]
"""From valid arguments to the result. Blocks. Raises `ToolFailed` or `WorkspaceError`."""


class FileTool:
    """A tool that runs a function in a thread."""

    def __init__(self, function: FileFunction, definition: Definition, workspace: Workspace) -> None:
        self._function = function
        self._definition = definition
        self._workspace = workspace

    @property
    def spec(self) -> ToolSpec:
        return self._definition.spec

    async def run(self, call: ToolCall) -> ToolResult:
        if error := self._definition.parameters.error(call.args):
            return ToolResult("error", error)
        token = CancelToken()
        try:
            return ToolResult("ok", await asyncio.to_thread(self._function, self._workspace, call.args, token))
        except (ToolFailed, WorkspaceError) as failure:
            return ToolResult("error", clean_text(str(failure)))
        finally:
            token.cancel()


def file_tool(function: FileFunction) -> Callable[[Definition, Workspace], Tool]:
    """The factory of a tool that runs this function."""
    return partial(FileTool, function)
