"""`audit` reports each kind of damage to the record of a session, and nothing for an intact record."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from cmdc_testkit.audit import SessionRecord, audit, audit_so_far
from cmdc_testkit.events import ReceivedEvent, received_event

APPROVAL: dict[str, Any] = {
    "approvalId": "apr_c1",
    "callId": "c1",
    "toolName": "count",
    "args": {},
    "hint": "",
    "requestedAt": 1,
    "digest": "0" * 64,
    "expiresAt": None,
}
END: dict[str, Any] = {
    "messageCount": 5,
    "lastMessage": {"role": "assistant", "content": ""},
    "tokenUsage": {"promptTokens": 3, "completionTokens": 2, "totalTokens": 5},
    "costUsd": 0,
}
CALLS: list[dict[str, Any]] = [
    {"callId": "c1", "name": "count", "arguments": {}},
    {"callId": "c2", "name": "ask_user", "arguments": {}},
]


def logged(*events: tuple[str, str, dict[str, Any]]) -> list[ReceivedEvent]:
    """A log of events, each given as its run, its name and its other data."""
    return [
        received_event(f"e.{seq}", name, {**data, "requestId": run}, json.dumps(data))
        for seq, (run, name, data) in enumerate(events, 1)
    ]


EVENTS: list[tuple[str, str, dict[str, Any]]] = [
    ("r1", "prompt_received", {"text": "do it"}),
    ("r1", "agent_start", {}),
    ("r1", "message_start", {}),
    ("r1", "message_delta", {"delta": "I "}),
    ("r1", "message_delta", {"delta": "ask"}),
    ("r1", "tool_calls", {"count": 2}),
    ("r1", "approval_required", APPROVAL),
    ("r1", "tool_execution_start", {"callId": "c2", "toolName": "ask_user", "args": {}}),
    ("r1", "approval_resolved", {"approvalId": "apr_c1", "status": "approved"}),
    ("r1", "tool_execution_start", {"callId": "c1", "toolName": "count", "args": {}}),
    ("r1", "tool_execution_end", {"callId": "c1", "toolName": "count", "status": "ok", "result": "done"}),
    ("r1", "tool_execution_end", {"callId": "c2", "toolName": "ask_user", "status": "ok", "result": "yes"}),
    ("r1", "agent_end", END),
    ("r2", "prompt_received", {"text": "again"}),
    ("r2", "agent_start", {}),
    ("r2", "message_start", {}),
    ("r2", "message_delta", {"delta": "par"}),
    ("r2", "error", {"reason": "the server stopped"}),
    ("r2", "agent_abort", {"reason": "interrupted"}),
]
LOG = logged(*EVENTS)
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "do it"},
    {"role": "assistant", "content": "I ask", "toolCalls": CALLS},
    {"role": "tool_result", "content": "done", "callId": "c1"},
    {"role": "tool_result", "content": "yes", "callId": "c2"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "par"},
]
GOOD = SessionRecord(
    log=LOG,
    messages=MESSAGES,
    streams=[LOG[:9], LOG[9:]],
    accepted=["r1", "r2"],
    decisions={"apr_c1": "approved"},
    answers={"ask_c2": "yes"},
    registered={"count": "Counts."},
    tools=[{"name": "count", "description": "Counts."}],
    executed=["c1"],
    prompt_count=2,
    total_tokens=7,
)


def without(*indices: int) -> Sequence[ReceivedEvent]:
    return logged(*(event for index, event in enumerate(EVENTS) if index not in indices))


def with_more(index: int, *events: tuple[str, str, dict[str, Any]]) -> Sequence[ReceivedEvent]:
    return logged(*EVENTS[:index], *events, *EVENTS[index:])


def aborted_after(index: int) -> Sequence[ReceivedEvent]:
    return logged(*EVENTS[:index], ("r1", "agent_abort", {"reason": "aborted"}))


def changed(event: ReceivedEvent) -> ReceivedEvent:
    return replace(event, raw=f"{event.raw} ")


Damage = Callable[[], SessionRecord]
DAMAGE: dict[str, tuple[str, Damage]] = {
    "a sequence number is missing": ("EVT-7", lambda: replace(GOOD, log=[*LOG[:4], *LOG[5:]])),
    "the epoch changes": ("EVT-7", lambda: replace(GOOD, log=[*LOG[:-1], replace(LOG[-1], id="f.19")])),
    "an event was lost": ("DUR-1", lambda: replace(GOOD, log=LOG[:-1], run_is_open=True)),
    "an event was sent with different bytes": ("EVT-7", lambda: replace(GOOD, streams=[[changed(LOG[0])]])),
    "a reader received an event twice": ("SSE-6", lambda: replace(GOOD, streams=[[LOG[0], LOG[0]]])),
    "a reader missed an event": ("SSE-6", lambda: replace(GOOD, streams=[[LOG[0], LOG[2]]])),
    "an accepted prompt was lost": ("DUR-1", lambda: replace(GOOD, accepted=["r1", "r2", "r3"])),
    "prompts ran in another order": ("DUR-1", lambda: replace(GOOD, accepted=["r2", "r1"])),
    "a run began twice": ("EVT-1", lambda: replace(GOOD, log=with_more(15, EVENTS[13]))),
    "a run continued after another run": ("EVT-1", lambda: replace(GOOD, log=with_more(19, *EVENTS[:2], EVENTS[12]))),
    "a run does not begin with agent_start": ("EVT-1", lambda: replace(GOOD, log=without(1))),
    "a run ended twice": ("EVT-2", lambda: replace(GOOD, log=with_more(13, EVENTS[12]))),
    "a run never ended": ("EVT-2", lambda: replace(GOOD, log=without(18))),
    "a run was interrupted without an error": ("EVT-2", lambda: replace(GOOD, log=without(17))),
    "an approval was not resolved": ("EVT-1", lambda: replace(GOOD, log=without(8))),
    "an approval was not resolved before an abort": ("EVT-9", lambda: replace(GOOD, log=aborted_after(7))),
    "a call did not end": ("EVT-4", lambda: replace(GOOD, log=without(10))),
    "a call did not end before an abort": ("EVT-9", lambda: replace(GOOD, log=aborted_after(9))),
    "a call started twice": ("EVT-4", lambda: replace(GOOD, log=with_more(10, EVENTS[9]))),
    "a call ended twice": ("EVT-4", lambda: replace(GOOD, log=with_more(11, EVENTS[10]))),
    "a call ended without having started": ("EVT-4", lambda: replace(GOOD, log=without(9))),
    "a call was executed twice": ("EVT-4", lambda: replace(GOOD, executed=["c1", "c1"])),
    "a call was executed without an event": ("EVT-8", lambda: replace(GOOD, executed=["c1", "c9"])),
    "a rejected call was executed": (
        "EVT-4",
        lambda: replace(
            GOOD,
            log=logged(
                *EVENTS[:8], ("r1", "approval_resolved", {"approvalId": "apr_c1", "status": "rejected"}), *EVENTS[9:]
            ),
        ),
    ),
    "an approval was resolved twice": ("APP-2", lambda: replace(GOOD, log=with_more(9, EVENTS[8]))),
    "a decision was lost": ("DUR-1", lambda: replace(GOOD, decisions={"apr_c1": "rejected"})),
    "an answer was lost": ("DUR-1", lambda: replace(GOOD, answers={"ask_c2": "no"})),
    "a tool was lost": ("DUR-1", lambda: replace(GOOD, tools=[])),
    "a tool has an earlier description": (
        "DUR-1",
        lambda: replace(GOOD, tools=[{"name": "count", "description": "Counted."}]),
    ),
    "partial text is not in the history": ("EVT-3", lambda: replace(GOOD, messages=MESSAGES[:-1])),
    "a message is in the history twice": ("EVT-3", lambda: replace(GOOD, messages=[*MESSAGES, MESSAGES[-1]])),
    "a call has no result": ("EVT-9", lambda: replace(GOOD, messages=[*MESSAGES[:3], *MESSAGES[4:]])),
    "a callId is used twice": (
        "EVT-4",
        lambda: replace(GOOD, messages=[MESSAGES[0], {**MESSAGES[1], "toolCalls": [*CALLS, CALLS[0]]}, *MESSAGES[2:]]),
    ),
    "a prompt was counted twice": ("MTR-1", lambda: replace(GOOD, prompt_count=3)),
    "tokens were not counted": ("MTR-1", lambda: replace(GOOD, total_tokens=4)),
    "tokens were counted twice": (
        "MTR-1",
        lambda: SessionRecord(log=LOG[:13], messages=MESSAGES[:5], prompt_count=1, total_tokens=10),
    ),
}


def test_an_intact_record_has_no_errors() -> None:
    assert audit(GOOD) == []


def test_a_run_that_waits_for_a_user_is_not_an_error() -> None:
    assert audit(SessionRecord(log=LOG[:8], messages=MESSAGES[:2], accepted=["r1"], run_is_open=True)) == []


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_reported_with_the_broken_rule(what: str) -> None:
    rule, damage = DAMAGE[what]

    errors = audit(damage())

    assert rule in {error.partition(":")[0].partition(".")[0] for error in errors}, errors


@pytest.mark.parametrize("length", range(len(LOG) + 1))
def test_every_prefix_of_an_intact_log_has_no_errors(length: int) -> None:
    assert audit_so_far(SessionRecord(log=LOG[:length], messages=[])) == []


@pytest.mark.parametrize(
    "what",
    [
        "a sequence number is missing",
        "a run began twice",
        "a run ended twice",
        "a run was interrupted without an error",
        "a call started twice",
        "a call ended without having started",
        "a call was executed twice",
        "a call was executed without an event",
        "an approval was resolved twice",
        "a decision was lost",
        "a reader received an event twice",
    ],
)
def test_damage_is_reported_during_a_run(what: str) -> None:
    rule, damage = DAMAGE[what]

    errors = audit_so_far(replace(damage(), messages=[]))

    assert rule in {error.partition(":")[0].partition(".")[0] for error in errors}, errors
