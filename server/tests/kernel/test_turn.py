"""The events, messages and effects of a run, case by case; `test_turn_properties.py` covers arbitrary orders."""

import asyncio

import pytest
from cmdc_gateway.errors import ApprovalNotFound, QuestionNotFound
from cmdc_gateway.kernel.effects import AskModel, Outcome, RunTool, StopWork, publish
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
    AgentAbort,
    AgentEnd,
    AgentStart,
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    Event,
    LastMessage,
    MessageDelta,
    MessageStart,
    PromptReceived,
    RunError,
    ThinkingDelta,
    ThinkingStart,
    ToolCalls,
    ToolExecutionEnd,
    ToolExecutionStart,
)
from cmdc_gateway.protocol.history import TokenUsage, ToolCall, assistant, tool_result, user
from pydantic import JsonValue

NOW = 1_700_000_000_000
USAGE = TokenUsage(7, 3)
LOOK = ToolCall("call_r1_1", "look", {"at": "sky"})
SHELL = ToolCall("call_r1_1", "shell", {"command": "ls"})
ASK = ToolCall("call_r1_1", "ask_user", {"question": "Which?", "options": ["left", "right"]})


def call_error(name: str, args: dict[str, JsonValue]) -> str | None:
    if name not in ("look", "shell", "ask_user"):
        return f"this session has no tool {name!r}"
    return None if "bad" not in args else "bad is not allowed"


def rules(*, approval_ms: int = 0, max_steps: int = 100, parallel: int = 8) -> Rules:
    return Rules(
        call_error=call_error,
        requires_approval=lambda name: name == "shell",
        digest=lambda call: f"digest of {call.id}",
        approval_ms=approval_ms,
        max_steps=max_steps,
        parallel=parallel,
    )


def turn_after(*signals: Signal, under: Rules | None = None, history_length: int = 0) -> Turn:
    """A turn that has received these signals."""
    turn = Turn("r1", under or rules(), history_length=history_length)
    for signal in (Prompted("hi"), *signals):
        turn.receive(signal, NOW)
    return turn


def step_requesting(*calls: ToolCall) -> list[Signal]:
    """The signals of a step in which the model requests these tool calls."""
    return [*(ToolRequested(call.name, call.args) for call in calls), ModelFinished(USAGE)]


def started(call: ToolCall) -> ToolExecutionStart:
    return ToolExecutionStart(call.name, call.id, call.args)


def ended(call: ToolCall, result: str, status: str = "ok") -> ToolExecutionEnd:
    return ToolExecutionEnd(call.name, call.id, "ok" if status == "ok" else "error", result)


def required(call: ToolCall, *, expires_at: int | None = None) -> ApprovalRequired:
    return ApprovalRequired(
        approval_id=f"apr_{call.id}",
        tool_name="shell",
        args=call.args,
        hint='shell {"command":"ls"}',
        requested_at=NOW,
        call_id=call.id,
        digest=f"digest of {call.id}",
        expires_at=expires_at,
    )


# -- model calls -------------------------------------------------------------------------------------------------------


def test_a_prompt_starts_the_run_and_calls_the_model() -> None:
    outcome = Turn("r1", rules()).receive(Prompted("hi"), NOW)

    assert outcome == Outcome((PromptReceived("hi"), AgentStart()), (user("hi"),), (AskModel(),))


def test_chunks_of_one_kind_share_a_block_and_each_change_of_kind_opens_another() -> None:
    """EVT-1."""
    turn = turn_after()
    chunks = [ThoughtArrived("a"), ThoughtArrived("b"), TextArrived("c"), TextArrived("d"), ThoughtArrived("e")]

    events = [event for chunk in chunks for event in turn.receive(chunk, NOW).events]

    assert events == [
        ThinkingStart(),
        ThinkingDelta("a"),
        ThinkingDelta("b"),
        MessageStart(),
        MessageDelta("c"),
        MessageDelta("d"),
        ThinkingStart(),
        ThinkingDelta("e"),
    ]


@pytest.mark.parametrize("chunk", [TextArrived(""), ThoughtArrived("")])
def test_an_empty_chunk_opens_no_block(chunk: Signal) -> None:
    """EVT-1: a delta is a non-empty string."""
    assert turn_after().receive(chunk, NOW) == Outcome()


