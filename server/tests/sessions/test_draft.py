"""One transaction in the making."""

from dataclasses import replace

from cmdc_gateway.kernel.budget import Spend
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage, user
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.store import (
    AddUsage,
    AppendEvents,
    AppendMessages,
    ApprovalRow,
    PutApproval,
    PutQuestion,
    PutRequest,
    PutSession,
    QuestionRow,
    RemoveTool,
    RequestRow,
    SessionKey,
    SessionRow,
    TrimEvents,
    UsageRow,
)

KEY = SessionKey("acme", "s1")
ROW = SessionRow(KEY, "k3x9", 0, b"{}")
DAY = "2026-03-15"
REQUEST = RequestRow("r1", 1, "key_1", "hi")
APPROVAL = ApprovalRow("apr_1", "r1", "c1", "shell", b"{}", "", "", 0, None)
QUESTION = QuestionRow("ask_1", "r1", "c2", "Why?", None)


def draft() -> UnitOfWork:
    return UnitOfWork(ROW, last_seq=4, now=9, day=DAY)


def test_a_draft_of_nothing_writes_nothing() -> None:
    made = draft()
    made.append([])
    made.add_usage("key_1", TokenUsage(), 0.0)

    assert made.writes(ROW) == []
    assert (made.last_seq, made.spent) == (4, [])


def test_events_are_numbered_on_from_the_last_of_the_draft() -> None:
    """EVT-7."""
    made = draft()

    made.append([LoggedEvent("k3x9", 5, "agent_start", 9, b"{}"), LoggedEvent("k3x9", 6, "error", 9, b"{}")])

    assert made.last_seq == 6


def test_everything_is_in_one_transaction() -> None:
    """DUR-1. Events are trimmed after they were appended, since they may be trimmed at once."""
    made, event = draft(), LoggedEvent("k3x9", 5, "agent_start", 9, b"{}")
    made.put_request(REQUEST)
    made.append([event])
    made.trim_before = 3
    made.messages.append(user("hi"))
    made.write(PutApproval(KEY, APPROVAL))
    made.row = replace(made.row, state="working")

    assert made.writes(ROW) == [
        PutSession(replace(ROW, state="working")),
        PutRequest(KEY, REQUEST),
        AppendEvents(KEY, (event,)),
        TrimEvents(KEY, 3),
        AppendMessages(KEY, (user("hi"),)),
        PutApproval(KEY, APPROVAL),
    ]


def test_only_the_last_state_of_a_thing_is_written() -> None:
    made, rejected = draft(), replace(APPROVAL, status="rejected")
    answered, done = replace(QUESTION, status="answered"), replace(REQUEST, status="done")
    made.put_request(REQUEST)
    made.write(PutApproval(KEY, APPROVAL))
    made.write(RemoveTool(KEY, "t"))
    made.write(PutQuestion(KEY, QUESTION))
    made.write(PutApproval(KEY, rejected))
    made.write(RemoveTool(KEY, "t"))
    made.write(PutQuestion(KEY, answered))
    made.put_request(done)

    assert made.writes(ROW) == [
        PutRequest(KEY, done),
        RemoveTool(KEY, "t"),
        PutApproval(KEY, rejected),
        RemoveTool(KEY, "t"),
        PutQuestion(KEY, answered),
    ]


def test_what_is_used_is_counted_for_the_session_and_for_who_pays() -> None:
    """MTR-1."""
    made = draft()

    made.count_prompt("key_1")
    made.add_usage("key_1", TokenUsage(7, 3), 0.25)
    made.add_usage("key_2", TokenUsage(), 0.5)

    row = replace(ROW, prompts=1, usage=TokenUsage(7, 3), cost_usd=0.75)
    assert made.row == row
    assert made.writes(ROW) == [
        PutSession(row),
        AddUsage(UsageRow("acme", "key_1", DAY, prompts=1)),
        AddUsage(UsageRow("acme", "key_1", DAY, usage=TokenUsage(7, 3), cost_usd=0.25)),
        AddUsage(UsageRow("acme", "key_2", DAY, cost_usd=0.5)),
    ]
    assert made.spent == [("key_1", Spend(10, 0.25)), ("key_2", Spend(0, 0.5))]
