"""Experiment 5: thousands of idle streams and WebSockets.

SSE-3, SSE-9, DUR-3: each uses little memory, none is dropped, and all end when the server stops.
"""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, GatewayProcess
from cmdc_testkit.resource_usage import ResourceUsage
from cmdc_testkit.streams import EventStream, event_stream, open_websocket

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures a process with /proc")

KIB = 1024


async def test_idle_streams_use_little_memory_and_end_with_the_server(experiment: Experiment, tmp_path: Path) -> None:
    """SSE-3, SSE-9, DUR-3: each on its own session."""
    streams = experiment.trials(short=200, long=2_000)
    seconds = 40 if experiment.long else 2
    heartbeat_ms = 15_000 if experiment.long else 1_000
    gateway_process = GatewayProcess(tmp_path, GATEWAY_HEARTBEAT_MS=f"{heartbeat_ms}")
    async with gateway_process as gateway, gateway.client() as client, AsyncExitStack() as stack:
        talks = [await Conversation.begin(client) for _ in range(streams)]
        # The first reader makes the server load modules, which must not count.
        await (await stack.enter_async_context(event_stream(gateway.port, talks[0].id))).heartbeat()

        before = ResourceUsage.of(gateway.pid)
        readers = [await stack.enter_async_context(event_stream(gateway.port, talk.id)) for talk in talks]
        begun = ResourceUsage.of(gateway.pid)
        reading = [asyncio.create_task(_heartbeats(reader)) for reader in readers]
        since = time.monotonic()
        await asyncio.sleep(seconds)  # nothing is to happen in this time
        assert not any(task.done() for task in reading), "a stream was dropped"
        took = time.monotonic() - since
        idle = ResourceUsage.of(gateway.pid)

        stopped = time.monotonic()
        gateway.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            heartbeats = await asyncio.gather(*reading)
            closed = time.monotonic() - stopped
            assert await gateway.wait() == 0

    cost, busy = (idle.memory - before.memory) / streams / KIB, (idle.cpu_seconds - begun.cpu_seconds) / took
    experiment.record("idle streams", streams)
    experiment.record("memory per connection", f"{cost:.1f} KiB")
    experiment.record("CPU", f"{busy:.1%} of a core with a heartbeat every {heartbeat_ms} ms")
    experiment.record("heartbeats per stream", f"{min(heartbeats)} to {max(heartbeats)} in {took:.0f} s")
    experiment.record("all streams ended after SIGTERM within", f"{closed:.1f} s")
    assert cost <= 64
    assert min(heartbeats) >= took // (heartbeat_ms / 1000)
    assert closed <= 10
    if experiment.long:
        assert busy <= 0.05


async def _heartbeats(stream: EventStream) -> int:
    """Count the heartbeats until the server ends the stream, which must have no events."""
    assert stream.status == 200
    assert await stream.rest() == []
    return stream.parser.heartbeats


async def test_idle_websockets_use_little_memory_and_end_with_the_server(
    experiment: Experiment, tmp_path: Path
) -> None:
    """WS-6, DUR-3."""
    sockets = experiment.trials(short=100, long=1_000)
    async with GatewayProcess(tmp_path) as gateway, gateway.client() as client, AsyncExitStack() as stack:
        talk = await Conversation.begin(client)
        headers = {"X-API-Key": KEY}
        await stack.enter_async_context(open_websocket(gateway.port, talk.id, additional_headers=headers))
        before = ResourceUsage.of(gateway.pid)
        open_sockets = [await stack.enter_async_context(open_websocket(gateway.port, talk.id)) for _ in range(sockets)]
        idle = ResourceUsage.of(gateway.pid)
        closing = [asyncio.create_task(one.closed()) for one in open_sockets]
        stopped = time.monotonic()
        gateway.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            codes = await asyncio.gather(*closing)
            closed = time.monotonic() - stopped
            assert await gateway.wait() == 0

    cost = (idle.memory - before.memory) / sockets / KIB
    experiment.record("idle WebSockets", sockets)
    experiment.record("memory per connection", f"{cost:.1f} KiB")
    experiment.record("all closed with 1012 within", f"{closed:.1f} s")
    assert set(codes) == {1012}
    assert cost <= 64
    assert closed <= 10
