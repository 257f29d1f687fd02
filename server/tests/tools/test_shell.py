import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.builtin import builtin_tool
from cmdc_gateway.tools.builtin.output import MAX_OUTPUT
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.tools.workspace import Workspace
from pydantic import JsonValue


async def shell(workspace: Workspace, command: str, **args: JsonValue) -> ToolResult:
    return await builtin_tool("shell", workspace).run(ToolCall("c1", "shell", {"command": command, **args}))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within 5 s. What another process does can only be looked at again and again."""
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


async def read_pid(file: Path) -> int:
    assert await asyncio.to_thread(soon, lambda: file.exists() and file.read_text().endswith("\n"))
    return int(await asyncio.to_thread(file.read_text))


async def is_soon_dead(pid: int) -> bool:
    return await asyncio.to_thread(soon, lambda: not is_alive(pid))


async def test_the_output_of_both_streams_and_the_exit_code(workspace: Workspace) -> None:
    assert await shell(workspace, "echo out; echo err >&2") == ToolResult("ok", "out\nerr\n[exit code 0]")


async def test_any_other_exit_code_is_an_error_with_its_output(workspace: Workspace) -> None:
    assert await shell(workspace, "printf half; exit 3") == ToolResult("error", "half\n[exit code 3]")
    assert await shell(workspace, "kill -9 $$") == ToolResult("error", "[killed by signal 9]")


async def test_it_runs_in_the_working_folder(workspace: Workspace) -> None:
    result = await shell(workspace.enter("docs"), "pwd; cat a.txt")

    assert result.result == f"{workspace.root}/docs\none\ntwo\nthree\n[exit code 0]"


async def test_it_inherits_nothing_of_the_server(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEYS", "top-secret")
    monkeypatch.setenv("ANYTHING_ELSE", "top-secret")

    result = await shell(workspace, "env")

    assert "top-secret" not in result.result
    assert {line.split("=")[0] for line in result.result.splitlines()[:-1]} <= {
        *("PATH", "HOME", "LANG"),
        *("PWD", "SHLVL", "OLDPWD", "_"),  # the shell's own
    }


async def test_it_inherits_no_open_file(workspace: Workspace) -> None:
    result = await shell(workspace, "ls /dev/fd | wc -l")

    assert int(result.result.split()[0]) <= 4


async def test_there_is_no_input(workspace: Workspace) -> None:
    assert (await shell(workspace, "cat")).result == "[exit code 0]"


async def test_the_whole_group_is_killed_at_the_time_limit(root: Path, workspace: Workspace) -> None:
    begun = time.monotonic()

    result = await shell(workspace, "echo before; sleep 60 & echo $! > pid; trap '' TERM; sleep 60", timeoutMs=300)

    assert result == ToolResult("error", "before\n[killed: not done after 300 ms]")
    assert time.monotonic() - begun < 5
    assert await is_soon_dead(await read_pid(root / "pid"))


async def test_the_whole_group_is_killed_when_the_call_is_cancelled(root: Path, workspace: Workspace) -> None:
    task = asyncio.create_task(shell(workspace, "sleep 60 & echo $! > pid; wait"))
    pid = await read_pid(root / "pid")

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_soon_dead(pid)


async def test_what_a_command_leaves_in_the_background_is_killed(root: Path, workspace: Workspace) -> None:
    begun = time.monotonic()

    result = await shell(workspace, "sleep 60 & echo $! > pid; echo done")

    assert result == ToolResult("ok", "done\n[exit code 0]")
    assert time.monotonic() - begun < 5
    assert await is_soon_dead(await read_pid(root / "pid"))


async def test_what_left_the_group_does_not_hold_the_call_up(root: Path, workspace: Workspace) -> None:
    begun = time.monotonic()

    result = await shell(
        workspace, "setsid sh -c 'echo $$ > pid; exec sleep 60' & while [ ! -s pid ]; do :; done; echo done"
    )

    assert result.status == "ok"
    assert time.monotonic() - begun < 5
    os.kill(await read_pid(root / "pid"), signal.SIGKILL)


async def test_output_is_cut_and_the_command_goes_on(root: Path, workspace: Workspace) -> None:
    result = await shell(workspace, "head -c 3000000 /dev/zero | tr '\\0' x; echo done > done")

    assert result.status == "ok"
    assert result.result == "x" * MAX_OUTPUT + f"\n[cut after {MAX_OUTPUT} bytes] [exit code 0]"
    assert (root / "done").exists()


async def test_endless_output_ends_at_the_time_limit(workspace: Workspace) -> None:
    result = await shell(workspace, "yes", timeoutMs=300)

    assert result.status == "error"
    assert len(result.result) < MAX_OUTPUT + 200


async def test_output_that_is_no_text_becomes_text(workspace: Workspace) -> None:
    assert (await shell(workspace, "printf 'a\\377\\000b\\n'")).result == "a\ufffd\ufffdb\n[exit code 0]"


async def test_no_process_and_no_descriptor_is_left(workspace: Workspace) -> None:
    await shell(workspace, "true")
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208

    for _ in range(20):
        await shell(workspace, "true")

    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("args", [{"timeoutMs": 0}, {"timeoutMs": 600_001}, {"timeoutMs": "1"}, {"cwd": "/"}])
async def test_bad_arguments_run_nothing(root: Path, workspace: Workspace, args: dict[str, JsonValue]) -> None:
    result = await shell(workspace, "touch ran", **args)

    assert result.status == "error"
    assert not (root / "ran").exists()


async def test_a_command_with_a_null_character_is_refused(workspace: Workspace) -> None:
    assert (await shell(workspace, "echo \0")).status == "error"


async def test_a_working_folder_that_is_gone_is_a_sentence(root: Path, workspace: Workspace) -> None:
    docs = workspace.enter("docs")
    (root / "docs" / "a.txt").unlink()
    (root / "docs").rmdir()

    result = await shell(docs, "true")

    assert result.status == "error"
    assert "No such file or directory" in result.result
