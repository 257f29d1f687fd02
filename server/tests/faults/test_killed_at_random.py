"""Experiment 1: `kill -9` at a random moment of random turns, restart, resume from the last cursor."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cmdc_gateway.testing.audit import Frame, audit
from cmdc_gateway.testing.conversations import Conversation
from cmdc_gateway.testing.experiments import Experiment
from cmdc_gateway.testing.gateways import ForkedGateway
from cmdc_gateway.testing.receivers import Receiver
from cmdc_gateway.testing.users import User
from cmdc_gateway.testing.watching import Watcher

SETTLED_SECONDS = 5  # DUR-2
SESSIONS = 4
KILLS_OF_A_SESSION = 25
TERMINAL = ("agent_end", "agent_abort")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[ForkedGateway]:
    async with ForkedGateway(tmp_path) as gateway:
        yield gateway


@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_done_twice_however_often_the_server_is_killed(
    gateway: ForkedGateway, receiver: Receiver, experiment: Experiment
) -> None:
    """DUR-1, DUR-2, EVT-4, EVT-7, EVT-9, HTTP-11, MTR-1."""
    chance = experiment.chance
    kills = experiment.trials(short=50, long=1_000)
    struck: Counter[str] = Counter()
    slowest, events, prompts, decided = 0.0, 0, 0, 0
    for begun in range(0, kills, KILLS_OF_A_SESSION):
        group = Group(gateway, receiver, chance)
        async with group:
            for _ in range(min(KILLS_OF_A_SESSION, kills - begun)):
                await asyncio.sleep(chance.uniform(0, 0.3))
                slowest = max(slowest, await group.strike(struck))
            await group.finish()
            for user, watcher in zip(group.users, group.watchers, strict=True):
                record = await user.record(watcher)
                assert audit(record) == []
                assert record.prompt_count == len(user.accepted), "each prompt has one effect, however often it is sent"
                events += len(record.log)
                prompts += len(user.accepted)
                decided += len(user.decisions) + len(user.answers) + len(user.registered)
    experiment.figure("kills", kills)
    experiment.figure("open turns struck", ", ".join(f"{count} in {what}" for what, count in struck.most_common()))
    experiment.figure("prompts", prompts)
    experiment.figure("decisions, answers and tools", decided)
    experiment.figure("events", events)
    experiment.figure("slowest run to end or wait after readiness", f"{slowest:.2f} s")
    assert slowest < SETTLED_SECONDS


class Group:
    """Users of one gateway, each with a session and a reader of it."""

    def __init__(self, gateway: ForkedGateway, receiver: Receiver, chance: random.Random) -> None:
        self.users: list[User] = []
        self.watchers: list[Watcher] = []
        self._gateway = gateway
        self._receiver = receiver
        self._chance = chance
        self._up = asyncio.Event()
        self._stack = AsyncExitStack()
        self._living: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._up.set()
        client = await self._stack.enter_async_context(self._gateway.client())
        for _ in range(SESSIONS):
            talk = await Conversation.begin(client, tools=["ask_user"])
            user = User(talk, self._receiver, random.Random(self._chance.random()), self._up)
            await user.settle_in()
            self.users.append(user)
            self.watchers.append(await self._stack.enter_async_context(Watcher(talk)))
        self._living = [asyncio.create_task(user.live()) for user in self.users]

    async def __aexit__(self, *_: object) -> None:
        for living in self._living:
            living.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)
        await self._stack.aclose()

    async def strike(self, struck: Counter[str]) -> float:
        """Kill and restart; return how long after readiness the last run had ended or waited for a person."""
        self._up.clear()
        await self._gateway.kill()
        for watcher in self.watchers:
            await watcher.ended()
            if open_run(watcher.frames) is not None:
                struck[doing(watcher.frames)] += 1
        left = [open_run(watcher.frames) for watcher in self.watchers]
        await self._gateway.start()
        ready = time.monotonic()
        for watcher in self.watchers:
            await watcher.resume()
        for user, watcher, run in zip(self.users, self.watchers, left, strict=True):
            if run is not None:
                await settled(user, watcher, run)
        took = time.monotonic() - ready
        self._up.set()
        return took

    async def finish(self) -> None:
        for user in self.users:
            user.stopped = True
        await asyncio.gather(*self._living)
        await asyncio.gather(*(user.finish() for user in self.users))


async def settled(user: User, watcher: Watcher, run: str) -> None:
    """Wait until this run has ended, or waits for a person."""
    async with asyncio.timeout(2 * SETTLED_SECONDS):
        while open_run(watcher.frames) == run:
            if (await user.talk.info())["state"].startswith("waiting"):
                return
            await asyncio.sleep(0.01)


def open_run(frames: list[Frame]) -> str | None:
    """The run that a reader has seen begin and not end."""
    if not frames or frames[-1].event in TERMINAL:
        return None
    return frames[-1].fields["requestId"]


def doing(frames: list[Frame]) -> str:
    """What the open run does, as its reader saw it."""
    opened = {"approval_required": "an approval", "ask_user": "a question", "tool_execution_start": "a tool"}
    closed = {"approval_resolved": "an approval", "tool_execution_end": "a tool"}
    now: Counter[str] = Counter()
    for frame in frames:
        if frame.event == "prompt_received":
            now.clear()
        now[opened.get(frame.event, "")] += 1
        now[closed.get(frame.event, "")] -= 1
        if frame.event == "tool_execution_end" and frame.fields["toolName"] == "ask_user":
            now["a question"] -= 1
    for what in ("an approval", "a question", "a tool"):
        if now[what] > 0:
            return what
    return "text"
