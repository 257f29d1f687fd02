"""Experiment 1: `kill -9` at a random moment of random turns, restart, resume from the last cursor."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cmdc_testkit.events import ReceivedEvent
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher
from cmdc_testkit.workload import RandomUser, Totals, Workload

SETTLED_SECONDS = 5  # DUR-2
SESSIONS = 4
KILLS_OF_A_SESSION = 25
TERMINAL = ("agent_end", "agent_abort")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with GatewayProcess(tmp_path, forked=True) as gateway:
        yield gateway


@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_done_twice_however_often_the_server_is_killed(
    gateway: GatewayProcess, receiver: Receiver, experiment: Experiment
) -> None:
    """DUR-1, DUR-2, EVT-4, EVT-7, EVT-9, HTTP-11, MTR-1."""
    chance = experiment.random
    kills = experiment.trials(short=50, long=1_000)
    struck: Counter[str] = Counter()
    tally = Totals()
    slowest = 0.0
    for begun in range(0, kills, KILLS_OF_A_SESSION):
        async with Workload(gateway, receiver, chance, SESSIONS) as crowd:
            for _ in range(min(KILLS_OF_A_SESSION, kills - begun)):
                await asyncio.sleep(chance.uniform(0, 0.3))
                slowest = max(slowest, await strike(crowd, struck))
            await crowd.finish()
            await crowd.audit(tally)
    experiment.record("kills", kills)
    experiment.record("open turns struck", ", ".join(f"{count} in {what}" for what, count in struck.most_common()))
    experiment.record("prompts", tally.prompts)
    experiment.record("decisions, answers and tools", tally.decisions)
    experiment.record("events", tally.events)
    experiment.record("slowest run to end or wait after readiness", f"{slowest:.2f} s")
    assert slowest < SETTLED_SECONDS


async def strike(crowd: Workload, struck: Counter[str]) -> float:
    """Kill and restart; return how long after readiness the last run had ended or waited for a person."""
    crowd.available.clear()
    await crowd.gateway.kill()
    for watcher in crowd.watchers:
        await watcher.wait_until_disconnected()
        if open_run(watcher.events) is not None:
            struck[doing(watcher.events)] += 1
    left = [open_run(watcher.events) for watcher in crowd.watchers]
    await crowd.gateway.start()
    ready = time.monotonic()
    for watcher in crowd.watchers:
        await watcher.resume()
    for user, watcher, run in zip(crowd.users, crowd.watchers, left, strict=True):
        if run is not None:
            await settled(user, watcher, run)
    took = time.monotonic() - ready
    crowd.available.set()
    return took


async def settled(user: RandomUser, watcher: Watcher, run: str) -> None:
    """Wait until this run has ended, or waits for a person."""
    async with asyncio.timeout(2 * SETTLED_SECONDS):
        while open_run(watcher.events) == run:
            if (await user.session.info())["state"].startswith("waiting"):
                return
            await asyncio.sleep(0.01)


def open_run(frames: list[ReceivedEvent]) -> str | None:
    """The run that a reader has seen begin and not end."""
    if not frames or frames[-1].name in TERMINAL:
        return None
    return frames[-1].data["requestId"]


def doing(frames: list[ReceivedEvent]) -> str:
    """What the open run does, as its reader saw it."""
    opened = {"approval_required": "an approval", "ask_user": "a question", "tool_execution_start": "a tool"}
    closed = {"approval_resolved": "an approval", "tool_execution_end": "a tool"}
    now: Counter[str] = Counter()
    for frame in frames:
        if frame.name == "prompt_received":
            now.clear()
        now[opened.get(frame.name, "")] += 1
        now[closed.get(frame.name, "")] -= 1
        if frame.name == "tool_execution_end" and frame.data["toolName"] == "ask_user":
            now["a question"] -= 1
    for what in ("an approval", "a question", "a tool"):
        if now[what] > 0:
            return what
    return "text"
