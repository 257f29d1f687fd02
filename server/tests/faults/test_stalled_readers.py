"""Experiment 4: stalled readers: clients that stop reading, beside clients that read on.

SSE-10: each costs the server little, delays nobody, is closed after its time, and misses nothing when it comes back.
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

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="weighs a process by /proc")

MIB = 2**20
READERS_OF_A_SESSION = 5
TEXT_BYTES = 24_000
# A prompt's text is said three times: as it came, in the answer, and as the last message.
BYTES_OF_A_RUN = 3 * TEXT_BYTES
BACKLOG_RUNS = 25
RUNS_A_SECOND = 25
READ_BEFORE_STALLING = 3
SHORT_PATIENCE = 3

_IMPATIENT = f"""
from cmdc_gateway.__main__ import main
from cmdc_gateway.web.streaming.heartbeats import Heartbeats

Heartbeats.__init__.__kwdefaults__["stalled_after"] = {SHORT_PATIENCE}
main(["serve"])
"""


IMPATIENT = (sys.executable, "-c", _IMPATIENT)
"""A gateway that closes stalled readers sooner than the protocol says."""


@dataclass(slots=True)
class Flow:
    """What the prompts of one session bring about: `seen` has a digest of each frame, by its place in the log."""

    talk: Conversation
    sent_at: dict[str, float] = field(default_factory=dict[str, float])
    seen: dict[str, int] = field(default_factory=dict[str, int])
    delays: list[float] = field(default_factory=list[float])
    ends: int = 0

    async def say(self, number: int) -> None:
        name = f"{number:08d}"
        self.sent_at[name] = time.perf_counter()
        await self.talk.prompt(name + "x" * (TEXT_BYTES - len(name)))

    async def read(self, stream: EventStream) -> None:
        """Read as a healthy client: everything there is, at once, in order, the same as the others."""
        expected = 1
        async for frame in parse_events(_pieces(stream)):
            assert frame.id.endswith(f".{expected}"), frame.id
            expected += 1
            digest = hash((frame.name, frame.raw))
            assert self.seen.setdefault(frame.id, digest) == digest, "two readers saw different events"
            if frame.name == "prompt_received" and (named := re.match(r"(\d{8})x", frame.data["text"])):
                self.delays.append(time.perf_counter() - self.sent_at[named[1]])
            self.ends += frame.name == "agent_end"

    async def read_rest(self, after: str, port: int) -> int:
        """Come back after having stalled; how many events there were."""
        count = 0
        async with event_stream(port, self.talk.id, f"?after={after}&follow=true") as stream:
            async for frame in parse_events(_pieces(stream)):
                count += 1
                assert frame.id.endswith(f".{int(after.rpartition('.')[2]) + count}"), frame.id
                assert self.seen[frame.id] == hash((frame.name, frame.raw)), "the log has changed"
                if len(self.seen) == int(frame.id.rpartition(".")[2]):
                    break
        return count


async def test_stalled_readers_cost_little_delay_nobody_and_can_come_back(
    experiment: Experiment, tmp_path: Path
) -> None:
    """SSE-10."""
    readers = experiment.trials(short=10, long=100)
    runs = experiment.trials(short=5, long=100) * MIB // BYTES_OF_A_RUN
    gateway = GatewayProcess(tmp_path, command=SERVE if experiment.long else IMPATIENT)
    async with gateway, gateway.client() as client, AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        pid, port = gateway.pid, gateway.port
        flows = [Flow(await Conversation.begin(client)) for _ in range(readers // READERS_OF_A_SESSION)]
        healthy: list[asyncio.Task[None]] = []
        for flow in flows * READERS_OF_A_SESSION:
            stream = await stack.enter_async_context(event_stream(port, flow.talk.id, "?after=start&follow=true"))
            healthy.append(tasks.create_task(flow.read(stream)))
        await asyncio.gather(*(_backlog(flow) for flow in flows))
        for flow in flows:
            flow.delays.clear()
        grown = await _run(flows, runs, lambda _: ResourceUsage.of(pid).memory)

        before = ResourceUsage.of(pid).memory
        stalled = [await Stalled.begin(stack, port, flow) for flow in flows * READERS_OF_A_SESSION]
        watching = [tasks.create_task(one.until_closed()) for one in stalled]
        costs, kernel = [0.0], [0.0]

        def weigh(number: int) -> int:
            now = ResourceUsage.of(pid).memory
            if not any(task.done() for task in watching):
                costs.append((now - before - (grown[number] - grown[0])) / readers)
                kernel.append(unread_bytes(port) / readers)
            return now

        await _run(flows, runs, weigh)
        closed = max(await asyncio.gather(*watching))
        await _until_all_is_read(flows, 2 * runs)

        came_back = [await one.flow.read_rest(one.last, port) for one in stalled]
        for task in healthy:
            task.cancel()

    delays = [delay for flow in flows for delay in flow.delays]
    memory, unread = max(costs), max(kernel)
    experiment.record("stalled and healthy readers", readers)
    experiment.record("events", mib(runs * BYTES_OF_A_RUN))
    experiment.record("memory of a stalled reader", f"{mib(memory)} and {mib(unread)} in the kernel")
    experiment.record("from sending a prompt to a healthy reader having it, p99", ms(p99(delays)))
    experiment.record("stalled closed within", f"{closed:.1f} s")
    experiment.record("events read after coming back", sum(came_back))
    # Of ten readers alone, what the process takes for other reasons may be more than what they cost.
    assert (memory + unread) * readers <= MIB * readers + (0 if experiment.long else 10 * MIB)
    assert closed <= (35 if experiment.long else SHORT_PATIENCE + 10)
    assert p99(delays) <= (0.25 if experiment.long else 2)


async def _backlog(flow: Flow) -> None:
    """Enough of a log that whoever reads it from its beginning, and stops, has stalled."""
    for number in range(BACKLOG_RUNS):
        await flow.say(number)


async def _run(flows: list[Flow], runs: int, weigh: Callable[[int], int]) -> list[int]:
    """Let as much flow, at a rate that leaves the machine time; what was weighed after each run."""
    weighed: list[int] = []
    for number in range(runs):
        await flows[number % len(flows)].say(number)
        weighed.append(weigh(number))
        await asyncio.sleep(1 / RUNS_A_SECOND)
    return weighed


async def _until_all_is_read(flows: list[Flow], runs: int) -> None:
    async with asyncio.timeout(60):
        wanted = (runs + BACKLOG_RUNS * len(flows)) * READERS_OF_A_SESSION
        while sum(flow.ends for flow in flows) < wanted:  # noqa: ASYNC110 - each reader only counts
            await asyncio.sleep(0.05)


@dataclass(slots=True)
class Stalled:
    """A reader that has read a little, and then no more."""

    flow: Flow
    stream: EventStream
    last: str

    @classmethod
    async def begin(cls, stack: AsyncExitStack, port: int, flow: Flow) -> "Stalled":
        narrow = event_stream(port, flow.talk.id, "?after=start&follow=true", window=4_096)
        stream = await stack.enter_async_context(narrow)
        seen = [await stream.next() for _ in range(READ_BEFORE_STALLING)]
        assert seen[-1] is not None
        return cls(flow, stream, seen[-1].id)

    async def until_closed(self) -> float:
        """Seconds until the server gives it up: which shows without reading."""
        begun = time.monotonic()
        poll = select.poll()
        poll.register(self.stream.writer.get_extra_info("socket").fileno(), select.POLLERR | select.POLLHUP)
        async with asyncio.timeout(90):
            while not poll.poll(0):  # noqa: ASYNC110 - nothing that asyncio listens for
                await asyncio.sleep(0.1)
        return time.monotonic() - begun


async def _pieces(stream: EventStream) -> AsyncIterator[bytes]:
    while piece := await stream.chunk():
        yield piece
