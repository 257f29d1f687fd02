"""The published client, `cmdc-sdk` 0.1.0, works unmodified.

The checks are in `drive_sdk.py`, which runs in an interpreter of its own.
"""

import asyncio
import os
import re
from pathlib import Path

import pytest
from cmdc_testkit.gateways import KEY, in_process_gateway

DRIVER = Path(__file__).with_name("drive_sdk.py")
README = Path(__file__).resolve().parents[3] / "README.md"
CHECKS = re.findall(r"^(?:async )?def (check_\w+)\(", DRIVER.read_text(), re.MULTILINE)


@pytest.mark.timeout(240)  # the first test may have to install the client
@pytest.mark.parametrize("check", CHECKS)
async def test_the_published_client(sdk_python: Path, tmp_path: Path, check: str) -> None:
    """Each check has a gateway of its own, with many heartbeats."""
    blueprints = {"helper": {"systemPrompt": "From a blueprint."}}
    rpm = 5 if check == "check_the_rate_limit" else 0
    async with in_process_gateway(
        tmp_path, file={"blueprints": blueprints}, heartbeat_ms=20, rate_limit_rpm=rpm
    ) as served:
        # Without this process's environment, in which there may be a proxy.
        driver = await asyncio.create_subprocess_exec(
            sdk_python,
            *("-I", "-W", "error::DeprecationWarning:cmdc", DRIVER, check, served.url, KEY),
            env={"PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(50):
                output, _ = await driver.communicate()
        finally:
            if driver.returncode is None:
                driver.kill()
                await driver.wait()

    assert driver.returncode == 0, output.decode()


@pytest.mark.timeout(240)  # the first test may have to install the client
async def test_the_example_of_the_readme_works(sdk_python: Path, tmp_path: Path) -> None:
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
            out, errors = await running.communicate()

    assert running.returncode == 0, errors.decode()
    assert out.decode().startswith("You said: Hello!\n")


def test_the_checks_call_every_public_method() -> None:
    """The methods in the client's documentation."""
    source = DRIVER.read_text()
    methods = [
        *("create_session", "session", "create_session_async", "asession", "health", "ahealth"),
        *("prompt", "prompt_sync", "send_prompt", "aprompt", "approve", "reject", "respond", "stop"),
        *("get_info", "get_stats", "get_messages", "register_tool", "connect_ws", "iter_events", "execute"),
    ]

    assert [name for name in methods if f".{name}(" not in source and f".{name}," not in source] == []
