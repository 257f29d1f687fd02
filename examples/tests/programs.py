"""Examples as programs of their own, which know of the gateway what their environment says."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1]


def environ(url: str, key: str) -> dict[str, str]:
    """What an example is told, and nothing of this process's environment beyond where programs are."""
    return {
        "PATH": os.environ["PATH"],
        "CMDC_BASE_URL": url,
        "CMDC_API_KEY": key,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONWARNINGS": "error",
    }


def command(example: Path, node: str) -> list[str]:
    """How a user starts it."""
    if example.suffix == ".mjs":
        return [node, str(example)]
    return [sys.executable, str(example / "server.py" if example.is_dir() else example)]


async def run(command: list[str], environ: dict[str, str], typed: str = "") -> tuple[int, str]:
    """Run a program to its end; gives its exit status, and what it printed."""
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
    assert process.returncode is not None, "it was waited for"
    return process.returncode, printed.decode()
