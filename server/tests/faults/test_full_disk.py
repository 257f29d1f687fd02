"""Experiment 15: the disk is full, and well again, while people use the gateway; nothing is restarted.

The operating system refuses to let any file of the gateway grow, its log among them: what a full disk is to a process.
The store that fails in other ways is `test_store_failure.py`'s and the simulation's.
"""

import asyncio
import resource
import sys
import time
from pathlib import Path

import httpx
import pytest
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.workload import RandomUser, Totals, Workload

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prlimit")

SESSIONS = 4
RECOVERED_SECONDS = 10


def let_files_grow(gateway: GatewayProcess, *, yes: bool) -> None:
    _, hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if yes else 0, hard))


async def fill(client: httpx.AsyncClient, gateway: GatewayProcess, probe: Conversation, seconds: float) -> None:
    """Let the disk be full for a while: nothing is accepted, everything can be read."""
    let_files_grow(gateway, yes=False)
    end = time.monotonic() + seconds
    while True:
        refused = await probe.post("prompt", {"text": "lost"})
        assert (refused.status_code, refused.json()["error"]) == (503, "unavailable"), refused.text
        assert refused.headers["retry-after"].isdecimal()
        if time.monotonic() > end:
            break
        await asyncio.sleep(0.02)
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/healthz")).status_code == 200
    page = await client.get(f"{probe.path}/events", headers={"Accept": "application/json"})
    assert (page.status_code, page.json()["events"]) == (200, [])


async def recovery(client: httpx.AsyncClient, gateway: GatewayProcess, users: list[RandomUser]) -> float:
    """Let files grow again; return how long it took until every session accepted something."""
    begun = time.monotonic()
    let_files_grow(gateway, yes=True)
    async with asyncio.timeout(RECOVERED_SECONDS):
        while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.gather(*(user.register("recovered") for user in users))
    return time.monotonic() - begun


@pytest.mark.timeout(180)
async def test_a_full_disk_costs_nothing_that_was_accepted(
    tmp_path: Path, receiver: Receiver, experiment: Experiment
) -> None:
    """DUR-5, EVT-8, HTTP-11: 503, never a 2xx without a commit; it recovers by itself."""
    chance = experiment.random
    times = experiment.trials(short=6, long=300)
    tally = Totals()
    slowest = 0.0
    async with GatewayProcess(tmp_path, forked=True) as gateway, gateway.client() as client:
        probe = await Conversation.begin(client)
        await probe.info()  # to take a session up is a write, too
        async with Workload(gateway, receiver, chance, SESSIONS) as crowd:
            for _ in range(times):
                await asyncio.sleep(chance.uniform(0, 0.3))
                await fill(client, gateway, probe, chance.uniform(0, 0.5))
                slowest = max(slowest, await recovery(client, gateway, crowd.users))
            await crowd.finish()
            assert not any(watcher.disconnected.is_set() for watcher in crowd.watchers), "readers stay connected"
            await crowd.audit(tally)
            refused = sum(user.unavailable for user in crowd.users)
        assert (await probe.get("/stats")).json()["promptCount"] == 0
    experiment.record("times full", times)
    experiment.record("requests refused with 503", refused)
    experiment.record("prompts accepted", tally.prompts)
    experiment.record("events", tally.events)
    experiment.record("slowest recovery", f"{slowest:.2f} s")
