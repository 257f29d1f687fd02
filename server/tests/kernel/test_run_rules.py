"""`broken_rules`, the oracle of `test_turn_properties.py`, finds runs that are broken on purpose."""

from dataclasses import replace

import pytest
from cmdc_gateway.kernel.effects import AskModel, Outcome, RunTool
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
from cmdc_testkit.runs import broken_rules

C1, C2, C3, C4, C5 = CALLS = (
    ToolCall("c1", "look", {"n": 1}),
    ToolCall("c2", "shell", {"n": 2}),
    ToolCall("c3", "ask_user", {"question": "Why?"}),
    ToolCall("c4", "fly", {}),
    ToolCall("c5", "shell", {"n": 5}),
)
EVENTS: tuple[Event, ...] = (
    PromptReceived("hi"),  # 0
    AgentStart(),
    ThinkingStart(),
    ThinkingDelta("hm"),
    MessageStart(),
    MessageDelta("Hel"),  # 5
    MessageDelta("lo"),
    ToolCalls(5),
    RunError("this session has no tool 'fly'"),
    ToolExecutionStart("look", "c1", {"n": 1}),
    ApprovalRequired("apr_c2", "shell", {"n": 2}, "", 0, "c2", "", None),  # 10
    ToolExecutionStart("ask_user", "c3", {"question": "Why?"}),
    AskUser("ask_c3", "Why?", None),
    ApprovalRequired("apr_c5", "shell", {"n": 5}, "", 0, "c5", "", None),
    ToolExecutionEnd("look", "c1", "ok", "one"),
    ApprovalResolved("apr_c2", "approved"),  # 15
    ToolExecutionStart("shell", "c2", {"n": 2}),
    ApprovalResolved("apr_c5", "rejected"),
    ToolExecutionEnd("shell", "c2", "error", "two"),
    ToolExecutionEnd("ask_user", "c3", "ok", "three"),
    MessageStart(),  # 20
    MessageDelta("Done."),
    AgentEnd(9, LastMessage("assistant", "Done."), TokenUsage(5, 5), 0.5),
)
GOOD = Outcome(
    events=EVENTS,
    messages=(
        user("hi"),
        assistant("Hello", CALLS),
        tool_result(C4, "this session has no tool 'fly'", is_error=True),
        tool_result(C1, "one", is_error=False),
        tool_result(C5, "rejected", is_error=True),
        tool_result(C2, "two", is_error=True),
        tool_result(C3, "three", is_error=False),
        assistant("Done."),
    ),
    effects=(AskModel(), RunTool(C1), RunTool(C2), AskModel()),
    usage=TokenUsage(5, 5),
    cost_usd=0.5,
)


def with_event(index: int, *instead: Event) -> Outcome:
    """The good run with one event replaced by others."""
    return replace(GOOD, events=(*EVENTS[:index], *instead, *EVENTS[index + 1 :]))


def with_event_moved(index: int, to: int) -> Outcome:
    events = list(EVENTS)
    events.insert(to, events.pop(index))
    return replace(GOOD, events=tuple(events))


def broken_by(run: Outcome) -> set[str]:
    return broken_rules(run, before=1)


def test_a_correct_run_breaks_no_rule() -> None:
    assert broken_by(GOOD) == set()


@pytest.mark.parametrize("index", [n for n, event in enumerate(EVENTS) if not isinstance(event, RunError)])
def test_a_missing_event_is_detected(index: int) -> None:
    """Except for an `error`, which is optional."""
    assert broken_by(with_event(index))


@pytest.mark.parametrize(
    "index", [n for n, event in enumerate(EVENTS) if not isinstance(event, RunError | ThinkingDelta)]
)
def test_a_repeated_event_is_detected(index: int) -> None:
    """Except for an `error`, and for reasoning, which no message records."""
    assert broken_by(with_event(index, EVENTS[index], EVENTS[index]))


@pytest.mark.parametrize("index", range(len(GOOD.messages)))
def test_a_missing_or_repeated_message_is_detected(index: int) -> None:
    message, *rest = GOOD.messages[index:]

    assert broken_by(replace(GOOD, messages=(*GOOD.messages[:index], *rest)))
    assert broken_by(replace(GOOD, messages=(*GOOD.messages[:index], message, message, *rest)))


