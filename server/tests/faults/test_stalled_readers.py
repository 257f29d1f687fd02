"""Experiment 4: stalled readers, beside healthy ones.

SSE-10: each uses little memory, delays nobody else, is closed in time, and misses nothing when it resumes.
"""

import asyncio
import re
import select
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.events import parse_events
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.launcher import SERVE
from cmdc_testkit.resource_usage import ResourceUsage, mib, ms, p99, unread_bytes
from cmdc_testkit.streams import EventStream, event_stream

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures a process with /proc")

MIB = 2**20
READERS_OF_A_SESSION = 5
TEXT_BYTES = 24_000
# A prompt's text occurs three times: in the prompt, in the deltas, and in the last message.
BYTES_OF_A_RUN = 3 * TEXT_BYTES
BACKLOG_RUNS = 25
RUNS_A_SECOND = 25
READ_BEFORE_STALLING = 3
SHORT_STALL_SECONDS = 3

_IMPATIENT = f"""
from cmdc_gateway.__main__ import main
from cmdc_gateway.web.streaming.heartbeats import Heartbeats

Heartbeats.__init__.__kwdefaults__["stalled_after"] = {SHORT_STALL_SECONDS}
main(["serve"])
"""


IMPATIENT = (sys.executable, "-c", _IMPATIENT)
"""A gateway that closes stalled readers sooner than the protocol says."""


@dataclass(slots=True)
class SessionTraffic:
    """The prompts and the readers of one session. `digests` has a hash of each event, by its id."""

    talk: Conversation
    sent_at: dict[str, float] = field(default_factory=dict[str, float])
    digests: dict[str, int] = field(default_factory=dict[str, int])
    delays: list[float] = field(default_factory=list[float])
    ends: int = 0

    async def prompt(self, number: int) -> None:
        name = f"{number:08d}"
        self.sent_at[name] = time.perf_counter()
        await self.talk.prompt(name + "x" * (TEXT_BYTES - len(name)))

    async def read(self, stream: EventStream) -> None:
        """Read without pause, and check that all readers receive the same events in order."""
        expected = 1
        async for event in parse_events(_chunks(stream)):
            assert event.id.endswith(f".{expected}"), event.id
            expected += 1
            digest = hash((event.name, event.raw))
            assert self.digests.setdefault(event.id, digest) == digest, "two readers received different events"
            if event.name == "prompt_received" and (named := re.match(r"(\d{8})x", event.data["text"])):
                self.delays.append(time.perf_counter() - self.sent_at[named[1]])
            self.ends += event.name == "agent_end"

    async def read_rest(self, after: str, port: int) -> int:
        """Resume after a stall; return the number of events received."""
        count = 0
        async with event_stream(port, self.talk.id, f"?after={after}&follow=true") as stream:
            async for event in parse_events(_chunks(stream)):
                count += 1
                assert event.id.endswith(f".{int(after.rpartition('.')[2]) + count}"), event.id
                assert self.digests[event.id] == hash((event.name, event.raw)), "the log has changed"
                if len(self.digests) == int(event.id.rpartition(".")[2]):
                    break
        return count


