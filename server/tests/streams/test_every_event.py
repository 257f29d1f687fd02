"""EVT-5: all fifteen events are the same over SSE, over a WebSocket and in a page."""

import asyncio
from typing import Any

import httpx
import pytest
from cmdc_conformance.schemas import EVENTS
from cmdc_conformance.wire.event import names
from cmdc_testkit.conversations import call, script
from cmdc_testkit.events import ReceivedEvent, received_event
from cmdc_testkit.gateways import InProcessGateway
from cmdc_testkit.streams import EventStream, WebSocketClient, event_stream, open_websocket

TALKATIVE = script(
    {"thinking": ["Let me ", "see."], "text": ["One ", "moment."], "toolCalls": [call("nonsense")]},
    {"toolCalls": [call("ask_user", question="Which colour?", options=["red", "blue"])]},
    {"toolCalls": [call("write_file", path="colour.txt", content="red"), call("write_file", path="x", content="y")]},
    {"text": ["Done."]},
)
ASKS = script({"toolCalls": [call("ask_user", question="Go on?")]})

FIRST_RUN = [
    "prompt_received",
    "agent_start",
    "thinking_start",
    "thinking_delta",
    "thinking_delta",
    "message_start",
    "message_delta",
    "message_delta",
    "tool_calls",
    "error",
    "tool_calls",
    "tool_execution_start",
    "ask_user",
    "tool_execution_end",
    "tool_calls",
    "approval_required",
    "approval_required",
    "approval_resolved",
    "tool_execution_start",
    "tool_execution_end",
    "approval_resolved",
    "message_start",
    "message_delta",
    "agent_end",
]
SECOND_RUN = [
    *("prompt_received", "agent_start", "tool_calls", "tool_execution_start", "ask_user"),
    *("tool_execution_end", "agent_abort"),
]


async def converse(
    client: httpx.AsyncClient, session: str, reader: EventStream | WebSocketClient
) -> list[ReceivedEvent]:
    """Cause every event, with decisions over HTTP; return what `reader` received."""

    async def do(action: str, **body: Any) -> None:
        answer = await client.post(f"/v1/sessions/{session}/{action}", json=body)
        assert answer.is_success, answer.text

    seen: list[ReceivedEvent] = []
    await do("prompt", text=TALKATIVE)
    seen += await reader.until("ask_user")
    await do("respond", ref=seen[-1].data["ref"], response="blue")
    first = await reader.until("approval_required")
    second = await reader.until("approval_required")
    seen += [*first, *second]
    await do("approve", approvalId=first[-1].data["approvalId"])
    seen += await reader.until("tool_execution_end")
    await do("reject", approvalId=second[-1].data["approvalId"], reason="not that one")
    seen += await reader.until("agent_end")
    await do("prompt", text=ASKS)
    seen += await reader.until("ask_user")
    await do("abort", reason="enough")
    return seen + await reader.until("agent_abort")


