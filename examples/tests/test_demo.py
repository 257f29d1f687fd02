"""The demo of the README: a conversation, and a gateway that stays up to be tried."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys

import pytest
from programs import EXAMPLES, run

DEMO = [sys.executable, str(EXAMPLES / "demo.py")]
ENVIRON = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error::ResourceWarning"}


async def test_the_demo_holds_its_conversation_over_a_crash() -> None:
    """DUR-2, APP-4."""
    # What the operator of this machine has set for a gateway of theirs is not for this one.
    status, printed = await run(DEMO, ENVIRON | {"GATEWAY_STORE": "memory:", "GATEWAY_PORT": "nonsense"})

    assert status == 0, printed
    lines = [line.strip() for line in printed.splitlines()]
    expected = [
        "You said: Hello! Is anybody there?",
        "the gateway is killed (kill -9) … and started again",
        "approved",
        "| Hello from the workspace",
        "It said hello.",
        "answered: blue",
        "Blue it is.",
        "3 prompts, 142 tokens read, 19 written, 5 model calls",
    ]
    assert [line for line in lines if line in expected] == expected


async def test_the_gateway_of_the_demo_can_be_tried_with_the_commands_that_are_shown() -> None:
    if shutil.which("curl") is None:
        pytest.skip("the commands are for curl, which is not on this machine")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    demo = await asyncio.create_subprocess_exec(
        *DEMO, "--serve", "--port", str(port), env=ENVIRON, stdout=asyncio.subprocess.PIPE
    )
    assert demo.stdout is not None, "it is a pipe"
    try:
        async with asyncio.timeout(50):
            shown = (await demo.stdout.readuntil(b"01_first_conversation.py")).decode()
        curls = [line.strip() for line in shown.splitlines() if line.startswith("  curl ")]
        answers = [await run(["sh", "-c", curl], {"PATH": os.environ["PATH"], "NO_PROXY": "*"}) for curl in curls]
    finally:
        if demo.returncode is None:
            demo.terminate()  # as Ctrl-C does, but that what runs in the background may ignore
        async with asyncio.timeout(30):
            status = await demo.wait()

    assert [failed for failed, _ in answers] == [0, 0, 0]
    created, accepted, events = (answer for _, answer in answers)
    assert '"sessionId":"mine"' in created
    assert '"queued":false' in accepted
    assert '"content":"You said: Hello!"' in events
    assert status == 0
