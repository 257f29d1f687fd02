"""Reconstruction of an unfinished run from what was committed (DUR-2)."""

import pytest
from cmdc_gateway.kernel.recovery import RecoveredRun, recover_run
from cmdc_gateway.kernel.turn import OpenCall
from cmdc_gateway.protocol.events import (
    AgentStart,
    AskUser,
    Event,
    MessageDelta,
    MessageStart,
    PromptReceived,
    ThinkingDelta,
    ToolCalls,
    ToolExecutionStart,
    encode_data,
)
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message, ToolCall, assistant, tool_result, user

LOOK, SHELL, ASK, LATE = CALLS = (
    ToolCall("c1", "look", {}),
    ToolCall("c2", "shell", {}),
    ToolCall("c3", "ask_user", {"question": "Why?"}),
    ToolCall("c4", "look", {}),
)
STARTED = (
    PromptReceived("hi"),
    AgentStart(),
    MessageStart(),
    MessageDelta("Let me see."),
    ToolCalls(4),
    ToolExecutionStart("look", "c1", {}),
    ToolExecutionStart("ask_user", "c3", {"question": "Why?"}),
    AskUser("ask_c3", "Why?", None),
)


def logged(*events: Event) -> list[LoggedEvent]:
    return [LoggedEvent("e", seq, event.name, 0, encode_data(event, "r1")) for seq, event in enumerate(events, 1)]


def recovered(messages: list[Message], *events: Event, undecided: str = "", unanswered: str = "") -> RecoveredRun:
    return recover_run(messages, logged(*events), undecided={*undecided.split()}, unanswered={*unanswered.split()})


def test_every_call_without_a_result_is_open_in_its_last_stage() -> None:
    run = recovered([user("hi"), assistant("Let me see.", CALLS)], *STARTED, undecided="c2", unanswered="c3")

    assert run.open_calls == (
        OpenCall(LOOK, "running"),
        OpenCall(SHELL, "waiting_approval"),
        OpenCall(ASK, "waiting_input"),
        OpenCall(LATE, "ready"),
    )
    assert run.text == ""


def test_a_call_with_a_result_is_not_open() -> None:
    history = [user("hi"), assistant("", CALLS), *(tool_result(call, "", is_error=False) for call in (LOOK, LATE))]

    run = recovered(history, *STARTED, undecided="c2", unanswered="c3")

    assert [item.call for item in run.open_calls] == [SHELL, ASK]


def test_calls_of_an_earlier_step_are_ignored() -> None:
    """An earlier step has all its results; otherwise the later one could not have started."""
    history = [
        user("hi"),
        assistant("", (LOOK,)),
        tool_result(LOOK, "", is_error=False),
        assistant("", (SHELL,)),
    ]

    assert recovered(history, *STARTED).open_calls == (OpenCall(SHELL, "ready"),)


@pytest.mark.parametrize("history", [[], [user("hi")], [assistant("", CALLS), user("hi")]])
def test_a_run_without_tool_calls_has_no_open_calls(history: list[Message]) -> None:
    assert recovered(history, *STARTED[:2]) == RecoveredRun((), "")


def test_text_that_is_not_in_a_message_yet_is_kept() -> None:
    """EP-messages: published text stays in the history; reasoning is never part of it."""
    chunks = (MessageStart(), MessageDelta("Hel"), ThinkingDelta("?"), MessageDelta("lo\u2028\r\n"))

    assert recovered([user("hi")], PromptReceived("hi"), AgentStart(), *chunks) == RecoveredRun((), "Hello\u2028\r\n")


def test_text_of_a_finished_step_is_in_its_message() -> None:
    later = (MessageStart(), MessageDelta("So."))

    assert recovered([user("hi"), assistant("Let me see.", CALLS)], *STARTED).text == ""
    assert recovered([user("hi"), assistant("Let me see.", ())], *STARTED, *later).text == "So."


def test_text_of_an_earlier_run_is_ignored() -> None:
    earlier = (PromptReceived("first"), MessageDelta("old"))

    assert recovered([user("hi")], *earlier, PromptReceived("hi"), MessageDelta("new")).text == "new"


@pytest.mark.parametrize(
    ("calls", "undecided", "unanswered", "blocked_on_user"),
    [
        ((), "", "", False),
        ((SHELL,), "c2", "", True),
        ((ASK,), "", "c3", True),
        ((SHELL, ASK), "c2", "c3", True),
        ((SHELL, LOOK), "c2", "", False),
        ((SHELL, LATE), "c2", "", False),
        ((LOOK,), "", "", False),
    ],
)
def test_a_run_is_blocked_on_the_user_if_every_open_call_waits_for_the_user(
    calls: tuple[ToolCall, ...], undecided: str, unanswered: str, blocked_on_user: bool
) -> None:
    run = recovered([user("hi"), assistant("", calls)], *STARTED, undecided=undecided, unanswered=unanswered)

    assert run.blocked_on_user == blocked_on_user
