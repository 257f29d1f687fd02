"""The published client, `cmdc-sdk` 0.1.0, works unmodified: every base rule of the protocol at once.

What is checked stands in `drive_sdk.py`, which runs under an interpreter of its own.
"""

import asyncio
import os
import re
from pathlib import Path

import pytest
from cmdc_testkit.gateways import KEY, in_process_gateway

DRIVER = Path(__file__).with_name("drive_sdk.py")
README = Path(__file__).resolve().parents[3] / "README.md"
PROMISES = re.findall(r"^(?:async )?def (it_\w+)\(", DRIVER.read_text(), re.MULTILINE)


@pytest.mark.timeout(240)  # the first of them may have to install the client
@pytest.mark.parametrize("promise", PROMISES)
async def test_the_published_client(sdk_python: Path, tmp_path: Path, promise: str) -> None:
    """§1 … §7, base: each on a gateway of its own, with many heartbeats."""
    blueprints = {"helper": {"systemPrompt": "From a blueprint."}}
    rpm = 5 if promise == "it_is_told_when_to_come_back" else 0
    async with in_process_gateway(
        tmp_path, file={"blueprints": blueprints}, heartbeat_ms=20, rate_limit_rpm=rpm
    ) as served:
        # Nothing of this process's environment: neither our packages nor a proxy.
        driver = await asyncio.create_subprocess_exec(
            sdk_python,
            *("-I", "-W", "error::DeprecationWarning:cmdc", DRIVER, promise, served.url, KEY),
            env={"PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(50):
                said, _ = await driver.communicate()
        finally:
            if driver.returncode is None:
                driver.kill()
                await driver.wait()

    assert driver.returncode == 0, said.decode()


@pytest.mark.timeout(240)  # the first of them may have to install the client
async def test_the_example_of_the_readme_says_what_it_hears(sdk_python: Path, tmp_path: Path) -> None:
    blocks: list[str] = re.findall(
        r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    [example] = [block for block in blocks if "from cmdc import" in block]
    async with in_process_gateway(tmp_path) as served:
        program = example.replace("http://127.0.0.1:4000", served.url).replace("sk-abc123", KEY)
        running = await asyncio.create_subprocess_exec(
            *(sdk_python, "-I", "-c", program),
            env={"PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(50):
            out, failed = await running.communicate()

    assert running.returncode == 0, failed.decode()
    assert out.decode().startswith("You said: Hello!\n")


def test_the_driver_keeps_promises_to_every_public_name() -> None:
    """The whole public API: each method that users are shown is called somewhere."""
    source = DRIVER.read_text()
    methods = [
        *("create_session", "session", "create_session_async", "asession", "health", "ahealth"),
        *("prompt", "prompt_sync", "send_prompt", "aprompt", "approve", "reject", "respond", "stop"),
        *("get_info", "get_stats", "get_messages", "register_tool", "connect_ws", "iter_events", "execute"),
    ]

    assert [name for name in methods if f".{name}(" not in source and f".{name}," not in source] == []
