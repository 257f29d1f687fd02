"""Whatever happens to a run, and in whatever order, what it tells keeps the protocol."""

from typing import TypedDict

import pytest
from cmdc_gateway.errors import ApprovalNotFound, QuestionNotFound
from cmdc_gateway.kernel.effects import Outcome, RunTool, StopWork
from cmdc_gateway.kernel.recovery import recover_run
from cmdc_gateway.kernel.signals import (
    Aborted,
    Answered,
    Approved,
    BudgetRefused,
    Expired,
    ModelFailed,
    ModelFinished,
    Prompted,
    Rejected,
    Signal,
    TextArrived,
    ThoughtArrived,
    ToolFinished,
    ToolReplaced,
    ToolRequested,
)
from cmdc_gateway.kernel.turn import Rules, Turn
from cmdc_gateway.protocol.events import (
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    ToolExecutionEnd,
    ToolExecutionStart,
    ToolStatus,
    encode_data,
)
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_testkit.runs import broken_rules
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydantic import JsonValue

Args = dict[str, JsonValue]
Decision = type[Approved] | type[Rejected] | type[Expired]

TOOL_ARGS: st.SearchStrategy[Args] = st.sampled_from([{}, {"n": 1}, {"n": 2}, {"bad": True}])
QUESTIONS: st.SearchStrategy[Args] = st.sampled_from(
    [{"question": "Why?"}, {"question": "Which?", "options": ["left", "right"]}, {"bad": True}]
)
FLAWS = st.sampled_from([None, None, None, "this is not JSON"])

texts = st.text(max_size=3)
pieces = st.builds(ThoughtArrived, texts) | st.builds(TextArrived, texts)
requests = st.builds(ToolRequested, st.sampled_from(["look", "look", "shell", "shell", "fly"]), TOOL_ARGS, FLAWS)
questions = st.builds(ToolRequested, st.just("ask_user"), QUESTIONS, FLAWS)
usages = st.builds(TokenUsage, st.integers(0, 100), st.integers(0, 100))
costs = st.sampled_from([0.0, 0.25, 1.5])  # sums of these are exact
any_of_them = st.integers(0, 7)
call_ids = st.sampled_from(["call_r1_1", "call_r1_2", "call_r1_3", "call_r1_99", ""])


class Bounds(TypedDict):
    before: int
    parallel: int
    max_steps: int


