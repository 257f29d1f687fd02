"""Experiment 14: SIGTERM while many streams are open and many runs are active, and a restart."""

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

# Some runs end within the grace period, some do not, and some wait for a user.
BRIEF = script({"text": ["word "] * 40, "delayMs": 30})
LONG = script({"text": ["word "] * 10_000, "delayMs": 50})
TOOLS = script(*[calling(("count", {}), text=["again "])] * 200)
ASKS = script(calling(("ask_user", {"question": "?"})))
GUARDED = script(calling(("guarded", {}), ("count", {})))
PROMPTS = (BRIEF, LONG, TOOLS, ASKS, GUARDED)


@dataclass
class BusySession:
    """A session with an active run. Its user keeps prompting until the server is gone."""

    talk: Conversation
    watchers: list[Watcher] = field(default_factory=list[Watcher])
    accepted: list[str] = field(default_factory=list[str])
    refused: int = 0

    async def keep_prompting(self) -> None:
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


async def begin(client: httpx.AsyncClient, receiver: Receiver, prompt: str) -> BusySession:
    talk = await Conversation.begin(client, tools=["ask_user"])
    for name in ("count", "guarded"):
        tool = {"name": name, "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
        assert (await talk.post("tools", {**tool, "requiresApproval": name == "guarded"})).status_code == 201
    return BusySession(talk, accepted=[await talk.prompt(prompt)])


async def stop(gateway: GatewayProcess) -> float:
    """Send SIGTERM; return the seconds until the exit."""
    begun = time.monotonic()
    assert await gateway.stop() == 0
    return time.monotonic() - begun


async def run_settled(talk: Conversation, run: str | None) -> bool:
    """Whether a run has ended, or waits for a user."""
    page = await talk.client.get(f"{talk.path}/events", headers={"Accept": "application/json"}, params={"limit": 5000})
    ended = [event for event in page.json()["events"] if event["event"] in ("agent_end", "agent_abort")]
    return run in [event["data"]["requestId"] for event in ended] or (await talk.info())["state"].startswith("waiting")


async def run_trial(
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
        prompting = [asyncio.create_task(one.keep_prompting()) for one in busy]
        await asyncio.sleep(chance.uniform(0, 0.5))
        exit_seconds = await stop(gateway)
        await asyncio.gather(*prompting)
        clean = [await watcher.wait_until_disconnected() for one in busy for watcher in one.watchers]
        assert all(clean), "the server ends every stream"

        await gateway.start(within=READY_SECONDS)
        ready = time.monotonic()
        open_runs = [open_run(one.watchers[0]) for one in busy]
        for one, run in zip(busy, open_runs, strict=True):
            while run is not None and not await run_settled(one.talk, run):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        slowest = time.monotonic() - ready
        records = [await finish(one, receiver) for one in busy]
    return exit_seconds, slowest, records


def open_run(watcher: Watcher) -> str | None:
    last = watcher.events[-1]
    return None if last.name in ("agent_end", "agent_abort") else last.data["requestId"]


async def finish(one: BusySession, receiver: Receiver) -> SessionRecord:
    """Decide everything that is pending until the session is idle; return its record."""
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
async def test_the_server_exits_in_time_and_loses_nothing(
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
            took, slowest, records = await run_trial(gateway, receiver, experiment.random, streams=streams, runs=runs)
        slowest_exit, slowest_run = max(slowest_exit, took), max(slowest_run, slowest)
        for record in records:
            assert audit(record) == []
            assert record.prompt_count == len(record.accepted)
            events += len(record.log)
            prompts += len(record.accepted)
    experiment.record("trials", trials)
    experiment.record("streams", streams)
    experiment.record("runs", runs)
    experiment.record("slowest exit", f"{slowest_exit:.2f} s, with a grace period of {GRACE_SECONDS:.0f} s")
    experiment.record("slowest run to end or wait for a user after the restart", f"{slowest_run:.2f} s")
    experiment.record("prompts", prompts)
    experiment.record("events", events)
    # The short form runs beside other tests, which may delay the exit.
    assert slowest_exit < (EXIT_SECONDS if experiment.long else EXIT_SECONDS + 1)
    assert slowest_run < SETTLED_SECONDS
