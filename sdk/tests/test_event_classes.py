"""The generated event classes: every published event is parsed, and an error names the path of the invalid value."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cmdc_client._generated import events
from cmdc_client._generated.events import (
    AgentEnd,
    InvalidEvent,
    LastMessage,
    MessageDelta,
    MissingField,
    TokenUsage,
    UnknownEvent,
    UnknownValue,
    WrongType,
    parse_event,
)

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "openapi" / "events.schema.json").read_bytes())
EXAMPLES = {name: kind["examples"][0] for name, kind in SCHEMA["$defs"].items()}


def data(name: str, **changed: Any) -> dict[str, Any]:
    """The data of a published example, with changes."""
    return {**EXAMPLES[name]["data"], **changed}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_published_event_is_parsed_into_its_class(name: str) -> None:
    example = EXAMPLES[name]

    event = parse_event(example["event"], example["data"], example["id"])

    assert type(event) is getattr(events, name)
    assert (event.event, event.id, event.request_id) == (example["event"], example["id"], data(name)["requestId"])
    assert event.seq == int(example["id"].partition(".")[2])
    assert len(fields(event)) == 2 + len(example["data"])


def test_nested_data_is_parsed_into_attributes() -> None:
    usage = {"promptTokens": 1, "completionTokens": 2, "totalTokens": 3}
    message = {"role": "assistant", "content": "hi"}

    event = parse_event("agent_end", data("AgentEnd", lastMessage=message, tokenUsage=usage, costUsd=1), "e.9")

    assert event == AgentEnd(
        id="e.9",
        seq=9,
        request_id=data("AgentEnd")["requestId"],
        message_count=data("AgentEnd")["messageCount"],
        last_message=LastMessage("assistant", "hi"),
        token_usage=TokenUsage(1, 2, 3),
        cost_usd=1.0,
    )


def test_unknown_members_are_ignored_and_unknown_events_kept() -> None:
    known = parse_event("message_delta", {"delta": "a", "requestId": "r", "color": "red"}, "e.1")
    unknown = parse_event("color_changed", {"color": "red", "requestId": "r"}, "e.2")

    assert known == MessageDelta("e.1", 1, "r", "a")
    assert unknown == UnknownEvent("color_changed", "e.2", 2, "r", {"color": "red", "requestId": "r"})


def test_without_an_id_the_seq_is_0() -> None:
    event = parse_event("agent_start", {"requestId": "r"})

    assert (event.id, event.seq) == ("", 0)


@pytest.mark.parametrize(
    ("event", "data", "error_class", "message"),
    [
        ("agent_start", {}, MissingField, "data.requestId: is missing"),
        ("message_delta", {"requestId": "r"}, MissingField, "data.delta: is missing"),
        ("message_delta", {"requestId": "r", "delta": 1}, WrongType, "data.delta: must be a string, not an integer"),
        ("tool_calls", {"requestId": "r", "count": True}, WrongType, "data.count: must be an integer, not a boolean"),
        ("tool_calls", {"requestId": "r", "count": 1.0}, WrongType, "data.count: must be an integer, not a number"),
        (
            "approval_resolved",
            data("ApprovalResolved", status="maybe"),
            UnknownValue,
            "data.status: 'maybe' is not one of approved, rejected, expired, cancelled",
        ),
        (
            "ask_user",
            data("AskUser", options=["a", None]),
            WrongType,
            "data.options[1]: must be a string, not null",
        ),
        (
            "agent_end",
            data("AgentEnd", lastMessage={"role": "user", "content": ""}),
            UnknownValue,
            "data.lastMessage.role: 'user' is not one of assistant",
        ),
        (
            "agent_end",
            data("AgentEnd", tokenUsage={"promptTokens": 1}),
            MissingField,
            "data.tokenUsage.completionTokens: is missing",
        ),
        (
            "tool_execution_start",
            data("ToolExecutionStart", args=[]),
            WrongType,
            "data.args: must be an object, not an array",
        ),
    ],
)
def test_an_invalid_event_raises_an_error_with_its_path(
    event: str, data: dict[str, Any], error_class: type[InvalidEvent], message: str
) -> None:
    with pytest.raises(InvalidEvent) as raised:
        parse_event(event, data, "e.1")

    assert type(raised.value) is error_class
    assert str(raised.value) == message
    assert raised.value.path == message.partition(":")[0]


@pytest.mark.parametrize("cursor", ["", "7", "e.", ".7", "e.x", "e.-1", "e.٧"])
def test_an_id_that_is_not_a_cursor_is_invalid(cursor: str) -> None:
    with pytest.raises(WrongType, match=r"^id: "):
        parse_event("agent_start", {"requestId": "r"}, cursor)
