"""SSE-5: where a reader without a cursor starts."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_gateway.store.factory import create_store
from cmdc_testkit.conversations import script
from cmdc_testkit.events import ReceivedEvent, text_of
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from cmdc_testkit.streams import event_stream, open_websocket, wait_until

ASKS = script({"toolCalls": [{"name": "ask_user", "args": {"question": "Go on?"}}]}, {"text": ["Going on."]})


async def post(client: httpx.AsyncClient, session: str, text: str) -> dict[str, Any]:
    answer = await client.post(f"/v1/sessions/{session}/prompt", json={"text": text})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def done(client: httpx.AsyncClient, session: str) -> None:
    """Wait until nothing is active or queued."""
    await until(client, session, lambda info: info["state"] == "idle" and not info["queue"])


async def until(client: httpx.AsyncClient, session: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while not true(info := (await client.get(f"/v1/sessions/{session}")).json()):
            pass
    return info


async def read(served: InProcessGateway, session: str, query: str = "") -> list[ReceivedEvent]:
    async with asyncio.timeout(5), event_stream(served.port, session, query) as stream:
        return await stream.rest()


async def test_a_reader_that_connects_during_a_run_starts_at_its_first_event(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5: an earlier run, never read, is not shown."""
    await post(client, session, "earlier")
    await done(client, session)
    accepted = await post(client, session, ASKS)
    await until(client, session, lambda info: info["state"] == "waiting_input")

    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        events = await stream.until("ask_user")

    assert names(events) == ["prompt_received", "agent_start", "tool_calls", "tool_execution_start", "ask_user"]
    assert {event.request_id for event in events} == {accepted["requestId"]}


async def test_a_reader_that_connects_after_an_unread_run_gets_all_of_it(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5."""
    await post(client, session, "hello")
    await done(client, session)

    events = await read(served, session)

    assert names(events)[:2] == ["prompt_received", "agent_start"]
    assert text_of(events) == "You said: hello"


async def test_of_two_unread_runs_a_reader_gets_the_later(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5: the terminal event of the *most recent* run decides."""
    await post(client, session, "one")
    await post(client, session, "two")
    await done(client, session)

    assert text_of(await read(served, session)) == "You said: two"


async def test_a_reader_that_connects_after_a_read_run_waits_for_the_next(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5."""
    await post(client, session, "one")
    await read(served, session)

    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        await post(client, session, "two")
        assert text_of(await stream.rest()) == "You said: two"


async def test_of_a_read_run_and_an_unread_one_a_reader_gets_the_unread(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5."""
    await post(client, session, "one")
    await read(served, session)
    await post(client, session, "two")
    await done(client, session)

    assert text_of(await read(served, session)) == "You said: two"


async def test_queued_prompts_do_not_hide_the_active_run(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5: the reader gets the run that is active, and the next reader the next."""
    await post(client, session, ASKS)
    await post(client, session, ASKS.replace("Going on.", "Going on again."))

    texts: list[str] = []
    for _ in range(2):
        async with asyncio.timeout(5), event_stream(served.port, session) as stream:
            asked = (await stream.until("ask_user"))[-1]
            await client.post(f"/v1/sessions/{session}/respond", json={"ref": asked.data["ref"], "response": "yes"})
            texts.append(text_of(await stream.rest()))

    assert texts == ["Going on.", "Going on again."]


async def test_a_hundred_prompts_read_one_after_the_other_are_all_read(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5: in the order of the published client, which sends the prompt before it opens the stream."""
    for number in range(100):
        await post(client, session, str(number))
        assert text_of(await read(served, session)) == f"You said: {number}"


async def test_a_websocket_does_not_count_as_a_reader(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5."""
    async with asyncio.timeout(5), open_websocket(served.port, session) as talk:
        await talk.act("prompt", text="hello")
        await talk.until("agent_end")

    assert text_of(await read(served, session)) == "You said: hello"


async def test_a_page_does_not_count_as_a_reader(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5."""
    await post(client, session, "hello")
    await done(client, session)
    page = await client.get(f"/v1/sessions/{session}/events", headers={"Accept": "application/json"})
    assert page.json()["events"][-1]["event"] == "agent_end"

    assert text_of(await read(served, session)) == "You said: hello"


async def test_a_stream_that_filters_out_the_terminal_event_does_not_count(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5, SSE-8: no reader received the event."""
    await post(client, session, "hello")
    assert names(await read(served, session, "?types=agent_start")) == ["agent_start"]

    assert (await read(served, session))[-1].name == "agent_end"


@pytest.mark.parametrize("query", ["?after=start", "?requestId={requestId}", "?follow=true", "?types=agent_end"])
async def test_any_stream_that_sent_the_terminal_event_counts(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, query: str
) -> None:
    """SSE-5."""
    accepted = await post(client, session, "one")
    async with asyncio.timeout(5), event_stream(served.port, session, query.format_map(accepted)) as stream:
        await stream.until("agent_end")

    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        await post(client, session, "two")
        assert text_of(await stream.rest()) == "You said: two"


async def test_a_reader_that_disconnected_before_the_terminal_event_does_not_count(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-5, SSE-9."""
    await post(client, session, ASKS)
    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        asked = (await stream.until("ask_user"))[-1]
    await wait_until(lambda: len(served.gateway.connections) == 0)
    await client.post(f"/v1/sessions/{session}/respond", json={"ref": asked.data["ref"], "response": "yes"})
    await done(client, session)

    assert names(await read(served, session))[0] == "prompt_received"


async def test_that_a_run_was_read_survives_a_restart(tmp_path: Path) -> None:
    """SSE-5."""
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with in_process_gateway(tmp_path, store=create_store(url)) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        await post(client, "s", "one")
        await read(served, "s")

    async with (
        in_process_gateway(tmp_path, store=create_store(url)) as served,
        served.client() as client,
        asyncio.timeout(5),
        event_stream(served.port, "s") as stream,
    ):
        await post(client, "s", "two")
        assert text_of(await stream.rest()) == "You said: two"


async def test_that_a_run_was_not_read_survives_a_restart(tmp_path: Path) -> None:
    """SSE-5."""
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with in_process_gateway(tmp_path, store=create_store(url)) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        await post(client, "s", "one")
        await read(served, "s")
        await post(client, "s", "two")
        await done(client, "s")

    async with in_process_gateway(tmp_path, store=create_store(url)) as served:
        assert text_of(await read(served, "s")) == "You said: two"
