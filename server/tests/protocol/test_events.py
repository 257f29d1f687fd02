"""The fifteen events (EVT-5), and the encoding of their data."""

import json
from typing import Any

import jsonschema_rs
import pytest
from cmdc_gateway.protocol.encoding import dumps, whole_text
from cmdc_gateway.protocol.events import (
    EVENT_NAMES,
    EVENT_TYPES,
    TERMINAL,
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
    encode_data,
)
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.protocol.schema import events_schema
from hypothesis import given
from hypothesis import strategies as st

EXAMPLES: list[tuple[Event, str, dict[str, Any]]] = [
    (PromptReceived("hi"), "prompt_received", {"text": "hi"}),
    (AgentStart(), "agent_start", {}),
    (ThinkingStart(), "thinking_start", {}),
    (ThinkingDelta("hm"), "thinking_delta", {"delta": "hm"}),
    (MessageStart(), "message_start", {}),
    (MessageDelta("Hel"), "message_delta", {"delta": "Hel"}),
    (ToolCalls(2), "tool_calls", {"count": 2}),
    (
        ApprovalRequired("apr_1", "shell", {"command": "ls"}, "shell ls", 5, "c1", "ab" * 32, 9),
        "approval_required",
        {
            "approvalId": "apr_1",
            "toolName": "shell",
            "args": {"command": "ls"},
            "hint": "shell ls",
            "requestedAt": 5,
            "callId": "c1",
            "digest": "ab" * 32,
            "expiresAt": 9,
        },
    ),
    (
        ApprovalResolved("apr_1", "cancelled"),
        "approval_resolved",
        {"approvalId": "apr_1", "status": "cancelled"},
    ),
    (
        ToolExecutionStart("shell", "c1", {"a": None}),
        "tool_execution_start",
        {"toolName": "shell", "callId": "c1", "args": {"a": None}},
    ),
    (
        AskUser("ask_1", "Which?", ["left"]),
        "ask_user",
        {"ref": "ask_1", "question": "Which?", "options": ["left"]},
    ),
    (AskUser("ask_1", "Why?", None), "ask_user", {"ref": "ask_1", "question": "Why?", "options": None}),
    (
        ToolExecutionEnd("shell", "c1", "ok", "done"),
        "tool_execution_end",
        {"toolName": "shell", "callId": "c1", "status": "ok", "result": "done"},
    ),
    (RunError("no"), "error", {"reason": "no"}),
    (
        AgentEnd(2, LastMessage("assistant", "Hello"), TokenUsage(7, 3), 0.25),
        "agent_end",
        {
            "messageCount": 2,
            "lastMessage": {"role": "assistant", "content": "Hello"},
            "tokenUsage": {"promptTokens": 7, "completionTokens": 3, "totalTokens": 10},
            "costUsd": 0.25,
        },
    ),
    (AgentAbort("aborted"), "agent_abort", {"reason": "aborted"}),
]
SCHEMA = jsonschema_rs.validator_for(events_schema("0"))


def test_there_are_fifteen_events_and_two_of_them_end_a_run() -> None:
    assert {name for _, name, _ in EXAMPLES} == EVENT_NAMES == {kind.name for kind in EVENT_TYPES}
    assert len(EVENT_TYPES) == 15
    assert {"agent_end", "agent_abort"} == TERMINAL


@pytest.mark.parametrize(("event", "name", "data"), EXAMPLES)
def test_data_has_exactly_the_documented_members_and_the_request_id(
    event: Event, name: str, data: dict[str, Any]
) -> None:
    """EVT-5. Members that are null are present."""
    assert event.name == name
    assert json.loads(encode_data(event, "r1")) == data | {"requestId": "r1"}


@pytest.mark.parametrize("event", [event for event, _, _ in EXAMPLES])
def test_the_published_schema_describes_every_event(event: Event) -> None:
    """EVT-5: with and without the cursor, and without additional members."""
    sent = json.loads(LoggedEvent("e", 1, event.name, 0, encode_data(event, "r1")).text)
    bare = {"event": sent["event"], "data": sent["data"]}

    assert SCHEMA.is_valid(sent)
    assert SCHEMA.is_valid(bare)
    assert not SCHEMA.is_valid(sent | {"at": 1})
    assert not SCHEMA.is_valid(bare | {"data": sent["data"] | {"more": 1}})
    for member in sent["data"]:
        assert not SCHEMA.is_valid(bare | {"data": {k: v for k, v in sent["data"].items() if k != member}})


@pytest.mark.parametrize("kind", [MessageDelta, ThinkingDelta])
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.characters(categories=["Cs", "Cc", "Zl"])))
def test_a_delta_is_encoded_like_any_other_event(kind: type[MessageDelta | ThinkingDelta], text: str) -> None:
    """EVT-6. Deltas take a fast path through the encoder, with the same bytes as a result."""
    encoded = encode_data(kind(text), "r1")

    assert encoded == dumps({"delta": text, "requestId": "r1"})
    assert json.loads(encoded)["delta"] == whole_text(text)
