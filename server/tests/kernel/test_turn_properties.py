"""A run keeps the rules of the protocol whatever signals it receives, in whatever order."""

from typing import TypedDict

import pytest
from cmdc_gateway.errors import ApprovalNotFound, QuestionNotFound
from cmdc_gateway.kernel.effects import Outcome, RunTool, StopWork
from cmdc_gateway.kernel.recovery import recover_run
from cmdc_gateway.kernel.signals import (
    Aborted,
    Answered,
    ApprovalExpired,
    Approved,
    BudgetRefused,
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
Decision = type[Approved] | type[Rejected] | type[ApprovalExpired]

TOOL_ARGS: st.SearchStrategy[Args] = st.sampled_from([{}, {"n": 1}, {"n": 2}, {"bad": True}])
QUESTIONS: st.SearchStrategy[Args] = st.sampled_from(
    [{"question": "Why?"}, {"question": "Which?", "options": ["left", "right"]}, {"bad": True}]
)
ERRORS = st.sampled_from([None, None, None, "this is not JSON"])

texts = st.text(max_size=3)
chunks = st.builds(ThoughtArrived, texts) | st.builds(TextArrived, texts)
requests = st.builds(ToolRequested, st.sampled_from(["look", "look", "shell", "shell", "fly"]), TOOL_ARGS, ERRORS)
questions = st.builds(ToolRequested, st.just("ask_user"), QUESTIONS, ERRORS)
usages = st.builds(TokenUsage, st.integers(0, 100), st.integers(0, 100))
costs = st.sampled_from([0.0, 0.25, 1.5])  # sums of these are exact
any_of_them = st.integers(0, 7)
call_ids = st.sampled_from(["call_r1_1", "call_r1_2", "call_r1_3", "call_r1_99", ""])


class Bounds(TypedDict):
    before: int
    parallel: int
    max_steps: int


class TurnMachine(RuleBasedStateMachine):
    """Sends arbitrary signals to a run. What is open is derived from the events of the run itself."""

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
            call_error=lambda name, args: "it cannot be called so" if name == "fly" or "bad" in args else None,
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

    # -- open calls ----------------------------------------------------------------------------------------------------

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
        return [ref for ref in asked if ref.removeprefix("ask_") in self._started]

    @property
    def running(self) -> list[str]:
        """The callIds of the running tools."""
        return [call_id for call_id in self._started if f"ask_{call_id}" not in self.unanswered]

    @property
    def _started(self) -> list[str]:
        starts = [event.call_id for event in self.run.events if isinstance(event, ToolExecutionStart)]
        ends = {event.call_id for event in self.run.events if isinstance(event, ToolExecutionEnd)}
        return [call_id for call_id in starts if call_id not in ends]

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(given=st.lists(chunks, min_size=1, max_size=4))
    def text_arrives(self, given: list[ThoughtArrived | TextArrived]) -> None:
        for chunk in given:
            self.receive(chunk)

    @rule(asked=st.lists(requests | questions, max_size=4), usage=usages, cost_usd=costs)
    def the_model_finishes(self, asked: list[ToolRequested], usage: TokenUsage, cost_usd: float) -> None:
        model_was_called = self.turn.asking_model
        for request in asked:
            assert self.receive(request) == Outcome()

        outcome = self.receive(ModelFinished(usage, cost_usd))

        assert (outcome != Outcome()) == model_was_called

    @rule(one=any_of_them, decision=st.sampled_from([Approved, Approved, Rejected, ApprovalExpired]))
    def the_user_decides(self, one: int, decision: Decision) -> None:
        if undecided := self.undecided:
            approval_id = undecided[one % len(undecided)]
            call = self.turn.waiting_approval(approval_id)
            assert call is not None
            if decision is Approved:
                self.approved[call.id] = call.args

            outcome = self.receive(decision(approval_id))

            status = {Approved: "approved", Rejected: "rejected", ApprovalExpired: "expired"}[decision]
            assert [event for event in outcome.events if isinstance(event, ApprovalResolved)] == [
                ApprovalResolved(approval_id, status)  # pyright: ignore[reportArgumentType]
            ]

    @rule(one=any_of_them, args=TOOL_ARGS)
    def the_user_approves_other_arguments(self, one: int, args: Args) -> None:
        """APP-3."""
        if undecided := self.undecided:
            approval_id = undecided[one % len(undecided)]
            self.approved[approval_id.removeprefix("apr_")] = args

            self.receive(Approved(approval_id, args))

    @rule(one=any_of_them, response=texts)
    def the_user_answers(self, one: int, response: str) -> None:
        if unanswered := self.unanswered:
            ref = unanswered[one % len(unanswered)]

            outcome = self.receive(Answered(ref, response))

            assert outcome.events[0] == ToolExecutionEnd("ask_user", ref.removeprefix("ask_"), "ok", response)

    @rule(
        prefix=st.sampled_from(["apr_", "ask_", ""]), call_id=call_ids, decision=st.sampled_from([Approved, Rejected])
    )
    def the_user_decides_something_that_is_not_pending(self, prefix: str, call_id: str, decision: Decision) -> None:
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
    def a_tool_that_is_not_running_finishes(self, call_id: str) -> None:
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
    def the_model_call_fails(self, signal: Signal) -> None:
        ended, model_was_called = self.turn.ended, self.turn.asking_model

        self.receive(signal)

        assert self.turn.ended == (ended or model_was_called)

    @rule(usage=usages, cost_usd=costs)
    def the_user_aborts(self, usage: TokenUsage, cost_usd: float) -> None:
        ended = self.turn.ended

        outcome = self.receive(Aborted("aborted", usage=usage, cost_usd=cost_usd))

        assert self.turn.ended
        assert outcome.effects == (() if ended else (StopWork(),))

    @rule()
    def the_process_dies_and_another_resumes_the_run(self) -> None:
        """DUR-2: a run blocked on the user keeps waiting; any other is ended, and no tool runs twice."""
        if self.turn.ended:
            return
        before = self.turn
        recovered = recover_run(
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
            open_calls=recovered.open_calls,
            text=recovered.text,
        )
        assert recovered.blocked_on_user == self.turn.blocked_on_user == before.blocked_on_user
        assert self.turn.state == before.state
        if not recovered.blocked_on_user:
            outcome = self.receive(Aborted("interrupted", error="the process died"))
            assert not any(isinstance(effect, RunTool) for effect in outcome.effects)

    # -- invariants --------------------------------------------------------------------------------------------------

    @invariant()
    def its_state_says_what_it_waits_for(self) -> None:
        waits_for = "waiting_approval" if self.undecided else "waiting_input" if self.unanswered else "working"

        assert self.turn.state == waits_for
        assert self.turn.blocked_on_user == (waits_for != "working" and not self.running)

    @invariant()
    def it_calls_the_model_exactly_when_nothing_is_open(self) -> None:
        open_ = bool(self.undecided or self.unanswered or self.running)

        assert self.turn.asking_model == (not open_ and not self.turn.ended)

    @invariant()
    def a_call_that_requires_approval_runs_as_approved(self) -> None:
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