def test_a_new_step_opens_its_own_block() -> None:
    """EVT-1."""
    turn = turn_after(TextArrived("Hm."), *step_requesting(LOOK), ToolFinished(LOOK.id, "ok", "blue"))

    assert turn.receive(TextArrived("Blue."), NOW) == publish(MessageStart(), MessageDelta("Blue."))


def test_text_without_tool_calls_ends_the_run_with_that_text() -> None:
    """EVT-3. `messageCount` includes the messages from before the run."""
    turn = turn_after(TextArrived("Hel"), ThoughtArrived("?"), TextArrived("lo"), history_length=5)

    outcome = turn.receive(ModelFinished(USAGE, 0.25), NOW)

    end = AgentEnd(message_count=7, last_message=LastMessage("assistant", "Hello"), token_usage=USAGE, cost_usd=0.25)
    assert outcome == Outcome((end,), (assistant("Hello"),), (), USAGE, 0.25)
    assert turn.ended


def test_an_empty_answer_is_an_empty_message() -> None:
    """EVT-3, EP-messages: content may be empty."""
    outcome = turn_after().receive(ModelFinished(USAGE), NOW)

    assert outcome.messages == (assistant(""),)
    assert outcome.events == (AgentEnd(2, LastMessage("assistant", ""), USAGE, 0.0),)


def test_the_last_message_holds_only_the_text_of_the_last_step() -> None:
    """EVT-3. Usage is that of the whole run."""
    turn = turn_after(TextArrived("Let me look."), *step_requesting(LOOK), ToolFinished(LOOK.id, "ok", "blue"))

    outcome = turn.receive(TextArrived("Blue."), NOW) + turn.receive(ModelFinished(USAGE), NOW)

    assert outcome.messages == (assistant("Blue."),)
    assert outcome.events[-1] == AgentEnd(4, LastMessage("assistant", "Blue."), USAGE + USAGE, 0.0)


def test_a_failed_model_call_ends_the_run_and_keeps_the_published_text() -> None:
    """EVT-2, EP-messages, MTR-1."""
    turn = turn_after(TextArrived("Hel"))

    outcome = turn.receive(ModelFailed("the model is gone", USAGE, 0.25), NOW)

    assert outcome == Outcome(
        (RunError("the model is gone"), AgentAbort("error")), (assistant("Hel"),), (), USAGE, 0.25
    )


def test_an_exhausted_budget_ends_the_run() -> None:
    """MTR-2."""
    outcome = turn_after().receive(BudgetRefused("the budget is spent"), NOW)

    assert outcome == publish(RunError("the budget is spent"), AgentAbort("budget_exceeded"))


def test_a_run_ends_when_it_needs_more_steps_than_allowed() -> None:
    """`maxTurns`. The result of the last tool call is still published."""
    turn = turn_after(*step_requesting(LOOK), under=rules(max_steps=1))

    outcome = turn.receive(ToolFinished(LOOK.id, "ok", "blue"), NOW)

    assert outcome == Outcome(
        (ended(LOOK, "blue"), AgentAbort("max_turns_exceeded")), (tool_result(LOOK, "blue", is_error=False),)
    )


# -- tool calls --------------------------------------------------------------------------------------------------------


def test_a_call_without_approval_starts_when_the_step_finishes() -> None:
    turn = turn_after(TextArrived("Let me look."), ToolRequested("look", {"at": "sky"}))

    outcome = turn.receive(ModelFinished(USAGE), NOW)

    assert outcome == Outcome(
        (ToolCalls(1), started(LOOK)), (assistant("Let me look.", (LOOK,)),), (RunTool(LOOK),), USAGE
    )


def test_the_model_is_called_again_once_every_call_has_a_result() -> None:
    second = ToolCall("call_r1_2", "look", {"at": "sea"})
    turn = turn_after(*step_requesting(LOOK, second))

    first_done = turn.receive(ToolFinished(second.id, "error", "too dark"), NOW)
    both_done = turn.receive(ToolFinished(LOOK.id, "ok", "blue"), NOW)

    assert first_done == Outcome(
        (ended(second, "too dark", "error"),), (tool_result(second, "too dark", is_error=True),)
    )
    assert both_done == Outcome((ended(LOOK, "blue"),), (tool_result(LOOK, "blue", is_error=False),), (AskModel(),))


