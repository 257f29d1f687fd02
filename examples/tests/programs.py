"""Runs examples as subprocesses that find the gateway through environment variables."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1]


def environ(url: str, key: str) -> dict[str, str]:
    """Environment of an example: the gateway's URL and key, and PATH from this process."""
    return {
        "PATH": os.environ["PATH"],
        "CMDC_BASE_URL": url,
        "CMDC_API_KEY": key,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONWARNINGS": "error",
    }


def command(example: Path, node: str) -> list[str]:
    """The command line that starts an example."""
    if example.suffix == ".mjs":
        return [node, str(example)]
    return [sys.executable, str(example / "server.py" if example.is_dir() else example)]


async def run(command: list[str], environ: dict[str, str], typed: str = "") -> tuple[int, str]:
    """Run a program until it exits; return its exit status and its output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(50):
            printed, _ = await process.communicate(typed.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None, "the process has exited"
    return process.returncode, printed.decode()