async def test_stalled_readers_use_little_memory_delay_nobody_and_can_resume(
    experiment: Experiment, tmp_path: Path
) -> None:
    """SSE-10."""
    readers = experiment.trials(short=10, long=100)
    runs = experiment.trials(short=5, long=100) * MIB // BYTES_OF_A_RUN
    gateway = GatewayProcess(tmp_path, command=SERVE if experiment.long else IMPATIENT)
    async with gateway, gateway.client() as client, AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        pid, port = gateway.pid, gateway.port
        flows = [SessionTraffic(await Conversation.begin(client)) for _ in range(readers // READERS_OF_A_SESSION)]
        healthy: list[asyncio.Task[None]] = []
        for flow in flows * READERS_OF_A_SESSION:
            stream = await stack.enter_async_context(event_stream(port, flow.talk.id, "?after=start&follow=true"))
            healthy.append(tasks.create_task(flow.read(stream)))
        await asyncio.gather(*(_backlog(flow) for flow in flows))
        for flow in flows:
            flow.delays.clear()
        grown = await _run(flows, runs, lambda _: ResourceUsage.of(pid).memory)

        before = ResourceUsage.of(pid).memory
        stalled = [await StalledReader.begin(stack, port, flow) for flow in flows * READERS_OF_A_SESSION]
        watching = [tasks.create_task(one.until_closed()) for one in stalled]
        costs, kernel = [0.0], [0.0]

        def measure(number: int) -> int:
            now = ResourceUsage.of(pid).memory
            if not any(task.done() for task in watching):
                costs.append((now - before - (grown[number] - grown[0])) / readers)
                kernel.append(unread_bytes(port) / readers)
            return now

        await _run(flows, runs, measure)
        closed = max(await asyncio.gather(*watching))
        await _until_all_is_read(flows, 2 * runs)

        resumed = [await one.flow.read_rest(one.last, port) for one in stalled]
        for task in healthy:
            task.cancel()

    delays = [delay for flow in flows for delay in flow.delays]
    memory, unread = max(costs), max(kernel)
    experiment.record("stalled and healthy readers", readers)
    experiment.record("events", mib(runs * BYTES_OF_A_RUN))
    experiment.record("memory of a stalled reader", f"{mib(memory)} and {mib(unread)} in the kernel")
    experiment.record("delay from a prompt to a healthy reader, p99", ms(p99(delays)))
    experiment.record("stalled readers closed within", f"{closed:.1f} s")
    experiment.record("events read after resuming", sum(resumed))
    # With only ten readers, the process may use more memory for other reasons.
    assert (memory + unread) * readers <= MIB * readers + (0 if experiment.long else 10 * MIB)
    assert closed <= (35 if experiment.long else SHORT_STALL_SECONDS + 10)
    assert p99(delays) <= (0.25 if experiment.long else 2)


async def _backlog(flow: SessionTraffic) -> None:
    """Write enough that a reader from the start, which stops reading, stalls."""
    for number in range(BACKLOG_RUNS):
        await flow.prompt(number)


async def _run(flows: list[SessionTraffic], runs: int, measure: Callable[[int], int]) -> list[int]:
    """Send prompts at a moderate rate; return a measurement after each."""
    measured: list[int] = []
    for number in range(runs):
        await flows[number % len(flows)].prompt(number)
        measured.append(measure(number))
        await asyncio.sleep(1 / RUNS_A_SECOND)
    return measured


async def _until_all_is_read(flows: list[SessionTraffic], runs: int) -> None:
    async with asyncio.timeout(60):
        wanted = (runs + BACKLOG_RUNS * len(flows)) * READERS_OF_A_SESSION
        while sum(flow.ends for flow in flows) < wanted:  # noqa: ASYNC110 - the readers only count
            await asyncio.sleep(0.05)


@dataclass(slots=True)
class StalledReader:
    """A reader that has stopped reading after a few events."""

    flow: SessionTraffic
    stream: EventStream
    last: str

    @classmethod
    async def begin(cls, stack: AsyncExitStack, port: int, flow: SessionTraffic) -> "StalledReader":
        narrow = event_stream(port, flow.talk.id, "?after=start&follow=true", window=4_096)
        stream = await stack.enter_async_context(narrow)
        seen = [await stream.next() for _ in range(READ_BEFORE_STALLING)]
        assert seen[-1] is not None
        return cls(flow, stream, seen[-1].id)

    async def until_closed(self) -> float:
        """Wait until the server resets the connection, without reading; return the seconds."""
        begun = time.monotonic()
        poll = select.poll()
        poll.register(self.stream.writer.get_extra_info("socket").fileno(), select.POLLERR | select.POLLHUP)
        async with asyncio.timeout(90):
            while not poll.poll(0):  # noqa: ASYNC110 - asyncio does not report a reset without reading
                await asyncio.sleep(0.1)
        return time.monotonic() - begun


async def _chunks(stream: EventStream) -> AsyncIterator[bytes]:
    while chunk := await stream.chunk():
        yield chunk
