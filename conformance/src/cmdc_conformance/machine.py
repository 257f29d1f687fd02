"""Random sessions, scripts and requests: what Hypothesis draws, and what it has made smaller where something failed.

Hypothesis is synchronous, and runs in a thread; what it draws is played in the event loop, with the monitors looking on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from cmdc_conformance import strategies
from cmdc_conformance.case import Case
from cmdc_conformance.evidence import REPLAY
from cmdc_conformance.findings import Blocked, Failed
from cmdc_conformance.player import Player, Step

_STEPS = strategies.steps()

# So many deadlines are spent on making a failure smaller.
_SHRINKING: Final = 4


class Enough(BaseException):
    """No more time is spent on making a failure smaller. Not an Exception, so that Hypothesis lets it through."""


class Trial:
    """What is tried, from Hypothesis's thread, in the event loop of the run; and what of it has failed, made small."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._loop = asyncio.get_running_loop()
        self._until = 0.0
        self._failure: Failed | None = None
        self._blocked: Blocked | None = None
        self._steps: list[Any] = []

    def play(self, work: Coroutine[Any, Any, None], steps: Sequence[Any]) -> None:
        """Run a coroutine; `steps` are what has led to it, and itself. Raises what it raises."""
        if self._failure is not None and monotonic() > self._until:
            work.close()
            raise Enough
        try:
            self.do(work)
        except Failed as failed:
            if self._failure is None:
                self._until = monotonic() + _SHRINKING * self._case.deadline
            if self._failure is None or len(str(steps)) <= len(str(self._steps)):
                self._failure, self._steps = failed, [*steps]
            raise
        except Blocked as blocked:
            self._blocked = blocked
            raise

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def run(self, test: Callable[[], None]) -> None:
        """Let Hypothesis draw. Raises Failed, with the smallest that shows it, kept so that it can be played again."""
        try:
            await asyncio.to_thread(_without_enough, test)
        except Flaky:
            # What stood in the way once, and not when Hypothesis tried it again, stood in the way all the same.
            if self._failure is None:
                raise self._blocked or Blocked("what was drawn went differently when it was tried again") from None
        except Exception:
            if self._failure is None:
                raise
        if self._failure is None:
            return
        requirement = self._failure.requirement or self._case.requirement
        transcript = {"requirement": requirement, "seed": self._case.suite.seed, "steps": self._steps}
        self._case.watch.evidence.keep(f"{REPLAY}{json.dumps(transcript, ensure_ascii=False)}")
        raise Failed(self._failure.message, requirement)


def _without_enough(test: Callable[[], None]) -> None:
    with suppress(Enough):
        test()


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
    """Steps of a few sessions. Subclasses say in which case, and who tries them."""

    case: Case
    trial: Trial

    def __init__(self) -> None:
        super().__init__()
        self.player = Player(self.case)

    def _play(self, step: Step) -> None:
        self.trial.play(self.player.play(step), [*self.player.steps, step])

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
            self.trial.play(self.player.finish(), self.player.steps)
        finally:
            self.trial.do(self.player.close())


async def random_sessions(case: Case) -> None:
    """Play random sessions of two tenants. Raises Failed, with the smallest sequence of steps that shows it."""
    trial = Trial(case)
    here = {"case": case, "trial": trial}
    machine = seed(case.random.randrange(2**32))(type("SessionsOfThisRun", (Sessions,), here))
    chosen = _settings(case, stateful_step_count=14)
    await trial.run(lambda: run_state_machine_as_test(machine, settings=chosen))


async def random_examples(
    case: Case, strategy: Any, play: Callable[[Any], Coroutine[Any, Any, None]], shown: Callable[[Any], Any]
) -> None:
    """Play what the strategy draws. Raises Failed, with the smallest that shows it."""
    trial = Trial(case)

    @seed(case.random.randrange(2**32))
    @_settings(case)
    @given(strategy)
    def test(drawn: Any) -> None:
        trial.play(play(drawn), [shown(drawn)])

    await trial.run(test)
