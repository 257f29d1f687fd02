"""The demo of the README: the conversation, and the gateway that keeps running with `--serve`."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys

import pytest
from programs import EXAMPLES, run

DEMO = [sys.executable, str(EXAMPLES / "demo.py")]
ENVIRON = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error::ResourceWarning"}


async def test_the_demo_survives_a_crash_of_its_gateway() -> None:
    """DUR-2, APP-4."""
    # The demo must ignore GATEWAY_* variables of the environment.
    status, printed = await run(DEMO, ENVIRON | {"GATEWAY_STORE": "memory:", "GATEWAY_PORT": "nonsense"})

    assert status == 0, printed
    assert "\033" not in printed, "no colors where the output is not a terminal"
    lines = [re.sub(r"^ *[0-9]+\.[0-9]{2} s  . ", "", line).rstrip() for line in printed.splitlines()]
    expected = [
        "agent    You said: Hello! Is anyone there?",
        "gateway  killed (kill -9) … restarted",
        "you      approved",
        "tool     Hello from the workspace",
        "agent    It said hello.",
        "you      blue",
        "agent    Blue it is.",
        "3 prompts, 5 model calls, 142 input tokens, 19 output tokens",
    ]
    assert [line for line in lines if line in expected] == expected


async def test_the_commands_that_the_demo_prints_work() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    demo = await asyncio.create_subprocess_exec(
        *DEMO, "--serve", "--port", str(port), env=ENVIRON, stdout=asyncio.subprocess.PIPE
    )
    assert demo.stdout is not None, "stdout is a pipe"
    try:
        async with asyncio.timeout(50):
            shown = (await demo.stdout.readuntil(b"/docs")).decode()
        curls = [line.strip() for line in shown.splitlines() if line.startswith("  curl ")]
        answers = [await run(["sh", "-c", curl], {"PATH": os.environ["PATH"], "NO_PROXY": "*"}) for curl in curls]
    finally:
        if demo.returncode is None:
            demo.terminate()  # like Ctrl-C; a process in the background may ignore SIGINT
        async with asyncio.timeout(30):
            status = await demo.wait()

    assert [status for status, _ in answers] == [0, 0, 0]
    created, accepted, events = (answer for _, answer in answers)
    assert '"sessionId":"mine"' in created
    assert '"queued":false' in accepted
    assert '"content":"You said: Hello!"' in events
    assert status == 0
