"""Request bodies reject unknown fields, wrong types and values out of range (HTTP-1, HTTP-3); responses omit None."""

import json
from typing import Any

import pytest
from cmdc_gateway.protocol.decisions import ApproveBody, RejectBody, RespondBody
from cmdc_gateway.protocol.events import ApprovalRequired, AskUser, encode_data
from cmdc_gateway.protocol.service import Health, Limits, TicketBody
from cmdc_gateway.protocol.sessions import (
    AbortBody,
    CreateSessionBody,
    MessageEntry,
    PromptBody,
    SessionInfo,
    SessionList,
    SessionSummary,
    ToolCallEntry,
)
from cmdc_gateway.protocol.tools import RegisterToolBody, ToolRegistered
from cmdc_gateway.protocol.wire import AnswerBody, RequestBody
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

TOOL = {"name": "t", "description": "d", "parameters": {"type": "object"}, "callbackUrl": "https://example.org/t"}
FULL: list[tuple[type[RequestBody], dict[str, Any]]] = [
    (
        CreateSessionBody,
        {
            "model": "deepseek:deepseek-chat",
            "sessionId": "A-z_9",
            "systemPrompt": "",
            "workingDir": ".",
            "tools": ["shell"],
            "plugins": [],
            "blueprint": "b",
            "maxTurns": 1000,
            "maxTokens": 1,
            "skillsDirs": ["s"],
            "providerOpts": {"temperature": 1},
            "approval": {"tools": ["*"], "timeoutMs": 0},
            "metadata": {"a": ""},
            "budget": {"maxTokens": 1, "maxCostUsd": 0.01},
        },
    ),
    (PromptBody, {"text": " "}),
    (ApproveBody, {"approvalId": "a", "args": {"x": None}, "digest": "d"}),
    (RejectBody, {"approvalId": "a", "reason": ""}),
    (RespondBody, {"ref": "r", "response": ""}),
    (AbortBody, {"reason": "r"}),
    (TicketBody, {"scope": "control"}),
    (RegisterToolBody, TOOL | {"timeoutMs": 1, "requiresApproval": True, "idempotent": False, "secret": "s"}),
]
SCALARS: dict[type, list[Any]] = {
    str: [1, True, [], {}],
    int: ["1", 1.5, True, []],
    bool: ["true", 1, 0],
    list: ["x", {}, {"0": "x"}],
    dict: [[], "x", 1],
    float: ["1", True, []],
}


