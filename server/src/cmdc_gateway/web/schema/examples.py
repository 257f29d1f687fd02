"""Examples for the published contract: a body for each request, an answer for each success, an error for each code.

Answers and errors are instances of what the server sends, so that an example cannot have a shape that no answer has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from cmdc_gateway.errors import (
    AlreadyResolved,
    BadRequest,
    BudgetExceeded,
    CreateFailed,
    CursorExpired,
    DigestMismatch,
    Forbidden,
    GatewayError,
    HeadersTooLarge,
    IdempotencyInProgress,
    IdempotencyMismatch,
    Internal,
    InvalidCursor,
    MethodNotAllowed,
    PayloadTooLarge,
    QueueFull,
    RateLimited,
    RegistrationFailed,
    RequestTimeout,
    SessionDead,
    SessionExists,
    SessionNotFound,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    UpgradeRequired,
    UriTooLong,
)
from cmdc_gateway.protocol.decisions import ApproveBody, DecisionTaken, RejectBody, RespondBody, ResponseTaken
from cmdc_gateway.protocol.examples import APPROVAL_ID, CALL_ID, DIGEST, EPOCH, REF, REQUEST_ID, WHEN, event_examples
from cmdc_gateway.protocol.service import (
    ActiveSessions,
    Capabilities,
    EventEntry,
    EventPage,
    Health,
    Limits,
    Readiness,
    TicketBody,
    TicketIssued,
    TrackedKeys,
)
from cmdc_gateway.protocol.sessions import (
    AbortBody,
    AbortTaken,
    CreateSessionBody,
    KeyUsage,
    MessageEntry,
    MessageList,
    PendingApproval,
    PromptAccepted,
    PromptBody,
    QueuedPrompt,
    SessionCreated,
    SessionDeleted,
    SessionInfo,
    SessionList,
    SessionStats,
    SessionSummary,
    TenantUsage,
    TokenCounts,
    ToolCallEntry,
    UsageFigures,
)
from cmdc_gateway.protocol.tools import (
    CallbackCall,
    CallbackError,
    CallbackResult,
    RegisterToolBody,
    ToolEntry,
    ToolList,
    ToolRegistered,
    ToolRemoved,
)
from cmdc_gateway.protocol.wire import AnswerBody, RequestBody

Example = dict[str, Any]

SESSION_ID = "44399f7a9852d775b1c6d727c85f245e"
TICKET = "a7XrF0oAdSm6n1H3Oz34C6SDGUFb6nc1Vlq-W08yzQE"

_SESSION_NUMBERS: dict[str, Any] = {"created_at": WHEN - 1_000, "turns": 2, "tool_calls": 1, "total_tokens": 99}
_TOKENS = TokenCounts(prompt_tokens=78, completion_tokens=21, total_tokens=99)
_USED: dict[str, Any] = {"prompt_count": 1, "total_tokens": 99, "cost_usd": 0.00042, "token_usage": _TOKENS}
_METADATA = {"ticket": "4711"}
_WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Current weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
_CALLBACK_URL = "https://tools.example/weather"

_REQUESTS: dict[type[RequestBody], dict[str, Example]] = {
    CreateSessionBody: {
        "short": {"model": "deepseek:deepseek-chat"},
        "settings": {
            "model": "deepseek:deepseek-chat",
            "sessionId": "support-4711",
            "systemPrompt": "You help travelers. Be brief.",
            "tools": ["read_file", "grep", "ask_user"],
            "maxTurns": 20,
            "maxTokens": 2_000,
            "providerOpts": {"temperature": 0.2},
            "approval": {"tools": ["*"], "timeoutMs": 600_000},
            "metadata": _METADATA,
            "budget": {"maxCostUsd": 0.5},
        },
        "blueprint": {"blueprint": "support", "metadata": _METADATA},
    },
    PromptBody: {"prompt": {"text": "What is the weather in Oslo?"}},
    AbortBody: {"empty": {}, "reason": {"reason": "the user closed the window"}},
    TicketBody: {"read": {"scope": "read"}, "control": {"scope": "control"}},
    ApproveBody: {
        "as_shown": {"approvalId": APPROVAL_ID, "digest": DIGEST},
        "edited": {"approvalId": APPROVAL_ID, "args": {"city": "Bergen"}},
    },
    RejectBody: {"reject": {"approvalId": APPROVAL_ID, "reason": "not in this account"}},
    RespondBody: {"respond": {"ref": REF, "response": "°C"}},
    RegisterToolBody: {
        "short": {**_WEATHER, "callbackUrl": _CALLBACK_URL},
        "settings": {
            **_WEATHER,
            "callbackUrl": _CALLBACK_URL,
            "timeoutMs": 10_000,
            "requiresApproval": True,
            "idempotent": True,
            "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        },
    },
}

_ANSWERS: Sequence[tuple[str, AnswerBody]] = (
    (
        "health",
        Health(
            status="ok",
            version="0.1.0",
            sessions=ActiveSessions(active=3),
            meter=TrackedKeys(tracked_keys=2),
            timestamp="2026-11-22T11:59:43.470411Z",
        ),
    ),
    ("ready", Readiness(status="ready")),
    (
        "capabilities",
        Capabilities(
            protocol="0.1",
            extended=["abort", "cursors", "idempotency", "tickets"],
            models=["deepseek:*", "scripted:*"],
            tools=["read_file", "list_dir", "glob", "grep", "ask_user"],
            plugins=["human_approval"],
            durability="process",
            limits=Limits(
                body_bytes=1_048_576,
                header_bytes=32_768,
                queued_prompts=100,
                ws_message_bytes=1_048_576,
                replay_events=None,
                heartbeat_ms=15_000,
                grace_ms=30_000,
                rpm=60,
            ),
        ),
    ),
    ("created", SessionCreated(session_id=SESSION_ID, status="created")),
    (
        "waiting",
        SessionInfo(
            session_id=SESSION_ID,
            state="waiting_approval",
            uptime_ms=1_024,
            model="deepseek:deepseek-chat",
            metadata=_METADATA,
            queue=[QueuedPrompt(request_id="9b1d0c5f4f6a7e21", text="And tomorrow?")],
            pending_approvals=[
                PendingApproval(
                    approval_id=APPROVAL_ID,
                    tool_name="get_weather",
                    args={"city": "Oslo"},
                    hint='get_weather {"city":"Oslo"}',
                    requested_at=WHEN,
                    call_id=CALL_ID,
                    digest=DIGEST,
                    expires_at=None,
                    request_id=REQUEST_ID,
                )
            ],
            pending_questions=[],
            cursor=f"{EPOCH}.8",
            **_SESSION_NUMBERS,
        ),
    ),
    (
        "page",
        SessionList(
            sessions=[
                SessionSummary(
                    session_id=SESSION_ID,
                    state="idle",
                    model="deepseek:deepseek-chat",
                    metadata=_METADATA,
                    **_SESSION_NUMBERS,
                )
            ],
            next_cursor=None,
        ),
    ),
    ("deleted", SessionDeleted(session_id=SESSION_ID, status="deleted")),
    (
        "accepted",
        PromptAccepted(request_id=REQUEST_ID, session_id=SESSION_ID, queued=False, cursor=f"{EPOCH}.0"),
    ),
    ("aborted", AbortTaken(ok=True)),
    ("nothing_active", AbortTaken(ok=False)),
    ("issued", TicketIssued(ticket=TICKET, expires_at=WHEN + 30_000)),
    ("approved", DecisionTaken(ok=True, action="approve", approval_id=APPROVAL_ID)),
    ("rejected", DecisionTaken(ok=True, action="reject", approval_id=APPROVAL_ID)),
    ("answered", ResponseTaken(ok=True, action="respond", ref=REF)),
    (
        "registered",
        ToolRegistered(
            name="get_weather",
            status="registered",
            secret="whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",  # noqa: S106 - an example
        ),
    ),
    (
        "tools",
        ToolList(
            tools=[
                ToolEntry(
                    **_WEATHER,
                    kind="callback",
                    callback_url=_CALLBACK_URL,
                    timeout_ms=10_000,
                    requires_approval=True,
                    idempotent=True,
                )
            ]
        ),
    ),
    ("removed", ToolRemoved(name="get_weather", status="removed")),
    (
        "history",
        MessageList(
            session_id=SESSION_ID,
            messages=[
                MessageEntry(role="system", content="You help travelers. Be brief."),
                MessageEntry(role="user", content="What is the weather in Oslo?"),
                MessageEntry(
                    role="assistant",
                    content="Let me check. ",
                    tool_calls=[ToolCallEntry(call_id=CALL_ID, name="get_weather", arguments={"city": "Oslo"})],
                ),
                MessageEntry(
                    role="tool_result", content="-3 °C, snow", call_id=CALL_ID, name="get_weather", is_error=False
                ),
                MessageEntry(role="assistant", content="It is snowing in Oslo at -3 °C."),
            ],
        ),
    ),
    ("stats", SessionStats(session_id=SESSION_ID, turns=2, **_USED)),
    (
        "usage",
        TenantUsage(tenant="default", total=UsageFigures(**_USED), keys=[KeyUsage(key_id="key_2a655e557f5d", **_USED)]),
    ),
    (
        "page",
        EventPage(
            events=[EventEntry(**frame, at=WHEN) for frame in list(event_examples().values())[:2]],
            next=f"{EPOCH}.2",
            earliest=f"{EPOCH}.0",
            latest=f"{EPOCH}.14",
        ),
    ),
    ("call", CallbackCall(call_id=CALL_ID, tool_name="get_weather", args={"city": "Oslo"}, session_id=SESSION_ID)),
    ("result", CallbackResult(result="-3 °C, snow")),
    ("error", CallbackError(error="the weather service is not responding")),
)

EXAMPLES: dict[type[BaseModel], dict[str, Example]] = {**_REQUESTS}
"""Examples of each body, by name."""

for _name, _answer in _ANSWERS:
    EXAMPLES.setdefault(type(_answer), {})[_name] = _answer.wire()

ERRORS: dict[str, GatewayError] = {
    error.code: error
    for error in (
        BadRequest("model: should be a valid string", [("model", "should be a valid string")]),
        InvalidCursor(f"'yesterday' is not a cursor; use one such as {EPOCH}.14, or `start` or `latest`"),
        Unauthorized(),
        BudgetExceeded("the budget of the session is spent"),
        Forbidden("a ticket of scope `read` allows no actions"),
        SessionNotFound("support-4712"),
        SessionDead(SESSION_ID),
        MethodNotAllowed("PUT", "/v1/sessions", ("GET", "POST")),
        RequestTimeout("body"),
        AlreadyResolved(f"approval {APPROVAL_ID!r}", "rejected"),
        DigestMismatch(APPROVAL_ID),
        SessionExists("support-4711"),
        IdempotencyInProgress(),
        CursorExpired("koyx4hit.3", f"{EPOCH}.0", f"{EPOCH}.14"),
        PayloadTooLarge(1_048_576),
        UriTooLong(8_192),
        UnsupportedMediaType("text/plain"),
        CreateFailed(
            "the model 'nope:x' is not available: this server has no provider 'nope'; available models: scripted:*"
        ),
        RegistrationFailed(
            "callbackUrl: 127.0.0.1 is not a public address; the operator can allow it with GATEWAY_CALLBACK_ALLOW"
        ),
        IdempotencyMismatch(),
        UpgradeRequired(),
        RateLimited(7),
        QueueFull(100),
        HeadersTooLarge("the header block is longer than 32768 bytes"),
        Internal("9f2c41d07be38a65"),
        Unavailable("the server is stopping", retry_after=5),
    )
}


def error_example(code: str) -> Example:
    """Return the body of an error with this code."""
    error = ERRORS[code]
    return {"error": error.code, "message": error.message, **error.members()}
