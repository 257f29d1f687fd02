"""Experiment 15: the disk fills up and gets space again while the gateway is used, without a restart.

A limit on the size of files has the effect of a full disk: no file of the gateway can grow, not even its log.
`test_store_failure.py` and the simulation test other failures of the store.
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


def allow_writes(gateway: GatewayProcess, *, yes: bool) -> None:
    _, hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if yes else 0, hard))


async def check_full_disk(
    client: httpx.AsyncClient, gateway: GatewayProcess, probe: Conversation, seconds: float
) -> None:
    """Fill the disk for a while: requests that write return 503, everything can be read."""
    allow_writes(gateway, yes=False)
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


async def measure_recovery(client: httpx.AsyncClient, gateway: GatewayProcess, users: list[RandomUser]) -> float:
    """Free the disk; return the seconds until every session accepted a request."""
    begun = time.monotonic()
    allow_writes(gateway, yes=True)
    async with asyncio.timeout(RECOVERED_SECONDS):
        while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.gather(*(user.register("recovered") for user in users))
    return time.monotonic() - begun


@pytest.mark.timeout(180)
async def test_nothing_that_was_accepted_is_lost_on_a_full_disk(
    tmp_path: Path, receiver: Receiver, experiment: Experiment
) -> None:
    """DUR-5, EVT-8, HTTP-11."""
    rng = experiment.random
    times = experiment.trials(short=3, long=300)
    totals = Totals()
    slowest = 0.0
    async with GatewayProcess(tmp_path, forked=True) as gateway, gateway.client() as client:
        probe = await Conversation.begin(client)
        await probe.info()  # acquiring a session writes, too
        async with Workload(gateway, receiver, rng, SESSIONS) as workload:
            for _ in range(times):
                await asyncio.sleep(rng.uniform(0, 0.3))
                await check_full_disk(client, gateway, probe, rng.uniform(0, 0.5))
                slowest = max(slowest, await measure_recovery(client, gateway, workload.users))
            await workload.finish()
            assert not any(watcher.disconnected.is_set() for watcher in workload.watchers), "readers stay connected"
            await workload.audit(totals)
            refused = sum(user.unavailable for user in workload.users)
        assert (await probe.get("/stats")).json()["promptCount"] == 0
    experiment.record("full disks", times)
    experiment.record("responses with 503", refused)
    experiment.record("prompts accepted", totals.prompts)
    experiment.record("events", totals.events)
    experiment.record("slowest recovery", f"{slowest:.2f} s")