async def test_all_fifteen_events_are_the_same_in_a_stream_on_a_websocket_and_in_a_page(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """EVT-5, SSE-2, WS-2, SSE-11: the same members for every reader, live or later."""
    async with (
        asyncio.timeout(10),
        event_stream(served.port, session, "?follow=true") as stream,
        open_websocket(served.port, session) as talk,
    ):
        streamed = await converse(client, session, stream)
        live = [await talk.next() for _ in streamed]
    page = (await client.get(f"/v1/sessions/{session}/events", headers={"Accept": "application/json"})).json()
    async with asyncio.timeout(5), open_websocket(served.port, session, "?after=start") as talk:
        replayed = [await talk.next() for _ in streamed]

    assert names(streamed) == FIRST_RUN + SECOND_RUN
    assert set(names(streamed)) == set(EVENTS)
    assert len(EVENTS) == 15
    assert live == replayed == streamed
    assert [received_event(entry["id"], entry["event"], entry["data"]) for entry in page["events"]] == streamed


async def test_every_event_has_its_values(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """EVT-5: the values."""
    async with asyncio.timeout(10), event_stream(served.port, session, "?follow=true") as stream:
        seen = await converse(client, session, stream)

    def data(name: str, index: int = 0) -> dict[str, Any]:
        found = [dict(event.data) for event in seen if event.name == name][index]
        del found["requestId"]
        return found

    assert data("prompt_received") == {"text": TALKATIVE}
    assert data("agent_start") == data("thinking_start") == data("message_start") == {}
    assert data("thinking_delta") == {"delta": "Let me "}
    assert data("message_delta") == {"delta": "One "}
    assert [data("tool_calls", index)["count"] for index in range(4)] == [1, 1, 2, 1]
    assert "nonsense" in data("error")["reason"]

    asked, answered = data("ask_user"), data("tool_execution_end")
    assert asked == {"ref": asked["ref"], "question": "Which colour?", "options": ["red", "blue"]}
    assert (answered["toolName"], answered["status"], answered["result"]) == ("ask_user", "ok", "blue")
    assert data("ask_user", 1)["options"] is None

    shown, started, ended = data("approval_required"), data("tool_execution_start", 1), data("tool_execution_end", 1)
    assert shown["toolName"] == "write_file"
    assert shown["args"] == started["args"] == {"path": "colour.txt", "content": "red"}
    assert shown["callId"] == started["callId"] == ended["callId"]
    assert shown["expiresAt"] is None
    assert ended["status"] == "ok"
    assert data("approval_resolved") == {"approvalId": shown["approvalId"], "status": "approved"}
    assert data("approval_resolved", 1)["status"] == "rejected"

    end = data("agent_end")
    assert end["lastMessage"] == {"role": "assistant", "content": "Done."}
    assert set(end["tokenUsage"]) == {"promptTokens", "completionTokens", "totalTokens"}
    messages = (await client.get(f"/v1/sessions/{session}/messages")).json()["messages"]
    asks_again = next(index for index, message in enumerate(messages) if message["content"] == ASKS)
    assert end["messageCount"] == asks_again
    assert data("agent_abort") == {"reason": "enough"}


async def test_decisions_can_be_made_over_the_websocket(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """WS-3: the whole conversation over one connection."""
    async with asyncio.timeout(10), open_websocket(served.port, session) as talk:
        accepted = await talk.act("prompt", text=TALKATIVE)
        seen = await talk.until("ask_user")
        answers = [await talk.act("respond", ref=seen[-1].data["ref"], response="blue")]
        first, second = (await talk.until("approval_required"))[-1], (await talk.until("approval_required"))[-1]
        answers.append(await talk.act("approve", approvalId=first.data["approvalId"]))
        await talk.until("tool_execution_end")
        answers.append(await talk.act("reject", approvalId=second.data["approvalId"]))
        await talk.until("agent_end")
        await talk.act("prompt", text=ASKS)
        await talk.until("ask_user")
        answers.append(await talk.act("abort"))
        assert (await talk.until("agent_abort"))[-1].data["reason"] == "aborted"
        answers.append(await talk.act("abort"))

    assert set(accepted) == {"requestId", "sessionId", "queued", "cursor"}
    assert (accepted["sessionId"], accepted["queued"]) == (session, False)
    assert answers == [
        {"ok": True, "action": "respond", "ref": seen[-1].data["ref"]},
        {"ok": True, "action": "approve", "approvalId": first.data["approvalId"]},
        {"ok": True, "action": "reject", "approvalId": second.data["approvalId"]},
        {"ok": True},
        {"ok": False},
    ]


@pytest.mark.parametrize("name", sorted(EVENTS))
async def test_each_event_type_can_be_selected(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, name: str
) -> None:
    """SSE-8."""
    async with asyncio.timeout(10):
        async with event_stream(served.port, session, "?follow=true") as stream:
            seen = await converse(client, session, stream)
        only = [event for event in seen if event.name == name]
        async with event_stream(served.port, session, f"?follow=true&after=start&types={name}") as stream:
            assert [await stream.next() for _ in only] == only
