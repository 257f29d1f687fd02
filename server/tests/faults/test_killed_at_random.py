"""Experiment 1: `kill -9` at random times during random runs, restarts, and streams resumed from the last cursor."""

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
KILLS_PER_SESSION = 25


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with GatewayProcess(tmp_path, forked=True) as gateway:
        yield gateway


@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_done_twice_when_the_server_is_killed(
    gateway: GatewayProcess, receiver: Receiver, experiment: Experiment
) -> None:
    """DUR-1, DUR-2, EVT-4, EVT-7, EVT-9, HTTP-11, MTR-1."""
    rng = experiment.random
    kills = experiment.trials(short=15, long=1_000)
    interrupted: Counter[str] = Counter()
    totals = Totals()
    slowest = 0.0
    for begun in range(0, kills, KILLS_PER_SESSION):
        async with Workload(gateway, receiver, rng, SESSIONS) as workload:
            for _ in range(min(KILLS_PER_SESSION, kills - begun)):
                await asyncio.sleep(rng.uniform(0, 0.3))
                slowest = max(slowest, await kill_and_restart(workload, interrupted))
            await workload.finish()
            await workload.audit(totals)
    experiment.record("kills", kills)
    experiment.record(
        "open runs interrupted", ", ".join(f"{count} in {what}" for what, count in interrupted.most_common())
    )
    experiment.record("prompts", totals.prompts)
    experiment.record("decisions, answers and tools", totals.decisions)
    experiment.record("events", totals.events)
    experiment.record("slowest run to end or wait for a user after the restart", f"{slowest:.2f} s")
    assert slowest < SETTLED_SECONDS


async def kill_and_restart(workload: Workload, interrupted: Counter[str]) -> float:
    """Kill and restart; return the seconds from readiness until every open run had ended or waited for a user."""
    workload.available.clear()
    await workload.gateway.kill()
    for watcher in workload.watchers:
        await watcher.wait_until_disconnected()
        if open_run(watcher.events) is not None:
            interrupted[activity(watcher.events)] += 1
    left = [open_run(watcher.events) for watcher in workload.watchers]
    await workload.gateway.start()
    ready = time.monotonic()
    for watcher in workload.watchers:
        await watcher.resume()
    for user, watcher, run in zip(workload.users, workload.watchers, left, strict=True):
        if run is not None:
            await wait_until_settled(user, watcher, run)
    took = time.monotonic() - ready
    workload.available.set()
    return took


async def wait_until_settled(user: RandomUser, watcher: Watcher, run: str) -> None:
    """Wait until this run has ended, or waits for a user."""
    async with asyncio.timeout(2 * SETTLED_SECONDS):
        while open_run(watcher.events) == run:
            if (await user.session.info())["state"].startswith("waiting"):
                return
            await asyncio.sleep(0.01)


def open_run(events: list[ReceivedEvent]) -> str | None:
    """The run that has begun and not ended for this reader."""
    if not events or events[-1].is_terminal:
        return None
    return events[-1].data["requestId"]


def activity(events: list[ReceivedEvent]) -> str:
    """What the open run is doing, according to its events."""
    opened = {"approval_required": "an approval", "ask_user": "a question", "tool_execution_start": "a tool"}
    closed = {"approval_resolved": "an approval", "tool_execution_end": "a tool"}
    now: Counter[str] = Counter()
    for event in events:
        if event.name == "prompt_received":
            now.clear()
        now[opened.get(event.name, "")] += 1
        now[closed.get(event.name, "")] -= 1
        if event.name == "tool_execution_end" and event.data["toolName"] == "ask_user":
            now["a question"] -= 1
    for what in ("an approval", "a question", "a tool"):
        if now[what] > 0:
            return what
    return "text"