def test_the_number_of_parallel_tools_is_limited() -> None:
    calls = [ToolCall(f"call_r1_{n}", "look", {"n": n}) for n in (1, 2, 3)]
    turn = turn_after(under=rules(parallel=2))

    first, *_, asked = [turn.receive(signal, NOW) for signal in step_requesting(*calls)]
    one_done = turn.receive(ToolFinished("call_r1_2", "ok", ""), NOW)

    assert first == Outcome()
    assert asked.effects == (RunTool(calls[0]), RunTool(calls[1]))
    assert one_done.events == (ended(calls[1], ""), started(calls[2]))
    assert one_done.effects == (RunTool(calls[2]),)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ToolRequested("fly", {}), "this session has no tool 'fly'"),
        (ToolRequested("look", {"bad": 1}), "bad is not allowed"),
        (ToolRequested("shell", {"bad": 1}), "bad is not allowed"),
        (ToolRequested("look", {}, error="the arguments are not JSON"), "the arguments are not JSON"),
    ],
)
def test_an_invalid_call_emits_an_error_and_reports_it_to_the_model(request_: ToolRequested, error: str) -> None:
    """EVT-1: `error` and no other event; CB-2: invalid arguments never reach a receiver."""
    outcome = turn_after(request_).receive(ModelFinished(USAGE), NOW)

    call = ToolCall("call_r1_1", request_.name, request_.args)
    assert outcome == Outcome(
        (ToolCalls(1), RunError(error)),
        (assistant("", (call,)), tool_result(call, error, is_error=True)),
        (AskModel(),),
        USAGE,
    )


def test_call_ids_are_numbered_across_the_steps_of_a_run() -> None:
    """EVT-4: callIds are unique in a session."""
    turn = turn_after(*step_requesting(LOOK), ToolFinished(LOOK.id, "ok", "blue"), ToolRequested("look", {}))

    assert turn.receive(ModelFinished(USAGE), NOW).effects == (RunTool(ToolCall("call_r1_2", "look", {})),)


# -- approvals and questions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("approval_ms", "expires_at"), [(0, None), (5_000, NOW + 5_000)])
def test_a_call_that_requires_approval_waits(approval_ms: int, expires_at: int | None) -> None:
    """APP-1."""
    turn = turn_after(ToolRequested("shell", {"command": "ls"}), under=rules(approval_ms=approval_ms))

    outcome = turn.receive(ModelFinished(USAGE), NOW)

    assert outcome.events == (ToolCalls(1), required(SHELL, expires_at=expires_at))
    assert outcome.effects == ()
    assert (turn.state, turn.blocked_on_user) == ("waiting_approval", True)
    assert turn.waiting_approval("apr_call_r1_1") == SHELL


def test_an_approved_call_runs() -> None:
    """APP-1."""
    outcome = turn_after(*step_requesting(SHELL)).receive(Approved("apr_call_r1_1"), NOW)

    assert outcome == Outcome(
        (ApprovalResolved("apr_call_r1_1", "approved"), started(SHELL)), effects=(RunTool(SHELL),)
    )


def test_an_approved_call_runs_with_the_edited_arguments() -> None:
    """APP-3."""
    outcome = turn_after(*step_requesting(SHELL)).receive(Approved("apr_call_r1_1", {"command": "pwd"}), NOW)

    edited = ToolCall(SHELL.id, "shell", {"command": "pwd"})
    assert outcome.events[-1] == started(edited)
    assert outcome.effects == (RunTool(edited),)


def test_an_approved_call_waits_for_a_free_slot() -> None:
    shell = ToolCall("call_r1_2", "shell", {"command": "ls"})
    turn = turn_after(*step_requesting(LOOK, shell), under=rules(parallel=1))

    approved = turn.receive(Approved("apr_call_r1_2"), NOW)
    state = turn.state
    slot_free = turn.receive(ToolFinished(LOOK.id, "ok", "blue"), NOW)

    assert approved == publish(ApprovalResolved("apr_call_r1_2", "approved"))
    assert state == "working"
    assert slot_free.events == (ended(LOOK, "blue"), started(shell))


def test_an_approved_call_that_is_still_waiting_for_a_slot_does_not_run_after_an_abort() -> None:
    """EVT-9."""
    shell = ToolCall("call_r1_2", "shell", {"command": "ls"})
    turn = turn_after(*step_requesting(LOOK, shell), Approved("apr_call_r1_2"), under=rules(parallel=1))

    outcome = turn.receive(Aborted("aborted"), NOW)

    assert outcome.events == (ended(LOOK, "Stopped: aborted.", "error"), AgentAbort("aborted"))
    assert outcome.messages[-1] == tool_result(shell, "Stopped: aborted.", is_error=True)


