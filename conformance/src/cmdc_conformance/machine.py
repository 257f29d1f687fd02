"""Random sessions, scripts and requests: what Hypothesis draws, and what it has made smaller where something failed.

Hypothesis is synchronous, and runs in a thread; what it draws is played in the event loop, with the monitors looking on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, FlakyFailure
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from cmdc_conformance import strategies
from cmdc_conformance.case import Case
from cmdc_conformance.findings import Failed
from cmdc_conformance.player import Player, Step

_STEPS = strategies.steps()


class InLoop:
    """Runs coroutines in the event loop of the run, from Hypothesis's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _settings(case: Case, **more: Any) -> settings:
    return settings(
        max_examples=case.suite.examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        print_blob=False,
        report_multiple_bugs=False,
        **more,
    )


class Sessions(RuleBasedStateMachine):
    """Steps of a few sessions. Subclasses say in which case, and keep the steps that failed."""

    case: Case
    do: InLoop
    kept: list[Step]

    def __init__(self) -> None:
        super().__init__()
        self.player = Player(self.case)

    def _play(self, step: Step) -> None:
        self._held(self.player.play(step))

    def _held(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self.do(work)
        except Failed:
            self.kept[:] = self.player.steps
            raise

    @initialize(step=_STEPS["create"])
    def begin(self, step: Step) -> None:
        self._play(step)

    @precondition(lambda self: len(self.player.sessions) < 3)
    @rule(step=_STEPS["create"])
    def create(self, step: Step) -> None:
        self._play(step)

    @precondition(lambda self: self.player.sessions)
    @rule(step=st.one_of(*(_STEPS[name] for name in ("prompt", "prompt", "decide", "respond", "abort", "register"))))
    def act(self, step: Step) -> None:
        self._play(step)

    @precondition(lambda self: self.player.waiting() is not None)
    @rule(answer=st.sampled_from(["red", "blue"]), action=st.sampled_from(["approve", "reject"]))
    def settle(self, answer: str, action: str) -> None:
        index, kind = self.player.waiting() or (0, "")
        member = {"op": "decide", "action": action} if kind == "approval" else {"op": "respond", "answer": answer}
        self._play({"session": index, **member})

    @precondition(lambda self: self.player.sessions)
    @rule(step=st.one_of(_STEPS["read"], _STEPS["foreign"]))
    def look(self, step: Step) -> None:
        self._play(step)

    @precondition(lambda self: len(self.player.sessions) > 1)
    @rule(step=_STEPS["delete"])
    def delete(self, step: Step) -> None:
        self._play(step)

    def teardown(self) -> None:
        try:
            self._held(self.player.finish())
        finally:
            self.do(self.player.close())


async def random_sessions(case: Case) -> None:
    """Play random sessions of two tenants. Raises Failed, with the smallest sequence of steps that shows it."""
    kept: list[Step] = []
    here = {"case": case, "do": InLoop(asyncio.get_running_loop()), "kept": kept}
    machine = seed(case.random.randrange(2**32))(type("SessionsOfThisRun", (Sessions,), here))

    def run() -> None:
        run_state_machine_as_test(machine, settings=_settings(case, stateful_step_count=14))

    await in_thread(case, run, lambda: kept)


async def random_examples(
    case: Case, strategy: Any, play: Callable[[Any], Coroutine[Any, Any, None]], shown: Callable[[Any], Any]
) -> None:
    """Play what the strategy draws. Raises Failed, with the smallest that shows it."""
    do = InLoop(asyncio.get_running_loop())
    kept: list[Any] = []

    @seed(case.random.randrange(2**32))
    @_settings(case)
    @given(strategy)
    def run(drawn: Any) -> None:
        try:
            do(play(drawn))
        except Failed:
            kept[:] = [shown(drawn)]
            raise

    await in_thread(case, run, lambda: kept)


async def in_thread(case: Case, run: Callable[[], None], kept: Callable[[], Sequence[Any]]) -> None:
    """Run Hypothesis; tell of what failed by the steps that show it, so that they can be played again."""
    try:
        await asyncio.to_thread(run)
    except Failed as failed:
        transcript = json.dumps({"seed": case.suite.seed, "check": case.name, "steps": [*kept()]}, ensure_ascii=False)
        case.watch.evidence.keep(f"replay {transcript}")
        raise Failed(failed.message, failed.requirement) from None
    except (Flaky, FlakyFailure) as flaky:
        raise Failed(f"the same steps fail once and pass once: {str(flaky)[:500]}; {[*kept()]}") from None
