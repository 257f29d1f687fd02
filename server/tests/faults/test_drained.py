"""Experiment 14: SIGTERM while many streams are open and many runs are active; then the next start."""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cmdc_testkit.audit import SessionRecord, audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, GatewayProcess
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, record_session

GRACE_SECONDS = 2.0
EXIT_SECONDS = GRACE_SECONDS + 1  # DUR-3
SETTLED_SECONDS = 5  # DUR-2
READY_SECONDS = 30

# What the runs do: some end within the grace period, some do not, and some only wait for a person.
BRIEF = script({"text": ["word "] * 40, "delayMs": 30})
LONG = script({"text": ["word "] * 10_000, "delayMs": 50})
TOOLS = script(*[calling(("count", {}), text=["again "])] * 200)
ASKS = script(calling(("ask_user", {"question": "?"})))
GUARDED = script(calling(("guarded", {}), ("count", {})))
PROMPTS = (BRIEF, LONG, TOOLS, ASKS, GUARDED)


@dataclass
class Busy:
    """A session with an active run, whose user goes on prompting until nobody listens."""

    talk: Conversation
    watchers: list[Watcher] = field(default_factory=list[Watcher])
    accepted: list[str] = field(default_factory=list[str])
    refused: int = 0

    async def go_on(self) -> None:
        while True:
            try:
                answer = await self.talk.post("prompt", {"text": "and then?"})
            except httpx.TransportError:
                return
            if answer.status_code == 202:
                self.accepted.append(answer.json()["requestId"])
            else:
                assert answer.status_code in (429, 503), answer.text
                self.refused += answer.status_code == 503
            await asyncio.sleep(0.05)


async def begin(client: httpx.AsyncClient, receiver: Receiver, prompt: str) -> Busy:
    talk = await Conversation.begin(client, tools=["ask_user"])
    for name in ("count", "guarded"):
        tool = {"name": name, "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
        assert (await talk.post("tools", {**tool, "requiresApproval": name == "guarded"})).status_code == 201
    return Busy(talk, accepted=[await talk.prompt(prompt)])


async def exit_of(gateway: GatewayProcess) -> float:
    """Send SIGTERM; return how long the exit took."""
    begun = time.monotonic()
    assert await gateway.stop() == 0
    return time.monotonic() - begun


async def settled(talk: Conversation, run: str | None) -> bool:
    """Whether this run, which was active, has ended, or the session waits for a person."""
    page = await talk.client.get(f"{talk.path}/events", headers={"Accept": "application/json"}, params={"limit": 5000})
    ended = [event for event in page.json()["events"] if event["event"] in ("agent_end", "agent_abort")]
    return run in [event["data"]["requestId"] for event in ended] or (await talk.info())["state"].startswith("waiting")


async def one_trial(
    gateway: GatewayProcess, receiver: Receiver, chance: random.Random, *, streams: int, runs: int
) -> tuple[float, float, list[SessionRecord]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    wide = httpx.AsyncClient(
        base_url=gateway.url, headers={"X-API-Key": KEY}, trust_env=False, limits=limits, timeout=READY_SECONDS
    )
    async with wide as client, AsyncExitStack() as stack:
        busy = [await begin(client, receiver, PROMPTS[number % len(PROMPTS)]) for number in range(runs)]
        for number in range(streams):
            watcher = Watcher(busy[number % runs].talk)
            await stack.enter_async_context(watcher)
            busy[number % runs].watchers.append(watcher)
        going_on = [asyncio.create_task(one.go_on()) for one in busy]
        await asyncio.sleep(chance.uniform(0, 0.5))
        took = await exit_of(gateway)
        await asyncio.gather(*going_on)
        clean = [await watcher.wait_until_disconnected() for one in busy for watcher in one.watchers]
        assert all(clean), "every stream ends as a stream ends"

        await gateway.start(within=READY_SECONDS)
        ready = time.monotonic()
        open_runs = [open_run(one.watchers[0]) for one in busy]
        for one, run in zip(busy, open_runs, strict=True):
            while run is not None and not await settled(one.talk, run):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        slowest = time.monotonic() - ready
        records = [await ended(one, receiver) for one in busy]
    return took, slowest, records


def open_run(watcher: Watcher) -> str | None:
    last = watcher.events[-1]
    return None if last.name in ("agent_end", "agent_abort") else last.data["requestId"]


async def ended(one: Busy, receiver: Receiver) -> SessionRecord:
    """Let the session come to an end, and take down what there is of it."""
    async with asyncio.timeout(READY_SECONDS):
        while (info := await one.talk.info())["state"] != "idle" or info["queue"]:
            for approval in info["pendingApprovals"]:
                await one.talk.post("approve", {"approvalId": approval["approvalId"]})
            for question in info["pendingQuestions"]:
                await one.talk.post("respond", {"ref": question["ref"], "response": "because"})
            await asyncio.sleep(0.01)
    ran = [call.body["callId"] for call in receiver.calls if call.body["sessionId"] == one.talk.id]
    return await record_session(one.talk, *one.watchers, accepted=one.accepted, executed=ran)


@pytest.mark.timeout(180)
async def test_the_exit_keeps_to_its_time_and_its_promises(
    tmp_path: Path, receiver: Receiver, experiment: Experiment
) -> None:
    """DUR-1 … DUR-3, EVT-4, EVT-7, EVT-9, MTR-1."""
    trials = experiment.trials(short=1, long=10)
    streams, runs = (1_000, 50) if experiment.long else (100, 10)
    slowest_exit = slowest_run = 0.0
    events = prompts = 0
    grace = {"GATEWAY_GRACE_MS": str(int(GRACE_SECONDS * 1000))}
    for trial in range(trials):
        folder = tmp_path / f"{trial}"
        folder.mkdir()
        async with GatewayProcess(folder, forked=True, **grace) as gateway:
            took, slowest, records = await one_trial(gateway, receiver, experiment.random, streams=streams, runs=runs)
        slowest_exit, slowest_run = max(slowest_exit, took), max(slowest_run, slowest)
        for record in records:
            assert audit(record) == []
            assert record.prompt_count == len(record.accepted)
            events += len(record.log)
            prompts += len(record.accepted)
    experiment.record("trials", trials)
    experiment.record("streams", streams)
    experiment.record("runs", runs)
    experiment.record("slowest exit", f"{slowest_exit:.2f} s at a grace of {GRACE_SECONDS:.0f} s")
    experiment.record("slowest run to end or wait after readiness", f"{slowest_run:.2f} s")
    experiment.record("prompts", prompts)
    experiment.record("events", events)
    # The short form runs where others do, too: as much again, because a busy machine is no defect.
    assert slowest_exit < (EXIT_SECONDS if experiment.long else EXIT_SECONDS + 1)
    assert slowest_run < SETTLED_SECONDS
