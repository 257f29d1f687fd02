"""The auditor finds each kind of damage that is done to a good record, and none where there is none."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from cmdc_testkit.audit import Frame, Record, audit, audit_so_far

USAGE = {"promptTokens": 3, "completionTokens": 2, "totalTokens": 5}
CALLS: list[dict[str, Any]] = [
    {"callId": "c1", "name": "count", "arguments": {}},
    {"callId": "c2", "name": "ask_user", "arguments": {}},
]


def logged(*events: tuple[str, str, dict[str, Any]]) -> list[Frame]:
    """Events, each given as its run, its name and its other data."""
    return [
        Frame(f"e.{seq}", name, json.dumps({**data, "requestId": run}))
        for seq, (run, name, data) in enumerate(events, 1)
    ]


EVENTS: list[tuple[str, str, dict[str, Any]]] = [
    ("r1", "prompt_received", {"text": "do it"}),
    ("r1", "agent_start", {}),
    ("r1", "message_start", {}),
    ("r1", "message_delta", {"delta": "I "}),
    ("r1", "message_delta", {"delta": "ask"}),
    ("r1", "tool_calls", {"count": 2}),
    ("r1", "approval_required", {"approvalId": "apr_c1", "callId": "c1"}),
    ("r1", "tool_execution_start", {"callId": "c2"}),
    ("r1", "approval_resolved", {"approvalId": "apr_c1", "status": "approved"}),
    ("r1", "tool_execution_start", {"callId": "c1"}),
    ("r1", "tool_execution_end", {"callId": "c1", "status": "ok", "result": "done"}),
    ("r1", "tool_execution_end", {"callId": "c2", "status": "ok", "result": "yes"}),
    ("r1", "agent_end", {"tokenUsage": USAGE}),
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
GOOD = Record(
    log=LOG,
    messages=MESSAGES,
    seen=[LOG[:9], LOG[9:]],
    accepted=["r1", "r2"],
    decisions={"apr_c1": "approved"},
    answers={"ask_c2": "yes"},
    registered={"count": "Counts."},
    tools=[{"name": "count", "description": "Counts."}],
    ran=["c1"],
    prompt_count=2,
    total_tokens=7,
)


def without(*indices: int) -> Sequence[Frame]:
    return logged(*(event for index, event in enumerate(EVENTS) if index not in indices))


def with_more(index: int, *events: tuple[str, str, dict[str, Any]]) -> Sequence[Frame]:
    return logged(*EVENTS[:index], *events, *EVENTS[index:])


def changed(frame: Frame) -> Frame:
    return replace(frame, data=frame.data.replace(" ", "  ", 1))


Damage = Callable[[], Record]
DAMAGE: dict[str, tuple[str, Damage]] = {
    "a number is left out": ("EVT-7", lambda: replace(GOOD, log=[*LOG[:4], *LOG[5:]])),
    "the epoch changes": ("EVT-7", lambda: replace(GOOD, log=[*LOG[:-1], replace(LOG[-1], id="f.19")])),
    "an event was lost": ("DUR-1", lambda: replace(GOOD, log=LOG[:-1], waiting=True)),
    "an event came back with other bytes": ("EVT-7", lambda: replace(GOOD, seen=[[changed(LOG[0])]])),
    "a reader was sent an event twice": ("SSE-6", lambda: replace(GOOD, seen=[[LOG[0], LOG[0]]])),
    "a reader missed one": ("SSE-6", lambda: replace(GOOD, seen=[[LOG[0], LOG[2]]])),
    "an accepted prompt was lost": ("DUR-1", lambda: replace(GOOD, accepted=["r1", "r2", "r3"])),
    "prompts overtook one another": ("DUR-1", lambda: replace(GOOD, accepted=["r2", "r1"])),
    "a run was begun again": ("EVT-1", lambda: replace(GOOD, log=with_more(15, EVENTS[13]))),
    "a run came back later": ("EVT-1", lambda: replace(GOOD, log=with_more(19, *EVENTS[:2], EVENTS[12]))),
    "a run has no beginning": ("EVT-1", lambda: replace(GOOD, log=without(1))),
    "a run ended twice": ("EVT-2", lambda: replace(GOOD, log=with_more(13, EVENTS[12]))),
    "a run never ended": ("EVT-2", lambda: replace(GOOD, log=without(18))),
    "a run was interrupted without a word": ("EVT-2", lambda: replace(GOOD, log=without(17))),
    "an approval was left open": ("EVT-9", lambda: replace(GOOD, log=without(8))),
    "a call was left open": ("EVT-9", lambda: replace(GOOD, log=without(10))),
    "a call was started twice": ("EVT-4", lambda: replace(GOOD, log=with_more(10, EVENTS[9]))),
    "a call ended twice": ("EVT-4", lambda: replace(GOOD, log=with_more(11, EVENTS[10]))),
    "a call ended that had not begun": ("EVT-4", lambda: replace(GOOD, log=without(9))),
    "a tool was run twice": ("EVT-4", lambda: replace(GOOD, ran=["c1", "c1"])),
    "a tool was run unseen": ("EVT-8", lambda: replace(GOOD, ran=["c1", "c9"])),
    "a rejected call was run": (
        "EVT-4",
        lambda: replace(
            GOOD,
            log=logged(
                *EVENTS[:8], ("r1", "approval_resolved", {"approvalId": "apr_c1", "status": "rejected"}), *EVENTS[9:]
            ),
        ),
    ),
    "an approval was decided twice": ("APP-2", lambda: replace(GOOD, log=with_more(9, EVENTS[8]))),
    "a decision was lost": ("DUR-1", lambda: replace(GOOD, decisions={"apr_c1": "rejected"})),
    "an answer was lost": ("DUR-1", lambda: replace(GOOD, answers={"ask_c2": "no"})),
    "a tool was lost": ("DUR-1", lambda: replace(GOOD, tools=[])),
    "a tool came back as it was before": (
        "DUR-1",
        lambda: replace(GOOD, tools=[{"name": "count", "description": "Counted."}]),
    ),
    "partial text is not in the history": ("EVT-3", lambda: replace(GOOD, messages=MESSAGES[:-1])),
    "a message is in the history twice": ("EVT-3", lambda: replace(GOOD, messages=[*MESSAGES, MESSAGES[-1]])),
    "a call has no result": ("EVT-9", lambda: replace(GOOD, messages=[*MESSAGES[:3], *MESSAGES[4:]])),
    "a callId is used again": (
        "EVT-4",
        lambda: replace(GOOD, messages=[MESSAGES[0], {**MESSAGES[1], "toolCalls": [*CALLS, CALLS[0]]}, *MESSAGES[2:]]),
    ),
    "a prompt was counted twice": ("MTR-1", lambda: replace(GOOD, prompt_count=3)),
    "tokens were not counted": ("MTR-1", lambda: replace(GOOD, total_tokens=4)),
    "tokens were counted twice": (
        "MTR-1",
        lambda: Record(log=LOG[:13], messages=MESSAGES[:5], prompt_count=1, total_tokens=10),
    ),
}


def test_a_good_record_has_no_flaw() -> None:
    assert audit(GOOD) == []


def test_a_run_that_waits_for_a_person_is_no_flaw() -> None:
    assert audit(Record(log=LOG[:8], messages=MESSAGES[:2], accepted=["r1"], waiting=True)) == []


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_under_its_rule(what: str) -> None:
    rule, damage = DAMAGE[what]

    flaws = audit(damage())

    assert rule in {flaw.partition(":")[0] for flaw in flaws}, flaws


@pytest.mark.parametrize("length", range(len(LOG) + 1))
def test_a_good_log_has_no_flaw_at_any_moment(length: int) -> None:
    assert audit_so_far(Record(log=LOG[:length], messages=[])) == []


@pytest.mark.parametrize(
    "what",
    [
        "a number is left out",
        "a run was begun again",
        "a run ended twice",
        "a run was interrupted without a word",
        "a call was started twice",
        "a call ended that had not begun",
        "a tool was run twice",
        "a tool was run unseen",
        "an approval was decided twice",
        "a decision was lost",
        "a reader was sent an event twice",
    ],
)
def test_damage_is_found_before_all_is_over(what: str) -> None:
    rule, damage = DAMAGE[what]

    flaws = audit_so_far(replace(damage(), messages=[]))

    assert rule in {flaw.partition(":")[0] for flaw in flaws}, flaws
