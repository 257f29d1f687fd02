"""Experiment 18: simulated gateways with a seeded scheduler, a simulated clock, and a store that fails.

A step is one callback of the event loop. `python -m cmdc_testkit.simulation SEED` reproduces a failure.
"""

# pyright: reportPrivateUsage=false
# Defects are injected where they would occur: in private methods.

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
from cmdc_gateway.kernel import recovery
from cmdc_gateway.kernel.turn import OpenCall, Turn
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.sessions import loader
from cmdc_gateway.sessions.actor import SessionActor
from cmdc_gateway.sessions.idempotency import Idempotency, StoredResponse
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.state import LiveState
from cmdc_gateway.sessions.transitions import RunTransitions
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import Lease
from cmdc_gateway.store.writes import PutRequest, Write
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.simulation.auditor import Violation
from cmdc_testkit.simulation.loop import Stuck, simulate
from cmdc_testkit.simulation.world import run

WORLDS_PER_DEFECT = 30


@pytest.mark.timeout(180)
def test_no_promise_is_broken_in_any_world(experiment: Experiment) -> None:
    """DUR-1, DUR-2, DUR-5, EVT-1 … EVT-9, APP-1 … APP-4, ASK-1, HTTP-11, MTR-1, SSE-6."""
    wanted = experiment.trials(short=40_000, long=1_000_000)
    first = experiment.seed * 1_000_000 + experiment.part.index * 10_000
    steps = commits = prompts = calls = deaths = 0
    for world in count():
        report = run(first + world)
        steps += report.steps
        commits += report.commits
        prompts += report.prompts
        calls += report.tool_calls
        deaths += report.gateways - 1
        if steps >= wanted:
            experiment.record("worlds", world + 1)
            break
    experiment.record("steps", steps)
    experiment.record("commits", commits)
    experiment.record("prompts", prompts)
    experiment.record("tool calls", calls)
    experiment.record("gateways killed, stopped or taken over", deaths)
    experiment.record("violations", 0)


def test_a_seed_gives_the_same_world_in_every_process() -> None:
    first = run(2)
    program = [sys.executable, "-m", "cmdc_testkit.simulation", "2"]
    elsewhere = subprocess.run(program, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"})

    assert run(2) == first
    assert elsewhere.stdout == f"{first}\n"
    assert run(3).digest != first.digest


def test_a_deadlock_is_detected() -> None:
    async def wait_forever(loop: Any) -> None:
        await loop.create_future()

    with pytest.raises(Stuck):
        simulate(random.Random(1), wait_forever)


# -- the simulation finds injected defects -----------------------------------------------------------------------------


def effects_first(patch: pytest.MonkeyPatch) -> None:
    """Effects start before their commit."""
    process, receive = SessionActor._process, RunTransitions.receive
    actors: dict[RunTransitions, SessionActor] = {}

    async def process_and_note(self: SessionActor, *rest: Any) -> None:
        actors[self.transitions] = self
        await process(self, *rest)

    def act_at_once(self: RunTransitions, live: LiveState, turn: Turn, signal: Any, unit: UnitOfWork) -> None:
        receive(self, live, turn, signal, unit)
        actors[self]._start_effects(unit)
        unit.effects.clear()

    patch.setattr(SessionActor, "_process", process_and_note)
    patch.setattr(RunTransitions, "receive", act_at_once)


def keys_forgotten(patch: pytest.MonkeyPatch) -> None:
    """An Idempotency-Key is ignored."""
    once = Idempotency.execute

    async def without(self: Idempotency, tenant: str, route: str, _: str, *rest: Any) -> StoredResponse:
        return await once(self, tenant, route, None, *rest)

    patch.setattr(Idempotency, "execute", without)


def calls_run_again(patch: pytest.MonkeyPatch) -> None:
    """After a crash, running calls are treated as not started, and the run continues."""
    remains = recovery.recover_run

    def forgetful(*args: Any, **options: Any) -> recovery.RecoveredRun:
        left = remains(*args, **options)
        ready = tuple(OpenCall(item.call, "ready") for item in left.open_calls if item.stage == "running")
        waiting = tuple(item for item in left.open_calls if item.stage != "running")
        return recovery.RecoveredRun(waiting + ready, left.text)

    patch.setattr(loader, "recover_run", forgetful)
    patch.setattr(recovery.RecoveredRun, "blocked_on_user", property(lambda self: any(self.open_calls)))


def half_a_commit(patch: pytest.MonkeyPatch) -> None:
    """The store sometimes applies only the first write of a commit."""
    commit = MemoryStore.commit
    rng = random.Random(1)

    async def torn(self: MemoryStore, writes: Sequence[Write], lease: Lease | None = None) -> None:
        if len(writes) > 1 and rng.random() < 0.02:
            await commit(self, writes[:1], lease)
            return
        await commit(self, writes, lease)

    patch.setattr(MemoryStore, "commit", torn)


def prompts_not_written(patch: pytest.MonkeyPatch) -> None:
    """A queued prompt is not stored."""
    writes = UnitOfWork.writes

    def without(self: UnitOfWork, before: Any) -> list[Write]:
        return [
            write for write in writes(self, before) if not isinstance(write, PutRequest) or write.row.status != "queued"
        ]

    patch.setattr(UnitOfWork, "writes", without)


def shown_first(patch: pytest.MonkeyPatch) -> None:
    """Readers receive events before their commit."""
    settle, publish = RunTransitions.settle_row, EventLog.publish

    def show(self: RunTransitions, now: LiveState, draft: UnitOfWork) -> None:
        settle(self, now, draft)
        self._log.publish(draft.events)

    def publish_once(self: EventLog, events: Sequence[LoggedEvent]) -> None:
        publish(self, [event for event in events if event.seq > self.last_seq])

    patch.setattr(RunTransitions, "settle_row", show)
    patch.setattr(EventLog, "publish", publish_once)


DEFECTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "effects start before their commit": (effects_first, "EVT-8"),
    "an Idempotency-Key is ignored": (keys_forgotten, "HTTP-11"),
    "calls execute again after a crash": (calls_run_again, "EVT-9"),
    "a commit is applied partially": (half_a_commit, "EVT-7"),
    "a queued prompt is not stored": (prompts_not_written, "DUR-5"),
    "events are shown before their commit": (shown_first, "EVT-8"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inflict, rule = DEFECTS[defect]
    inflict(monkeypatch)

    with pytest.raises(Violation, match=rule):
        [run(seed) for seed in range(WORLDS_PER_DEFECT)]
