"""One example of each event for the published schemas, from one plausible run."""

from __future__ import annotations

from typing import Any

from cmdc_gateway.protocol.events import (
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
)
from cmdc_gateway.protocol.history import TokenUsage

EPOCH = "koyx4hiu"
REQUEST_ID = "20179a1c02ca3430"
CALL_ID = f"call_{REQUEST_ID}_1"
APPROVAL_ID = f"apr_{CALL_ID}"
REF = f"ask_call_{REQUEST_ID}_2"
DIGEST = "72c8cd98635c54f4e484418c1fd37e5f12298d788204fece5b51647c0107e41d"
WHEN = 1_795_348_783_408

_EVENTS: tuple[Event, ...] = (
    PromptReceived(text="What is the weather in Oslo?"),
    AgentStart(),
    ThinkingStart(),
    ThinkingDelta(delta="They want today's weather."),
    MessageStart(),
    MessageDelta(delta="Let me check. "),
    ToolCalls(count=2),
    ApprovalRequired(
        approval_id=APPROVAL_ID,
        tool_name="get_weather",
        args={"city": "Oslo"},
        hint='get_weather {"city":"Oslo"}',
        requested_at=WHEN,
        call_id=CALL_ID,
        digest=DIGEST,
        expires_at=None,
    ),
    ApprovalResolved(approval_id=APPROVAL_ID, status="approved"),
    ToolExecutionStart(tool_name="get_weather", call_id=CALL_ID, args={"city": "Oslo"}),
    AskUser(ref=REF, question="Which unit?", options=["°C", "°F"]),
    ToolExecutionEnd(tool_name="get_weather", call_id=CALL_ID, status="ok", result="-3 °C, snow"),
    RunError(reason="this session has no tool 'get_forecast'"),
    AgentEnd(
        message_count=6,
        last_message=LastMessage(role="assistant", content="It is snowing in Oslo at -3 °C."),
        token_usage=TokenUsage(prompt_tokens=78, completion_tokens=21),
        cost_usd=0.00042,
    ),
    AgentAbort(reason="aborted"),
)


def event_examples() -> dict[type[Event], dict[str, Any]]:
    """An example of each event type in its wire form."""
    return {type(event): _frame(event, seq) for seq, event in enumerate(_EVENTS, start=1)}


def _frame(event: Event, seq: int) -> dict[str, Any]:
    return {"event": event.name, "data": {**event.data(), "requestId": REQUEST_ID}, "id": f"{EPOCH}.{seq}"}
