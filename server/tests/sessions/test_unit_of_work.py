"""The unit of work of one batch."""

from dataclasses import replace

from cmdc_gateway.kernel.budget import Spend
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage, user
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.rows import ApprovalRow, QuestionRow, RequestRow, SessionKey, SessionRow, UsageRow
from cmdc_gateway.store.writes import (
    AddUsage,
    AppendEvents,
    AppendMessages,
    PutApproval,
    PutQuestion,
    PutRequest,
    PutSession,
    RemoveTool,
    TrimEvents,
)

KEY = SessionKey("acme", "s1")
ROW = SessionRow(KEY, "k3x9", 0, b"{}")
DAY = "2026-03-15"
REQUEST = RequestRow("r1", 1, "key_1", "hi")
APPROVAL = ApprovalRow("apr_1", "r1", "c1", "shell", b"{}", "", "", 0, None)
QUESTION = QuestionRow("ask_1", "r1", "c2", "Why?", None)


def new_unit() -> UnitOfWork:
    return UnitOfWork(ROW, last_seq=4, now=9, day=DAY)


def test_an_empty_unit_writes_nothing() -> None:
    unit = new_unit()
    unit.append([])
    unit.add_usage("key_1", TokenUsage(), 0.0)

    assert unit.writes(ROW) == []
    assert (unit.last_seq, unit.spent) == (4, [])


def test_appended_events_advance_last_seq() -> None:
    """EVT-7."""
    unit = new_unit()

    unit.append([LoggedEvent("k3x9", 5, "agent_start", 9, b"{}"), LoggedEvent("k3x9", 6, "error", 9, b"{}")])

    assert unit.last_seq == 6


def test_all_changes_are_in_one_transaction() -> None:
    """DUR-1. Trimming follows appending, because it may remove events that were just appended."""
    unit, event = new_unit(), LoggedEvent("k3x9", 5, "agent_start", 9, b"{}")
    unit.put_request(REQUEST)
    unit.append([event])
    unit.trim_before = 3
    unit.messages.append(user("hi"))
    unit.write(PutApproval(KEY, APPROVAL))
    unit.row = replace(unit.row, state="working")

    assert unit.writes(ROW) == [
        PutSession(replace(ROW, state="working")),
        PutRequest(KEY, REQUEST),
        AppendEvents(KEY, (event,)),
        TrimEvents(KEY, 3),
        AppendMessages(KEY, (user("hi"),)),
        PutApproval(KEY, APPROVAL),
    ]


def test_only_the_last_state_of_a_row_is_written() -> None:
    unit, rejected = new_unit(), replace(APPROVAL, status="rejected")
    answered, done = replace(QUESTION, status="answered"), replace(REQUEST, status="done")
    unit.put_request(REQUEST)
    unit.write(PutApproval(KEY, APPROVAL))
    unit.write(RemoveTool(KEY, "t"))
    unit.write(PutQuestion(KEY, QUESTION))
    unit.write(PutApproval(KEY, rejected))
    unit.write(RemoveTool(KEY, "t"))
    unit.write(PutQuestion(KEY, answered))
    unit.put_request(done)

    assert unit.writes(ROW) == [
        PutRequest(KEY, done),
        RemoveTool(KEY, "t"),
        PutApproval(KEY, rejected),
        RemoveTool(KEY, "t"),
        PutQuestion(KEY, answered),
    ]


def test_usage_is_counted_for_the_session_and_for_the_key() -> None:
    """MTR-1."""
    unit = new_unit()

    unit.count_prompt("key_1")
    unit.add_usage("key_1", TokenUsage(7, 3), 0.25)
    unit.add_usage("key_2", TokenUsage(), 0.5)

    row = replace(ROW, prompts=1, usage=TokenUsage(7, 3), cost_usd=0.75)
    assert unit.row == row
    assert unit.writes(ROW) == [
        PutSession(row),
        AddUsage(UsageRow("acme", "key_1", DAY, prompts=1)),
        AddUsage(UsageRow("acme", "key_1", DAY, usage=TokenUsage(7, 3), cost_usd=0.25)),
        AddUsage(UsageRow("acme", "key_2", DAY, cost_usd=0.5)),
    ]
    assert unit.spent == [("key_1", Spend(10, 0.25)), ("key_2", Spend(0, 0.5))]