class TurnMachine(RuleBasedStateMachine):
    """Makes anything happen to a run, sensible or not. What is open is read from the run's own events."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Outcome()
        self.approved: dict[str, Args] = {}
        self.bounds: Bounds = {"before": 0, "parallel": 8, "max_steps": 100}

    @initialize(
        before=st.integers(0, 5),
        parallel=st.integers(1, 3),
        max_steps=st.integers(1, 6),
        approval_ms=st.sampled_from([0, 9]),
    )
    def prompt(self, before: int, parallel: int, max_steps: int, approval_ms: int) -> None:
        self.bounds = {"before": before, "parallel": parallel, "max_steps": max_steps}
        self.policy = Rules(
            error=lambda name, args: "it cannot be called so" if name == "fly" or "bad" in args else None,
            requires_approval=lambda name: name == "shell",
            digest=lambda call: call.id,
            approval_ms=approval_ms,
            max_steps=max_steps,
            parallel=parallel,
        )
        self.turn = Turn("r1", self.policy, history_length=before)
        self.receive(Prompted("hi"))

    def receive(self, signal: Signal) -> Outcome:
        outcome = self.turn.receive(signal, now=1)
        self.run += outcome
        return outcome

    # -- what is open --------------------------------------------------------------------------------------------------

    @property
    def undecided(self) -> list[str]:
        """The approvalIds that wait for a decision."""
        required = [event.approval_id for event in self.run.events if isinstance(event, ApprovalRequired)]
        resolved = {event.approval_id for event in self.run.events if isinstance(event, ApprovalResolved)}
        return [approval_id for approval_id in required if approval_id not in resolved]

    @property
    def unanswered(self) -> list[str]:
        """The refs of the questions that wait for an answer."""
        asked = [event.ref for event in self.run.events if isinstance(event, AskUser)]
        return [ref for ref in asked if ref.removeprefix("ask_") in self._begun]

    @property
    def running(self) -> list[str]:
        """The callIds of the tools that run."""
        return [call_id for call_id in self._begun if f"ask_{call_id}" not in self.unanswered]

    @property
    def _begun(self) -> list[str]:
        starts = [event.call_id for event in self.run.events if isinstance(event, ToolExecutionStart)]
        ends = {event.call_id for event in self.run.events if isinstance(event, ToolExecutionEnd)}
        return [call_id for call_id in starts if call_id not in ends]

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(given=st.lists(pieces, min_size=1, max_size=4))
    def the_model_speaks(self, given: list[ThoughtArrived | TextArrived]) -> None:
        for piece in given:
            self.receive(piece)

    @rule(asked=st.lists(requests | questions, max_size=4), usage=usages, cost_usd=costs)
    def the_model_finishes(self, asked: list[ToolRequested], usage: TokenUsage, cost_usd: float) -> None:
        was_asked = self.turn.asking_model
        for request in asked:
            assert self.receive(request) == Outcome()

        outcome = self.receive(ModelFinished(usage, cost_usd))

        assert (outcome != Outcome()) == was_asked

    @rule(one=any_of_them, decision=st.sampled_from([Approved, Approved, Rejected, Expired]))
    def somebody_decides(self, one: int, decision: Decision) -> None:
        if undecided := self.undecided:
            approval_id = undecided[one % len(undecided)]
            call = self.turn.waiting_approval(approval_id)
            assert call is not None
            if decision is Approved:
                self.approved[call.id] = call.args

            outcome = self.receive(decision(approval_id))

            status = {Approved: "approved", Rejected: "rejected", Expired: "expired"}[decision]
            assert [event for event in outcome.events if isinstance(event, ApprovalResolved)] == [
                ApprovalResolved(approval_id, status)  # pyright: ignore[reportArgumentType]
            ]

    @rule(one=any_of_them, args=TOOL_ARGS)
    def somebody_approves_other_arguments(self, one: int, args: Args) -> None:
        """APP-3."""
        if undecided := self.undecided:
            approval_id = undecided[one % len(undecided)]
            self.approved[approval_id.removeprefix("apr_")] = args

            self.receive(Approved(approval_id, args))

    @rule(one=any_of_them, response=texts)
    def somebody_answers(self, one: int, response: str) -> None:
        if unanswered := self.unanswered:
            ref = unanswered[one % len(unanswered)]

            outcome = self.receive(Answered(ref, response))

            assert outcome.events[0] == ToolExecutionEnd("ask_user", ref.removeprefix("ask_"), "ok", response)

    @rule(
        prefix=st.sampled_from(["apr_", "ask_", ""]), call_id=call_ids, decision=st.sampled_from([Approved, Rejected])
    )
    def somebody_decides_what_does_not_wait(self, prefix: str, call_id: str, decision: Decision) -> None:
        """APP-2, ASK-1."""
        name = prefix + call_id
        if name not in self.undecided:
            with pytest.raises(ApprovalNotFound):
                self.receive(decision(name))
        if name not in self.unanswered:
            with pytest.raises(QuestionNotFound):
                self.receive(Answered(name, "left"))

    @rule(one=any_of_them, status=st.sampled_from(["ok", "error"]), result=texts)
    def a_tool_finishes(self, one: int, status: ToolStatus, result: str) -> None:
        if running := self.running:
            call_id = running[one % len(running)]

            ended = self.receive(ToolFinished(call_id, status, result)).events[0]

            assert isinstance(ended, ToolExecutionEnd)
            assert (ended.call_id, ended.status, ended.result) == (call_id, status, result)

    @rule(call_id=call_ids)
    def a_tool_that_does_not_run_finishes(self, call_id: str) -> None:
        if call_id not in self.running and f"ask_{call_id}" not in self.unanswered:
            assert self.receive(ToolFinished(call_id, "ok", "late")) == Outcome()

    @rule(name=st.sampled_from(["shell", "look", "fly"]))
    def a_tool_is_replaced(self, name: str) -> None:
        """APP-3."""
        waited = self.undecided if name == "shell" else []

        events = self.receive(ToolReplaced(name)).events

        assert [event for event in events if isinstance(event, ApprovalResolved)] == [
            ApprovalResolved(approval_id, "cancelled") for approval_id in waited
        ]

    @rule(signal=st.builds(ModelFailed, texts, usages, costs) | st.builds(BudgetRefused, texts))
    def the_model_call_comes_to_nothing(self, signal: Signal) -> None:
        ended, was_asked = self.turn.ended, self.turn.asking_model

        self.receive(signal)

        assert self.turn.ended == (ended or was_asked)

    @rule(usage=usages, cost_usd=costs)
    def somebody_aborts(self, usage: TokenUsage, cost_usd: float) -> None:
        ended = self.turn.ended

        outcome = self.receive(Aborted("aborted", usage=usage, cost_usd=cost_usd))

        assert self.turn.ended
        assert outcome.effects == (() if ended else (StopWork(),))

    @rule()
    def the_process_dies_and_another_takes_the_run_up(self) -> None:
        """DUR-2: what only waits for a person goes on waiting. All else is closed, and nothing is run again."""
        if self.turn.ended:
            return
        before = self.turn
        left = recover_run(
            self.run.messages,
            [
                LoggedEvent("e", seq, event.name, 0, encode_data(event, "r1"))
                for seq, event in enumerate(self.run.events)
            ],
            undecided={approval_id.removeprefix("apr_") for approval_id in self.undecided},
            unanswered={ref.removeprefix("ask_") for ref in self.unanswered},
        )
        self.turn = Turn(
            "r1",
            self.policy,
            history_length=self.bounds["before"] + len(self.run.messages),
            steps=before.steps,
            calls=before.calls,
            usage=self.run.usage,
            cost_usd=self.run.cost_usd,
            open_calls=left.open_calls,
            text=left.text,
        )
        assert left.blocked_on_user == self.turn.blocked_on_user == before.blocked_on_user
        assert self.turn.state == before.state
        if not left.blocked_on_user:
            outcome = self.receive(Aborted("interrupted", error="the process died"))
            assert not any(isinstance(effect, RunTool) for effect in outcome.effects)

    # -- what holds at any time ----------------------------------------------------------------------------------------

    @invariant()
    def it_says_what_it_waits_for(self) -> None:
        waits_for = "waiting_approval" if self.undecided else "waiting_input" if self.unanswered else "working"

        assert self.turn.state == waits_for
        assert self.turn.blocked_on_user == (waits_for != "working" and not self.running)

    @invariant()
    def it_asks_the_model_only_when_nothing_is_open_and_never_stands_still(self) -> None:
        open_ = bool(self.undecided or self.unanswered or self.running)

        assert self.turn.asking_model == (not open_ and not self.turn.ended)

    @invariant()
    def what_needs_a_person_runs_as_it_was_approved(self) -> None:
        """APP-1, APP-3."""
        for event in self.run.events:
            if isinstance(event, ToolExecutionStart) and event.tool_name == "shell":
                assert event.args == self.approved[event.call_id]

    def teardown(self) -> None:
        if not self.run.events:  # it was never prompted
            return
        if not self.turn.ended:
            self.receive(Aborted("aborted"))
        assert broken_rules(self.run, **self.bounds) == set()


TestTurn = TurnMachine.TestCase
TestTurn.settings = settings(max_examples=200, stateful_step_count=30)
