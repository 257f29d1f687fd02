"""Monitors report a violation under the requirement that it belongs to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cmdc_conformance.evidence import Redactor
from cmdc_conformance.wire.event import Event
from cmdc_conformance.wire.grammar import grammar_errors
from cmdc_conformance.wire.monitors import Monitors

SECRET = "the-key-of-a-tenant"


class Recorder:
    """Monitors, and the requirements that they reported."""

    def __init__(self, *, extended: bool = True) -> None:
        self.monitors = Monitors(Redactor([SECRET]), extended=extended)
        self.requirements: list[str] = []

    def report(self, requirement: str, message: str) -> None:
        self.requirements.append(requirement)
        assert SECRET not in message

    def response(self, route: str | None, status: int, body: Any, kind: str = "application/json") -> list[str]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.monitors.response(self.report, route, status, {"content-type": kind}, raw, secret=False)
        return self.requirements

    def event(
        self, name: str, transport: Any = "sse", raw: str | None = None, id_: str | None = "e.1", **data: Any
    ) -> list[str]:
        self.monitors.event(self.report, "s", Event(name, {"requestId": "r", **data}, id_, raw), transport)
        return self.requirements


def run(*names: str) -> list[Event]:
    """Make a run of events with these names; `name:key=value` sets a member of the data."""
    events: list[Event] = []
    for number, text in enumerate(names, start=1):
        name, _, given = text.partition(":")
        data: dict[str, Any] = {"requestId": "r"}
        for pair in filter(None, given.split(",")):
            key, _, value = pair.partition("=")
            data[key] = int(value) if value.isdigit() else value
        events.append(Event(name, data, f"e.{number}"))
    return events


BEGIN = ("prompt_received:text=x", "agent_start")
START, END = "tool_execution_start:callId=c", "tool_execution_end:callId=c,status=ok"
ASKED, DECIDED = "approval_required:approvalId=a", "approval_resolved:approvalId=a,status=approved"


@pytest.mark.parametrize(
    "names",
    [
        (*BEGIN, "agent_end"),
        (*BEGIN, "thinking_start", "thinking_delta", "message_start", "message_delta", "message_delta", "agent_end"),
        (
            *BEGIN,
            "message_start",
            "message_delta",
            "tool_calls:count=1",
            START,
            END,
            "message_start",
            "message_delta",
            "agent_end",
        ),
        (*BEGIN, "tool_calls:count=1", ASKED, DECIDED, START, END, "agent_end"),
        (
            *BEGIN,
            "tool_calls:count=2",
            START,
            ASKED,
            END,
            "approval_resolved:approvalId=a,status=rejected",
            "agent_end",
        ),
        (*BEGIN, "tool_calls:count=1", START, "ask_user:ref=q", END, "agent_end"),
        (*BEGIN, "tool_calls:count=1", "error", "agent_end"),
        (*BEGIN, "error", "agent_abort:reason=error"),
    ],
)
def test_a_valid_run_has_no_grammar_errors(names: tuple[str, ...]) -> None:
    assert grammar_errors(run(*names)) == []


@pytest.mark.parametrize(
    ("names", "requirement"),
    [
        (("agent_start", "agent_end"), "EVT-1.grammar"),
        ((*BEGIN, *BEGIN, "agent_end"), "EVT-1.grammar"),
        ((*BEGIN, "message_delta", "agent_end"), "EVT-1.blocks"),
        ((*BEGIN, "message_start", "agent_end"), "EVT-1.blocks"),
        ((*BEGIN, "message_start", "message_delta", "message_start", "message_delta", "agent_end"), "EVT-1.blocks"),
        ((*BEGIN, "thinking_start", "message_start", "message_delta", "agent_end"), "EVT-1.blocks"),
        (BEGIN, "EVT-2.terminal"),
        ((*BEGIN, "agent_end", "agent_end"), "EVT-2.terminal"),
        ((*BEGIN, "agent_end", "message_start"), "EVT-2.terminal"),
        ((*BEGIN, START, END, "agent_end"), "EVT-1.grammar"),
        ((*BEGIN, "tool_calls:count=1", START, "agent_end"), "EVT-4.pairs"),
        ((*BEGIN, "tool_calls:count=1", END, "agent_end"), "EVT-4.pairs"),
        ((*BEGIN, "tool_calls:count=1", START, END, END, "agent_end"), "EVT-4.pairs"),
        ((*BEGIN, "tool_calls:count=1", ASKED, "agent_end"), "EVT-1.grammar"),
        ((*BEGIN, "tool_calls:count=1", ASKED, DECIDED, DECIDED, START, END, "agent_end"), "EVT-1.grammar"),
        ((*BEGIN, "tool_calls:count=1", ASKED, "agent_abort"), "EVT-9.approvals"),
        ((*BEGIN, "tool_calls:count=1", START, "agent_abort"), "EVT-9.calls"),
        ((*BEGIN, "ask_user:ref=q", "agent_end"), "EVT-1.grammar"),
        ((*BEGIN, "tool_calls:count=2", START, END, START, END, "agent_end"), "EVT-4.unique"),
    ],
)
def test_an_invalid_run_is_reported_under_the_requirement_that_it_violates(
    names: tuple[str, ...], requirement: str
) -> None:
    assert requirement in [requirements for requirements, _ in grammar_errors(run(*names))]


def test_a_valid_response_is_not_reported() -> None:
    assert Recorder().response("POST /v1/sessions", 201, {"sessionId": "a", "status": "created"}) == []


@pytest.mark.parametrize(
    ("status", "body", "kind", "requirement"),
    [
        (201, {"session_id": "a", "status": "created"}, "application/json", "HTTP-1.fields"),
        (201, {"sessionId": 1, "status": "created"}, "application/json", "HTTP-1.fields"),
        (201, [], "application/json", "HTTP-1.json"),
        (201, b"{", "application/json", "HTTP-1.json"),
        (201, {"sessionId": "a", "status": "created"}, "text/html", "HTTP-1.json"),
        (400, {"error": "bad_request"}, "application/json", "HTTP-2.body"),
        (400, {"detail": "no"}, "application/json", "HTTP-2.body"),
        (400, {"error": "not_found", "message": "no"}, "application/json", "HTTP-2.body"),
        (
            500,
            {"error": "internal", "message": "Traceback (most recent call last): x"},
            "application/json",
            "HTTP-2.leak",
        ),
        (400, {"error": "bad_request", "message": f"no {SECRET}"}, "application/json", "HTTP-2.leak"),
    ],
)
def test_an_invalid_response_is_reported_under_the_requirement_that_it_violates(
    status: int, body: Any, kind: str, requirement: str
) -> None:
    assert set(Recorder().response("POST /v1/sessions", status, body, kind)) == {requirement}


def test_a_base_server_needs_no_fields_of_the_extended_layer() -> None:
    base = {"sessionId": "a", "state": "idle", "turns": 0, "toolCalls": 0, "totalTokens": 0, "uptimeMs": 1}

    assert Recorder(extended=False).response("GET /v1/sessions/{sessionId}", 200, base) == []
    assert set(Recorder().response("GET /v1/sessions/{sessionId}", 200, base)) == {"HTTP-1.fields"}


def test_an_event_that_does_not_match_the_schema_is_reported() -> None:
    assert Recorder().event("message_delta", delta="a") == []
    assert Recorder().event("message_delta", delta="") == ["EVT-5.schema"]
    assert Recorder().event("message_delta", delta="a", colour="red") == ["EVT-5.schema"]
    assert Recorder().event("no_such_event") == ["EVT-5.schema"]
    assert Recorder().event("message_delta", delta=SECRET) == ["HTTP-2.leak"]


def test_a_repeated_event_that_differs_is_reported_by_transport() -> None:
    recorder = Recorder()
    recorder.event("message_delta", delta="a", raw='{"delta":"a"}')

    assert recorder.event("message_delta", delta="a", raw='{"delta":"a"}') == []
    assert recorder.event("message_delta", "ws", delta="a") == []
    assert recorder.event("message_delta", delta="a", raw='{"delta": "a"}') == ["EVT-7.identical"]
    assert recorder.event("message_delta", "ws", delta="b")[1:] == ["EVT-5.same"]


def test_a_gap_a_repeat_and_a_change_of_epoch_are_reported() -> None:
    for before, after, is_violation in (
        ("e.1", "e.2", False),
        ("e.1", "e.3", True),
        ("e.1", "e.1", True),
        ("e.1", "f.2", True),
    ):
        recorder = Recorder()
        recorder.monitors.order(recorder.report, before, Event("agent_start", {}, after))
        assert recorder.requirements == (["EVT-7.gapless"] if is_violation else [])


def test_the_run_of_another_session_is_reported() -> None:
    recorder = Recorder()
    recorder.monitors.session("s").texts.add("mine")

    assert recorder.event("prompt_received", text="mine") == []
    assert recorder.event("prompt_received", text="theirs", id_="e.2") == ["SSE-9.own"]


def test_a_call_id_of_an_earlier_run_is_reported() -> None:
    recorder = Recorder()
    for request in ("r1", "r2"):
        events = [
            Event(each.name, {**each.data, "requestId": request}, each.id)
            for each in run(*BEGIN, "tool_calls:count=1", START, END, "agent_end")
        ]
        recorder.monitors.run(recorder.report, "s", events)

    assert recorder.requirements == ["EVT-4.unique"]
