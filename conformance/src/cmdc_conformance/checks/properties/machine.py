"""Property-based testing of a server: Hypothesis draws sessions, scripts and requests, and shrinks what fails.

Hypothesis is synchronous and runs in a thread. What it draws is executed in the event loop of the suite run, where the
monitors see it.
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

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.properties import strategies
from cmdc_conformance.checks.properties.executor import Step, StepExecutor
from cmdc_conformance.evidence import REPLAY
from cmdc_conformance.findings import Blocked, Failed

_STEPS = strategies.steps()

# In units of the target's deadline.
_SHRINKING: Final = 4


class ShrinkTimeout(BaseException):
    """The time for shrinking a failure is over. Derives from BaseException, so that Hypothesis lets it through."""


class HypothesisBridge:
    """Executes what Hypothesis draws, and keeps the smallest failure."""

    def __init__(self, ctx: CheckContext) -> None:
        self._ctx = ctx
        self._loop = asyncio.get_running_loop()
        self._shrink_until = 0.0
        self._failure: Failed | None = None
        self._blocked: Blocked | None = None
        self._steps: list[Any] = []

    def execute(self, work: Coroutine[Any, Any, None], steps: Sequence[Any]) -> None:
        """Run a coroutine in the event loop. `steps` led to it and include it. Raises what the coroutine raises."""
        if self._failure is not None and monotonic() > self._shrink_until:
            work.close()
            raise ShrinkTimeout
        try:
            self.run_in_loop(work)
        except Failed as failed:
            if self._failure is None:
                self._shrink_until = monotonic() + _SHRINKING * self._ctx.deadline
            if self._failure is None or len(str(steps)) <= len(str(self._steps)):
                self._failure, self._steps = failed, [*steps]
            raise
        except Blocked as blocked:
            self._blocked = blocked
            raise

    def run_in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the event loop and wait for it. Raises what the coroutine raises."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def run(self, test: Callable[[], None]) -> None:
        """Run a Hypothesis test in a thread. Raises Failed for the smallest failure, and pins its replay file."""
        try:
            await asyncio.to_thread(_until_shrink_timeout, test)
        except Flaky:
            # A check that was blocked once was not exercised, even if Hypothesis could not reproduce it.
            if self._failure is None:
                raise self._blocked or Blocked("the drawn steps had different results when repeated") from None
        except Exception:
            if self._failure is None:
                raise
        if self._failure is None:
            return
        requirement = self._failure.requirement or self._ctx.requirement
        replay = {"requirement": requirement, "seed": self._ctx.run_state.seed, "steps": self._steps}
        self._ctx.observer.evidence.pin(f"{REPLAY}{json.dumps(replay, ensure_ascii=False)}")
        raise Failed(self._failure.message, requirement)


def _until_shrink_timeout(test: Callable[[], None]) -> None:
    with suppress(ShrinkTimeout):
        test()


def _settings(ctx: CheckContext, **more: Any) -> settings:
    return settings(
        max_examples=ctx.run_state.examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        print_blob=False,
        report_multiple_bugs=False,
        **more,
    )


class SessionMachine(RuleBasedStateMachine):
    """Draws steps of up to three sessions. A subclass sets the context and the bridge."""

    ctx: CheckContext
    bridge: HypothesisBridge

    def __init__(self) -> None:
        super().__init__()
        self.executor = StepExecutor(self.ctx)

    def _execute(self, step: Step) -> None:
        self.bridge.execute(self.executor.execute(step), [*self.executor.steps, step])

    @initialize(step=_STEPS["create"])
    def begin(self, step: Step) -> None:
        self._execute(step)

    @precondition(lambda self: len(self.executor.sessions) < 3)
    @rule(step=_STEPS["create"])
    def create(self, step: Step) -> None:
        self._execute(step)

    @precondition(lambda self: self.executor.sessions)
    @rule(step=st.one_of(*(_STEPS[name] for name in ("prompt", "prompt", "decide", "respond", "abort", "register"))))
    def act(self, step: Step) -> None:
        self._execute(step)

    @precondition(lambda self: self.executor.waiting() is not None)
    @rule(answer=st.sampled_from(["red", "blue"]), action=st.sampled_from(["approve", "reject"]))
    def resolve(self, answer: str, action: str) -> None:
        index, kind = self.executor.waiting() or (0, "")
        member = {"op": "decide", "action": action} if kind == "approval" else {"op": "respond", "answer": answer}
        self._execute({"session": index, **member})

    @precondition(lambda self: self.executor.sessions)
    @rule(step=st.one_of(_STEPS["read"], _STEPS["foreign"]))
    def observe(self, step: Step) -> None:
        self._execute(step)

    @precondition(lambda self: len(self.executor.sessions) > 1)
    @rule(step=_STEPS["delete"])
    def delete(self, step: Step) -> None:
        self._execute(step)

    def teardown(self) -> None:
        try:
            self.bridge.execute(self.executor.finish(), self.executor.steps)
        finally:
            self.bridge.run_in_loop(self.executor.close())


async def random_sessions(ctx: CheckContext) -> None:
    """Execute random steps of sessions of two tenants. Raises Failed with the smallest sequence that fails."""
    bridge = HypothesisBridge(ctx)
    machine = seed(ctx.random.randrange(2**32))(
        type("SessionsOfThisRun", (SessionMachine,), {"ctx": ctx, "bridge": bridge})
    )
    chosen = _settings(ctx, stateful_step_count=14)
    await bridge.run(lambda: run_state_machine_as_test(machine, settings=chosen))


async def random_examples(
    ctx: CheckContext, strategy: Any, execute: Callable[[Any], Coroutine[Any, Any, None]], as_step: Callable[[Any], Any]
) -> None:
    """Execute what the strategy draws. `as_step` is its form in a replay file. Raises Failed with the smallest failure."""
    bridge = HypothesisBridge(ctx)

    @seed(ctx.random.randrange(2**32))
    @_settings(ctx)
    @given(strategy)
    def test(drawn: Any) -> None:
        bridge.execute(execute(drawn), [as_step(drawn)])

    await bridge.run(test)
