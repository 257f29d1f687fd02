import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT
from cmdc_gateway.tools.builtin.shell import SHELL
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.tools.workspace import Workspace
from pydantic import JsonValue


async def shell(workspace: Workspace, command: str, **args: JsonValue) -> ToolResult:
    tool = SHELL.create(workspace)
    assert tool is not None
    return await tool.run(ToolCall("c1", "shell", {"command": command, **args}))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def soon(condition: Callable[[], bool]) -> bool:
    """Whether a condition becomes true within 5 s. Other processes can only be polled."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


async def read_pid(file: Path) -> int:
    assert await asyncio.to_thread(soon, lambda: file.exists() and file.read_text().endswith("\n"))
    return int(await asyncio.to_thread(file.read_text))


async def is_soon_dead(pid: int) -> bool:
    return await asyncio.to_thread(soon, lambda: not is_alive(pid))


async def test_the_result_is_the_output_of_both_streams_and_the_exit_code(workspace: Workspace) -> None:
    assert await shell(workspace, "echo out; echo err >&2") == ToolResult("ok", "out\nerr\n[exit code 0]")


async def test_another_exit_code_is_an_error_with_the_output(workspace: Workspace) -> None:
    assert await shell(workspace, "printf half; exit 3") == ToolResult("error", "half\n[exit code 3]")
    assert await shell(workspace, "kill -9 $$") == ToolResult("error", "[killed by signal 9]")


async def test_a_command_runs_in_the_working_folder(workspace: Workspace) -> None:
    result = await shell(workspace.enter("docs"), "pwd; cat a.txt")

    assert result.result == f"{workspace.root}/docs\none\ntwo\nthree\n[exit code 0]"


async def test_a_command_does_not_inherit_the_environment(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_API_KEYS", "top-secret")
    monkeypatch.setenv("ANYTHING_ELSE", "top-secret")

    result = await shell(workspace, "env")

    assert "top-secret" not in result.result
    assert {line.split("=")[0] for line in result.result.splitlines()[:-1]} <= {
        *("PATH", "HOME", "LANG"),
        *("PWD", "SHLVL", "OLDPWD", "_"),  # set by the shell
    }


async def test_a_command_inherits_no_open_file(workspace: Workspace) -> None:
    result = await shell(workspace, "ls /dev/fd | wc -l")

    assert int(result.result.split()[0]) <= 4


async def test_a_command_has_no_input(workspace: Workspace) -> None:
    assert (await shell(workspace, "cat")).result == "[exit code 0]"


async def test_the_process_group_is_killed_at_the_timeout(root: Path, workspace: Workspace) -> None:
    started = time.monotonic()

    result = await shell(workspace, "echo before; sleep 60 & echo $! > pid; trap '' TERM; sleep 60", timeoutMs=300)

    assert result == ToolResult("error", "before\n[killed after 300 ms]")
    assert time.monotonic() - started < 5
    assert await is_soon_dead(await read_pid(root / "pid"))


async def test_the_process_group_is_killed_when_the_call_is_cancelled(root: Path, workspace: Workspace) -> None:
    task = asyncio.create_task(shell(workspace, "sleep 60 & echo $! > pid; wait"))
    pid = await read_pid(root / "pid")

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_soon_dead(pid)


async def test_background_processes_are_killed(root: Path, workspace: Workspace) -> None:
    started = time.monotonic()

    result = await shell(workspace, "sleep 60 & echo $! > pid; echo done")

    assert result == ToolResult("ok", "done\n[exit code 0]")
    assert time.monotonic() - started < 5
    assert await is_soon_dead(await read_pid(root / "pid"))


async def test_a_process_that_left_the_group_does_not_delay_the_result(root: Path, workspace: Workspace) -> None:
    started = time.monotonic()

    result = await shell(
        workspace, "setsid sh -c 'echo $$ > pid; exec sleep 60' & while [ ! -s pid ]; do :; done; echo done"
    )

    assert result.status == "ok"
    assert time.monotonic() - started < 5
    os.kill(await read_pid(root / "pid"), signal.SIGKILL)


async def test_output_is_truncated_and_the_command_continues(root: Path, workspace: Workspace) -> None:
    result = await shell(workspace, "head -c 3000000 /dev/zero | tr '\\0' x; echo done > done")

    assert result.status == "ok"
    assert result.result == "x" * MAX_OUTPUT + f"\n[truncated after {MAX_OUTPUT} bytes] [exit code 0]"
    assert (root / "done").exists()


async def test_endless_output_ends_at_the_timeout(workspace: Workspace) -> None:
    result = await shell(workspace, "yes", timeoutMs=300)

    assert result.status == "error"
    assert len(result.result) < MAX_OUTPUT + 200


async def test_binary_output_is_converted_to_text(workspace: Workspace) -> None:
    assert (await shell(workspace, "printf 'a\\377\\000b\\n'")).result == "a\ufffd\ufffdb\n[exit code 0]"


async def test_no_descriptor_is_left_open(workspace: Workspace) -> None:
    await shell(workspace, "true")
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208

    for _ in range(20):
        await shell(workspace, "true")

    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("args", [{"timeoutMs": 0}, {"timeoutMs": 600_001}, {"timeoutMs": "1"}, {"cwd": "/"}])
async def test_invalid_arguments_run_nothing(root: Path, workspace: Workspace, args: dict[str, JsonValue]) -> None:
    result = await shell(workspace, "touch ran", **args)

    assert result.status == "error"
    assert not (root / "ran").exists()


async def test_a_command_with_a_null_character_is_rejected(workspace: Workspace) -> None:
    assert (await shell(workspace, "echo \0")).status == "error"


async def test_a_deleted_working_folder_is_an_error(root: Path, workspace: Workspace) -> None:
    docs = workspace.enter("docs")
    (root / "docs" / "a.txt").unlink()
    (root / "docs").rmdir()

    result = await shell(docs, "true")

    assert result.status == "error"
    assert "No such file or directory" in result.result