@pytest.mark.parametrize(
    ("decision", "status", "result"),
    [
        (Rejected("apr_call_r1_1"), "rejected", "The user rejected this call."),
        (Rejected("apr_call_r1_1", "not here"), "rejected", "The user rejected this call. Reason: not here"),
        (ApprovalExpired("apr_call_r1_1"), "expired", "This call was not approved in time."),
        (ToolReplaced("shell"), "cancelled", "The tool was replaced before this call was approved."),
    ],
)
def test_a_call_that_was_not_approved_never_runs_and_the_run_continues(
    decision: Signal, status: str, result: str
) -> None:
    """APP-1, APP-3, EVT-4."""
    turn = turn_after(*step_requesting(SHELL))

    outcome = turn.receive(decision, NOW)

    (resolved,) = outcome.events
    assert isinstance(resolved, ApprovalResolved)
    assert (resolved.approval_id, resolved.status) == ("apr_call_r1_1", status)
    assert outcome.messages == (tool_result(SHELL, result, is_error=True),)
    assert outcome.effects == (AskModel(),)


def test_replacing_another_tool_cancels_nothing() -> None:
    """APP-3."""
    turn = turn_after(*step_requesting(SHELL))

    assert turn.receive(ToolReplaced("look"), NOW) == Outcome()
    assert turn.state == "waiting_approval"


@pytest.mark.parametrize(
    "decision",
    [Approved("apr_call_r1_1"), Rejected("apr_call_r1_1"), ApprovalExpired("apr_call_r1_1"), Approved("call_r1_1")],
)
def test_only_a_pending_approval_can_be_decided(decision: Signal) -> None:
    """APP-2."""
    turn = turn_after(*step_requesting(SHELL), Approved("apr_call_r1_1"))

    with pytest.raises(ApprovalNotFound):
        turn.receive(decision, NOW)


def test_a_question_is_published_and_its_answer_becomes_the_result() -> None:
    """ASK-1."""
    turn = turn_after(ToolRequested("ask_user", ASK.args))

    asked = turn.receive(ModelFinished(USAGE), NOW)

    assert asked.events == (ToolCalls(1), started(ASK), AskUser("ask_call_r1_1", "Which?", ["left", "right"]))
    assert asked.effects == ()
    assert (turn.state, turn.blocked_on_user, turn.waiting_input("ask_call_r1_1")) == ("waiting_input", True, ASK)
    assert turn.receive(Answered("ask_call_r1_1", "left"), NOW) == Outcome(
        (ended(ASK, "left"),), (tool_result(ASK, "left", is_error=False),), (AskModel(),)
    )


def test_a_question_without_options_has_none() -> None:
    """EVT-5: options is an array or null."""
    outcome = turn_after(ToolRequested("ask_user", {"question": "Why?"})).receive(ModelFinished(USAGE), NOW)

    assert outcome.events[-1] == AskUser("ask_call_r1_1", "Why?", None)


@pytest.mark.parametrize("ref", ["ask_call_r1_1", "ask_call_r1_9", "call_r1_1", ""])
def test_only_an_open_question_can_be_answered(ref: str) -> None:
    """ASK-1."""
    turn = turn_after(*step_requesting(ASK), Answered("ask_call_r1_1", "left"))

    with pytest.raises(QuestionNotFound):
        turn.receive(Answered(ref, "left"), NOW)


def test_a_run_with_a_running_tool_is_not_blocked_on_the_user() -> None:
    """DUR-3: only a run that is blocked on the user does not delay shutdown."""
    turn = turn_after(*step_requesting(SHELL, LOOK))

    assert (turn.state, turn.blocked_on_user) == ("waiting_approval", False)


@pytest.mark.parametrize(("length", "hint_length"), [(180, 200), (181, 200), (500, 200)])
def test_a_hint_has_a_maximum_length(length: int, hint_length: int) -> None:
    turn = turn_after(ToolRequested("shell", {"command": "x" * length}))

    *_, event = turn.receive(ModelFinished(USAGE), NOW).events

    assert isinstance(event, ApprovalRequired)
    assert event.hint.startswith('shell {"command":"xxx')
    assert len(event.hint) == hint_length
    assert event.hint.endswith("…") == (length > 180)