END = AgentEnd(9, LastMessage("assistant", "Done."), TokenUsage(5, 5), 0.5)
BROKEN: dict[str, tuple[Outcome, str]] = {
    "a block that opens twice": (with_event(6, MessageStart(), EVENTS[6]), "EVT-1"),
    "text after the tool calls": (with_event_moved(6, 7), "EVT-1"),
    "a start before its approval": (with_event_moved(16, 15), "EVT-1"),
    "an end before its start": (with_event_moved(14, 9), "EVT-1"),
    "a question of a call that has not started": (with_event_moved(12, 11), "EVT-1"),
    "a call that comes in a later step": (with_event_moved(17, 21), "EVT-1"),
    "a result after the next step has started": (with_event_moved(19, 20), "EVT-4"),
    "more calls than were counted": (with_event(7, ToolCalls(4)), "EVT-1"),
    "fewer calls than were counted": (with_event(7, ToolCalls(6)), "EVT-1"),
    "an error after the end": (with_event_moved(8, 22), "EVT-2"),
    "two ends": (with_event(22, END, AgentAbort("aborted")), "EVT-2"),
    "no end": (with_event(22), "EVT-2"),
    "a failure without its error": (with_event(22, AgentAbort("error")), "EVT-2"),
    "text that differs from what was published": (with_event(21, MessageDelta("Dome.")), "EVT-3"),
    "another last message": (with_event(22, replace(END, last_message=LastMessage("assistant", "Hello"))), "EVT-3"),
    "no last message": (with_event(22, replace(END, last_message=None)), "EVT-3"),
    "an aborted run whose text is lost": (
        replace(with_event(22, AgentAbort("aborted")), messages=GOOD.messages[:-1]),
        "EVT-3",
    ),
    "a tool that runs without an event": (replace(GOOD, effects=(*GOOD.effects, RunTool(C5))), "EVT-4"),
    "a tool that does not run": (replace(GOOD, effects=(RunTool(C1),)), "EVT-4"),
    "a tool that runs with other arguments than published": (
        replace(GOOD, effects=(RunTool(C1), RunTool(replace(C2, args={"n": 3})))),
        "EVT-4",
    ),
    "a rejected call that runs": (with_event(15, ApprovalResolved("apr_c2", "rejected")), "EVT-1"),
    "two results of one call": (with_event(18, EVENTS[18], EVENTS[18]), "EVT-4"),
    "a call that is left running": (with_event(18), "EVT-9"),
    "an approval that is left open": (with_event(17), "EVT-9"),
    "two decisions": (with_event(17, EVENTS[17], ApprovalResolved("apr_c5", "expired")), "APP-2"),
    "a result that differs from its event": (
        with_event(18, ToolExecutionEnd("shell", "c2", "error", "2")),
        "EP-messages",
    ),
    "a failure that is published as a success": (
        with_event(18, ToolExecutionEnd("shell", "c2", "ok", "two")),
        "EP-messages",
    ),
    "a wrong count of messages": (with_event(22, replace(END, message_count=8)), "messageCount"),
    "tokens counted twice": (replace(GOOD, usage=TokenUsage(10, 10)), "MTR-1"),
    "money counted twice": (replace(GOOD, cost_usd=1.0), "MTR-1"),
}


@pytest.mark.parametrize(("run", "rule"), BROKEN.values(), ids=BROKEN)
def test_the_broken_rule_is_named(run: Outcome, rule: str) -> None:
    assert rule in broken_by(run)


def test_an_aborted_run_may_stop_before_any_text() -> None:
    run = Outcome((PromptReceived("hi"), AgentStart(), AgentAbort("aborted")), (user("hi"),), (AskModel(),))

    assert broken_rules(run) == set()


def test_too_many_parallel_tools_are_detected() -> None:
    overlapping = with_event_moved(14, 16)

    assert broken_rules(overlapping, before=1, parallel=2) == set()
    assert broken_rules(overlapping, before=1, parallel=1) == {"parallel"}


def test_too_many_steps_are_detected() -> None:
    assert broken_rules(GOOD, before=1, max_steps=2) == set()
    assert broken_rules(GOOD, before=1, max_steps=1) == {"maxTurns"}
