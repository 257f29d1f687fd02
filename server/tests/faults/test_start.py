"""The time to start, the number of connections, and the delay from the model to a reader.

The bounds are generous, for busy machines; the measurements are printed (`-rP`).
"""

import asyncio
import resource
import socket
import statistics
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cmdc_gateway.kernel.signals import ModelSignal, TextArrived
from cmdc_gateway.providers.provider import ModelProvider, ModelRequest, Price
from cmdc_gateway.store.sqlite.store import SqliteStore
from cmdc_testkit.conversations import Conversation, script
from cmdc_testkit.gateways import GatewayProcess, in_process_gateway


async def test_the_gateway_starts_quickly(tmp_path: Path) -> None:
    """On an idle machine within 1.5 s."""
    begun = time.monotonic()
    async with GatewayProcess(tmp_path):
        took = time.monotonic() - begun
    sys.stdout.write(f"ready after {took:.2f} s\n")
    assert took < 10


async def test_the_gateway_raises_its_soft_limit_of_open_files(tmp_path: Path) -> None:
    """SSE-9: to the hard limit, which is what the operator allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gateway = GatewayProcess(tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        await gateway.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    idle: list[socket.socket] = []
    try:
        idle.extend(socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(300))
        async with gateway.client() as client:
            assert (await client.get("/healthz")).status_code == 200
    finally:
        for connection in idle:
            connection.close()
        await gateway.kill()


async def test_litellm_is_not_loaded_until_it_is_needed(tmp_path: Path) -> None:
    """Loading it takes seconds, and a gateway may never need it."""
    program = """if True:
        import asyncio, pathlib, sys
        from cmdc_gateway import cli, server
        from cmdc_testkit.conversations import Conversation
        from cmdc_testkit.gateways import in_process_gateway

        async def converse():
            async with in_process_gateway(pathlib.Path(sys.argv[1])) as served, served.client() as client:
                await (await Conversation.begin(client)).run("hello")
            print("litellm" in sys.modules)

        asyncio.run(converse())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    printed, _ = await process.communicate()
    assert printed.decode().split()[-1:] == ["False"]


class TimedProvider:
    """Wraps a model and records when it sent each text."""

    def __init__(self, provider: ModelProvider) -> None:
        self.sent_at: dict[str, float] = {}
        self._provider = provider

    def find(self, _: str) -> ModelProvider:
        return self

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        async for signal in self._provider.stream(request):
            if isinstance(signal, TextArrived):
                self.sent_at[signal.text] = time.perf_counter()
            yield signal

    def price(self, model: str) -> Price | None:
        return self._provider.price(model)

    async def prepare(self) -> None:
        await self._provider.prepare()


async def test_a_reader_receives_text_within_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the model, over a commit in SQLite, to a reader: 10 ms on an idle machine."""
    async with (
        in_process_gateway(tmp_path, store=SqliteStore(tmp_path / "gateway.db")) as served,
        served.client() as client,
    ):
        catalog = served.gateway.registry.services.policy.models
        model = TimedProvider(catalog.find("scripted:x"))
        monkeypatch.setattr(catalog, "find", model.find)
        talk = await Conversation.begin(client)
        request_id = await talk.prompt(script({"text": [f"{n} " for n in range(200)], "delayMs": 5}))
        delays = [
            time.perf_counter() - model.sent_at[seen.data["delta"]]
            async for seen in talk.stream(requestId=request_id)
            if seen.name == "message_delta"
        ]
    p50, p99 = statistics.median(delays), statistics.quantiles(delays, n=100)[98]
    sys.stdout.write(f"from the model to a reader: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms\n")
    assert len(delays) == 200
    assert p50 < 0.15
