"""`shell {command, timeoutMs?}`: a command line, and nothing of it left when it is over.

This is no sandbox: the command can do what the server's user can do. It is confined in time, in what it prints, in what
it inherits, and to its process group. What leaves that group on purpose (`setsid`) is out of reach.
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
from cmdc_gateway.tools.builtin.arguments import Arguments, number, text
from cmdc_gateway.tools.builtin.base import Definition
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT, capped
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

DEFAULT_TIMEOUT_MS: Final = 60_000
MAX_TIMEOUT_MS: Final = 600_000
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# When the group is dead its output is complete; only what left the group can still hold the pipe.
_LAST_OUTPUT_SECONDS: Final = 0.5

SHELL: Final = Definition(
    name="shell",
    description=(
        "Run a command line with /bin/sh in the working folder. Gives what it wrote to standard output and standard "
        "error, then its exit code. There is no input and no terminal. Background processes end with the command. "
        f"It is killed after `timeoutMs` (default {DEFAULT_TIMEOUT_MS})."
    ),
    properties={
        "command": {"type": "string", "minLength": 1},
        "timeoutMs": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
    },
    required=("command",),
)


class Shell:
    """The tool `shell`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    def spec(self) -> ToolSpec:
        return SHELL.spec

    async def run(self, call: ToolCall) -> ToolResult:
        if flaw := SHELL.parameters.flaw(call.args):
            return ToolResult("error", flaw)
        if "\0" in text(call.args, "command"):
            return ToolResult("error", "a command cannot hold the character U+0000")
        try:
            return await self._run(call.args)
        except WorkspaceError as error:
            return ToolResult("error", str(error))
        except OSError as error:
            return ToolResult("error", f"the command could not be started: {os.strerror(error.errno or 0)}")

    async def _run(self, args: Arguments) -> ToolResult:
        timeout_ms = number(args, "timeoutMs", DEFAULT_TIMEOUT_MS)
        command = text(args, "command").encode(errors="replace")
        async with _started(command, self._workspace) as (process, output):
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    code = await process.wait()
            except TimeoutError:
                code = None
            _kill_group(process)
            await output.finish()
        if code is None:
            return ToolResult("error", capped(output.text, f"[killed: not done after {timeout_ms} ms]"))
        return ToolResult("error" if code else "ok", capped(output.text, _ending(code)))


class _Output:
    """What a command prints: the beginning is kept, the rest is read and dropped so that it never has to wait."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.text = b""
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(MAX_OUTPUT):
            self.text += chunk[: MAX_OUTPUT + 1 - len(self.text)]

    async def finish(self) -> None:
        """Wait for the end of the output, for a moment."""
        await asyncio.wait([self._reading], timeout=_LAST_OUTPUT_SECONDS)

    async def stop(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])


@contextlib.asynccontextmanager
async def _started(command: bytes, workspace: Workspace) -> AsyncGenerator[tuple[Process, _Output]]:
    """Start a command in a process group of its own; leaving kills what is left of it, however one leaves."""
    loop = asyncio.get_running_loop()
    folder = workspace.enter(".").folder
    reader = asyncio.StreamReader()
    read_end, write_end = os.pipe()
    # A pipe of ours: with asyncio's own, `process.wait()` would wait for whoever else holds the other end.
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
    # The group outlives its leader while it has members, and so long its number is not given to another.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(workspace: Workspace) -> dict[str, str]:
    """All that a command inherits: nothing of the server's own environment, which has keys in it."""
    return {"PATH": SEARCH_PATH, "HOME": str(workspace.root), "LANG": "C.UTF-8"}


def _ending(code: int) -> str:
    return f"[exit code {code}]" if code >= 0 else f"[killed by signal {-code}]"
