"""`shell {command, timeoutMs?}`: run a command line, and kill all its processes at the end.

This is not a sandbox: a command can do everything that the server's user can do. Its time, its output and its environment
are limited, and its process group is killed. A process that leaves the group (`setsid`) survives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from typing import Final

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.builtin.arguments import Arguments, integer, string
from cmdc_gateway.tools.builtin.definition import Definition
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT, truncate
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

DEFAULT_TIMEOUT_MS: Final = 60_000
MAX_TIMEOUT_MS: Final = 600_000
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Once the group is killed its output is complete, unless a process that left the group still holds the pipe.
_LAST_OUTPUT_SECONDS: Final = 0.5


class Shell:
    """The tool `shell`."""

    def __init__(self, definition: Definition, workspace: Workspace) -> None:
        self._definition = definition
        self._workspace = workspace

    @property
    def spec(self) -> ToolSpec:
        return self._definition.spec

    async def run(self, call: ToolCall) -> ToolResult:
        if error := self._definition.parameters.error(call.args):
            return ToolResult("error", error)
        if "\0" in string(call.args, "command"):
            return ToolResult("error", "the command contains the character U+0000")
        try:
            return await self._run(call.args)
        except WorkspaceError as failure:
            return ToolResult("error", str(failure))
        except OSError as failure:
            return ToolResult("error", f"the command could not be started: {os.strerror(failure.errno or 0)}")

    async def _run(self, args: Arguments) -> ToolResult:
        timeout_ms = integer(args, "timeoutMs", DEFAULT_TIMEOUT_MS)
        command = string(args, "command").encode(errors="replace")
        async with _running(command, self._workspace) as (process, output):
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    code = await process.wait()
            except TimeoutError:
                code = None
            _kill_group(process)
            await output.finish()
        if code is None:
            return ToolResult("error", truncate(output.text, f"[killed after {timeout_ms} ms]"))
        return ToolResult("error" if code else "ok", truncate(output.text, _exit_note(code)))


class _Output:
    """The output of a command. The beginning is kept; the rest is discarded, so that the command never blocks."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.text = b""
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(MAX_OUTPUT):
            self.text += chunk[: MAX_OUTPUT + 1 - len(self.text)]

    async def finish(self) -> None:
        """Wait for the end of the output, at most `_LAST_OUTPUT_SECONDS`."""
        await asyncio.wait([self._reading], timeout=_LAST_OUTPUT_SECONDS)

    async def stop(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])


@contextlib.asynccontextmanager
async def _running(command: bytes, workspace: Workspace) -> AsyncGenerator[tuple[Process, _Output]]:
    """Start a command in its own process group. Leaving the context kills the group."""
    loop = asyncio.get_running_loop()
    folder = workspace.enter(".").folder
    reader = asyncio.StreamReader()
    read_end, write_end = os.pipe()
    # Not a pipe of asyncio: its `process.wait()` would wait until every process has closed the other end.
    pipe = os.fdopen(read_end, "rb", buffering=0)
    try:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", command),
            cwd=folder,
            env=_environment(workspace),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
        )
    except BaseException:
        pipe.close()
        raise
    finally:
        os.close(write_end)
    output = _Output(reader)
    try:
        yield process, output
    finally:
        _kill_group(process)
        await process.wait()
        await output.stop()
        transport.close()


def _kill_group(process: Process) -> None:
    # A group exists while it has members, even without its leader, so its id cannot belong to another group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(workspace: Workspace) -> dict[str, str]:
    """The environment of a command. It inherits nothing, because the server's environment contains keys."""
    return {"PATH": SEARCH_PATH, "HOME": str(workspace.root), "LANG": "C.UTF-8"}


def _exit_note(code: int) -> str:
    return f"[exit code {code}]" if code >= 0 else f"[killed by signal {-code}]"


SHELL: Final = Definition(
    name="shell",
    description=(
        "Run a command line with /bin/sh in the working folder. Returns its standard output and standard error, then its "
        "exit code. It has no input and no terminal. Background processes are killed when the command ends. "
        f"The command is killed after `timeoutMs` (default {DEFAULT_TIMEOUT_MS})."
    ),
    properties={
        "command": {"type": "string", "minLength": 1},
        "timeoutMs": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
    },
    required=("command",),
    factory=Shell,
)