# -- end of the run ----------------------------------------------------------------------------------------------------


def test_an_aborted_run_closes_its_open_calls() -> None:
    """EVT-9, EVT-2."""
    look, shell, ask, waiting = (
        ToolCall("call_r1_1", "look", {}),
        ToolCall("call_r1_2", "shell", {"command": "ls"}),
        ToolCall("call_r1_3", "ask_user", {"question": "Which?"}),
        ToolCall("call_r1_4", "look", {}),
    )
    turn = turn_after(*step_requesting(look, shell, ask, waiting), under=rules(parallel=1))

    outcome = turn.receive(Aborted("tea time"), NOW)

    assert outcome == Outcome(
        (
            ended(look, "Stopped: tea time.", "error"),
            ApprovalResolved("apr_call_r1_2", "cancelled"),
            ended(ask, "Stopped: tea time.", "error"),
            AgentAbort("tea time"),
        ),
        tuple(tool_result(call, "Stopped: tea time.", is_error=True) for call in (look, shell, ask, waiting)),
        (StopWork(),),
    )


def test_an_abort_keeps_the_published_text_and_counts_its_usage() -> None:
    """EP-messages, MTR-1; DUR-2: an interruption is published as an error."""
    turn = turn_after(TextArrived("Hel"), TextArrived("lo"))

    outcome = turn.receive(Aborted("interrupted", error="the server stopped", usage=USAGE, cost_usd=0.25), NOW)

    assert outcome == Outcome(
        (RunError("the server stopped"), AgentAbort("interrupted")), (assistant("Hello"),), (StopWork(),), USAGE, 0.25
    )


AFTER_THE_END: list[Signal] = [
    Prompted("again"),
    ThoughtArrived("x"),
    TextArrived("x"),
    ToolRequested("look", {}),
    ModelFinished(USAGE, 1.0),
    ModelFailed("x", USAGE),
    BudgetRefused("x"),
    ToolReplaced("shell"),
    ToolFinished(LOOK.id, "ok", "blue"),
    Aborted("again", usage=USAGE),
]


@pytest.mark.parametrize("signal", AFTER_THE_END, ids=lambda signal: type(signal).__name__)
def test_a_run_ignores_signals_after_its_end(signal: Signal) -> None:
    """EVT-2."""
    assert turn_after(*step_requesting(LOOK), Aborted("aborted")).receive(signal, NOW) == Outcome()


FROM_A_MODEL_CALL_THAT_IS_OVER: list[Signal] = [
    ThoughtArrived("x"),
    TextArrived("x"),
    ToolRequested("look", {}),
    ModelFinished(USAGE, 1.0),
    ModelFailed("x", USAGE),
    BudgetRefused("x"),
]


@pytest.mark.parametrize("signal", FROM_A_MODEL_CALL_THAT_IS_OVER, ids=lambda signal: type(signal).__name__)
def test_a_run_ignores_a_model_call_that_is_over(signal: Signal) -> None:
    """EVT-1: a step ends with its tool calls."""
    turn = turn_after(*step_requesting(LOOK))

    assert turn.receive(signal, NOW) == Outcome()
    assert turn.receive(ToolFinished(LOOK.id, "ok", "blue"), NOW).effects == (AskModel(),)


@pytest.mark.parametrize("call_id", ["call_r1_1", "call_r1_2", "call_r1_7", ""])
def test_a_result_counts_once_and_only_for_a_running_tool(call_id: str) -> None:
    """EVT-4. Call 1 is finished, call 2 waits for approval, call 7 does not exist."""
    shell = ToolCall("call_r1_2", "shell", {"command": "ls"})
    turn = turn_after(*step_requesting(LOOK, shell), ToolFinished(LOOK.id, "ok", "blue"))

    assert turn.receive(ToolFinished(call_id, "ok", "again"), NOW) == Outcome()


def test_a_turn_needs_no_event_loop() -> None:
    """A turn is synchronous and reads no clock."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    events: list[Event] = []
    turn = Turn("r1", rules())

    for signal in (
        Prompted("hi"),
        *step_requesting(SHELL),
        Approved("apr_call_r1_1"),
        ToolFinished(SHELL.id, "ok", ""),
    ):
        events += turn.receive(signal, NOW).events
    events += turn.receive(ModelFinished(USAGE), NOW).events

    assert isinstance(events[-1], AgentEnd)