def members(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """The paths and values of all members of a body, including its nested bodies."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, inner in value.items():
        found.append(((*path, name), inner))
        if name in ("approval", "budget"):
            found += members(inner, (*path, name))
    return found


def put(body: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of the body with another value at this path."""
    name, *rest = path
    return body | {name: put(body.get(name, {}), tuple(rest), value) if rest else value}


MEMBERS = [
    pytest.param(model, body, path, value, id=f"{model.__name__} {'.'.join(path)}")
    for model, body in FULL
    for path, value in members(body)
]


def rejected_at(model: type[RequestBody], body: dict[str, Any]) -> list[tuple[int | str, ...]]:
    """The locations of the validation errors."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return [error["loc"] for error in caught.value.errors()]


@pytest.mark.parametrize(("model", "body"), FULL)
def test_a_body_with_every_field_is_accepted(model: type[RequestBody], body: dict[str, Any]) -> None:
    """HTTP-1: names are camelCase on the wire."""
    parsed = model.model_validate(body)

    assert parsed.model_dump(by_alias=True) == body
    assert parsed.model_fields_set == set(model.model_fields)


@pytest.mark.parametrize(("model", "body", "path", "value"), MEMBERS)
def test_a_value_of_the_wrong_type_is_rejected_with_its_path(
    model: type[RequestBody], body: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    """HTTP-3: no coercion, and `null` is a type of its own."""
    for wrong in (None, *SCALARS[type(value)]):
        locations = rejected_at(model, put(body, path, wrong))
        assert locations
        assert all(location[: len(path)] == path for location in locations)


@pytest.mark.parametrize(("model", "body", "path", "value"), MEMBERS)
def test_a_misspelled_field_is_unknown(
    model: type[RequestBody], body: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    """HTTP-3."""
    for name in (f"{path[-1]}X", path[-1].upper(), f" {path[-1]}"):
        assert (*path[:-1], name) in rejected_at(model, put(body, (*path[:-1], name), value))


@pytest.mark.parametrize(
    ("model", "body", "name"),
    [
        (CreateSessionBody, {"model": "m"}, "system_prompt"),
        (CreateSessionBody, {"model": "m"}, "max_turns"),
        (ApproveBody, {"approvalId": "a"}, "approval_id"),
    ],
)
def test_a_name_in_snake_case_is_unknown(model: type[RequestBody], body: dict[str, Any], name: str) -> None:
    """HTTP-1."""
    assert rejected_at(model, body | {name: "1"}) == [(name,)]


@pytest.mark.parametrize(
    ("model", "body", "missing"),
    [
        (PromptBody, {}, {"text"}),
        (ApproveBody, {}, {"approvalId"}),
        (RejectBody, {"reason": "r"}, {"approvalId"}),
        (RespondBody, {}, {"ref", "response"}),
        (RegisterToolBody, {}, set(TOOL)),
    ],
)
def test_a_missing_field_is_named(model: type[RequestBody], body: dict[str, Any], missing: set[str]) -> None:
    """HTTP-3."""
    assert {location[0] for location in rejected_at(model, body)} == missing


def test_optional_fields_have_defaults() -> None:
    assert AbortBody.model_validate({}).reason is None
    assert TicketBody.model_validate({}).scope == "read"
    assert CreateSessionBody.model_validate({}).model_fields_set == set()
    tool = RegisterToolBody.model_validate(TOOL)
    assert (tool.timeout_ms, tool.requires_approval, tool.idempotent, tool.secret) == (30_000, False, False, None)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model", ""),
        ("model", "m" * 257),
        ("sessionId", ""),
        ("sessionId", "s" * 129),
        ("sessionId", "s/t"),
        ("sessionId", "s\n"),
        ("sessionId", "sé"),
        ("maxTurns", 0),
        ("maxTurns", 1001),
        ("maxTokens", 0),
        ("maxTokens", 2**31),
        ("approval.timeoutMs", -1),
        ("budget.maxTokens", 0),
        ("budget.maxCostUsd", 0),
        ("budget.maxCostUsd", -0.01),
        ("metadata", {str(n): "" for n in range(17)}),
    ],
)
def test_a_setting_out_of_range_is_rejected_with_its_path(path: str, value: Any) -> None:
    """HTTP-3, EP-create."""
    names = tuple(path.split("."))

    assert rejected_at(CreateSessionBody, put({"model": "m"}, names, value)) == [names]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sessionId", "s" * 128),
        ("maxTurns", 1),
        ("maxTurns", 1000),
        ("maxTokens", 1),
        ("approval.timeoutMs", 0),
        ("budget.maxCostUsd", 5),
        ("metadata", {str(n): "" for n in range(16)}),
    ],
)
def test_a_setting_at_the_limit_of_its_range_is_accepted(path: str, value: Any) -> None:
    """EP-create. An integer is a valid amount of dollars."""
    CreateSessionBody.model_validate(put({"model": "m"}, tuple(path.split(".")), value))


def test_an_empty_prompt_is_rejected() -> None:
    """EP-prompt."""
    assert rejected_at(PromptBody, {"text": ""}) == [("text",)]


@given(text=st.text(min_size=1))
def test_any_other_text_is_a_prompt_and_unchanged(text: str) -> None:
    """EVT-6."""
    assert PromptBody.model_validate({"text": text}).text == text


# -- responses ---------------------------------------------------------------------------------------------------------

SUMMARY = SessionSummary(
    session_id="s", state="idle", model="m", created_at=1, turns=0, tool_calls=0, total_tokens=0, metadata={}
)


ANSWERS: list[tuple[AnswerBody, dict[str, Any]]] = [
    (ToolRegistered(name="t", status="registered"), {"name": "t", "status": "registered"}),
    (
        ToolRegistered(name="t", status="registered", secret="whsec_"),
        {"name": "t", "status": "registered", "secret": "whsec_"},
    ),
    (SessionList(sessions=[], next_cursor=None), {"sessions": [], "nextCursor": None}),
    (
        MessageEntry(role="assistant", content="", tool_calls=[ToolCallEntry(call_id="c", name="t", arguments={})]),
        {"role": "assistant", "content": "", "toolCalls": [{"callId": "c", "name": "t", "arguments": {}}]},
    ),
    (
        MessageEntry(role="tool_result", content="", call_id="c", name="t", is_error=False),
        {"role": "tool_result", "content": "", "callId": "c", "name": "t", "isError": False},
    ),
]


@pytest.mark.parametrize(("answer", "sent"), ANSWERS)
def test_a_field_that_is_none_is_omitted_unless_it_is_sent_as_null(answer: AnswerBody, sent: dict[str, Any]) -> None:
    assert answer.wire() == sent
    assert json.loads(answer.encode()) == sent


def test_null_inside_values_of_clients_and_models_is_kept() -> None:
    entry = ToolCallEntry(call_id="c", name="t", arguments={"a": None, "b": [{"c": None}]})

    assert entry.wire()["arguments"] == {"a": None, "b": [{"c": None}]}


def test_pending_approvals_and_questions_are_serialized_like_their_events() -> None:
    """EP-session: pendingApprovals and pendingQuestions are event data, with all members."""
    approval = ApprovalRequired("a", "shell", {"x": None}, "hint", 1, "c", "d", None)
    question = AskUser("r", "Why?", None)
    info = SessionInfo.model_validate(
        SUMMARY.model_dump(by_alias=True)
        | {
            "uptimeMs": 1,
            "queue": [],
            "pendingApprovals": [approval.data() | {"requestId": "r1"}],
            "pendingQuestions": [question.data() | {"requestId": "r1"}],
            "cursor": "e.0",
        }
    )

    assert info.wire()["pendingApprovals"] == [json.loads(encode_data(approval, "r1"))]
    assert info.wire()["pendingQuestions"] == [json.loads(encode_data(question, "r1"))]


def test_nested_bodies_use_wire_names() -> None:
    """HTTP-1, with the one historical exception, `tracked_keys`."""
    health = Health.model_validate(
        {"status": "ok", "version": "0", "sessions": {"active": 1}, "meter": {"tracked_keys": 2}, "timestamp": "t"}
    )
    sessions = SessionList(sessions=[SUMMARY], next_cursor="c").wire()

    assert health.wire()["meter"] == {"tracked_keys": 2}
    assert sessions["sessions"][0]["sessionId"] == "s"


def test_without_a_limit_replay_events_is_null() -> None:
    limits = Limits(
        body_bytes=1,
        header_bytes=1,
        queued_prompts=1,
        ws_message_bytes=1,
        replay_events=None,
        heartbeat_ms=1,
        grace_ms=1,
        rpm=0,
    )

    assert limits.wire()["replayEvents"] is None


@pytest.mark.parametrize("model", [model for model, _ in FULL])
def test_the_published_schema_of_a_body_allows_no_null(model: type[RequestBody]) -> None:
    """HTTP-3: the schema matches what is enforced."""
    assert '"null"' not in json.dumps(model.model_json_schema(by_alias=True))
