"""What a run left when its process ended, read from what was committed (DUR-2)."""

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
BEGUN = (
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


def left(messages: list[Message], *events: Event, undecided: str = "", unanswered: str = "") -> RecoveredRun:
    return recover_run(messages, logged(*events), undecided={*undecided.split()}, unanswered={*unanswered.split()})


def test_every_call_without_a_result_is_still_open_in_the_stage_it_had() -> None:
    remaining = left([user("hi"), assistant("Let me see.", CALLS)], *BEGUN, undecided="c2", unanswered="c3")

    assert remaining.open_calls == (
        OpenCall(LOOK, "running"),
        OpenCall(SHELL, "waiting_approval"),
        OpenCall(ASK, "waiting_input"),
        OpenCall(LATE, "ready"),
    )
    assert remaining.text == ""


def test_a_call_with_a_result_is_not_open() -> None:
    history = [user("hi"), assistant("", CALLS), *(tool_result(call, "", is_error=False) for call in (LOOK, LATE))]

    remaining = left(history, *BEGUN, undecided="c2", unanswered="c3")

    assert [item.call for item in remaining.open_calls] == [SHELL, ASK]


def test_calls_of_an_earlier_step_are_not_looked_at() -> None:
    """An earlier step has all its results: without them there would have been no later one."""
    history = [
        user("hi"),
        assistant("", (LOOK,)),
        tool_result(LOOK, "", is_error=False),
        assistant("", (SHELL,)),
    ]

    assert left(history, *BEGUN).open_calls == (OpenCall(SHELL, "ready"),)


@pytest.mark.parametrize("history", [[], [user("hi")], [assistant("", CALLS), user("hi")]])
def test_a_run_that_has_not_asked_for_tools_has_no_open_calls(history: list[Message]) -> None:
    assert left(history, *BEGUN[:2]) == RecoveredRun((), "")


def test_text_that_is_in_no_message_yet_is_kept() -> None:
    """§3.9: text that readers saw stays. Reasoning is in no message."""
    said = (MessageStart(), MessageDelta("Hel"), ThinkingDelta("?"), MessageDelta("lo\u2028\r\n"))

    assert left([user("hi")], PromptReceived("hi"), AgentStart(), *said) == RecoveredRun((), "Hello\u2028\r\n")


def test_text_of_a_step_that_is_over_is_in_its_message_already() -> None:
    later = (MessageStart(), MessageDelta("So."))

    assert left([user("hi"), assistant("Let me see.", CALLS)], *BEGUN).text == ""
    assert left([user("hi"), assistant("Let me see.", ())], *BEGUN, *later).text == "So."


def test_text_of_an_earlier_run_is_not_of_this_one() -> None:
    earlier = (PromptReceived("first"), MessageDelta("old"))

    assert left([user("hi")], *earlier, PromptReceived("hi"), MessageDelta("new")).text == "new"


@pytest.mark.parametrize(
    ("calls", "undecided", "unanswered", "only_waits"),
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
def test_a_run_goes_on_waiting_if_people_are_all_it_waits_for(
    calls: tuple[ToolCall, ...], undecided: str, unanswered: str, only_waits: bool
) -> None:
    remaining = left([user("hi"), assistant("", calls)], *BEGUN, undecided=undecided, unanswered=unanswered)

    assert remaining.blocked_on_user == only_waits
