"""Concurrent, interrupted and excessive requests."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_testkit.audit import audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.gateways import KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.models import ScriptedModelServer
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, close_code, record_session, wait_until, wait_until_idle
from websockets.asyncio.client import connect

A_THOUSAND: list[tuple[str, dict[str, Any]]] = [("t", {})] * 1000
STALLED = script({"text": ["one ", "two"], "delayMs": 600_000})
TERMINAL = ("agent_end", "agent_abort")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    async with in_process_gateway(tmp_path) as served:
        yield served


@pytest.fixture
async def client(served: InProcessGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with served.client() as client:
        yield client


async def test_a_prompt_whose_client_disconnects_in_its_body_is_not_accepted(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """HTTP-5, SSE-9."""
    talk = await Conversation.begin(client)
    head = f"POST {talk.path}/prompt HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    for cut in (0, 1, 10):
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(f"{head}Content-Length: 20\r\n\r\n".encode() + b'{"text": "half of it'[:cut])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    await talk.run("whole")

    record = await record_session(talk)
    assert audit(record) == []
    assert record.prompt_count == 1


async def test_a_prompt_whose_client_disconnects_before_the_response_runs(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """EP-prompt, SSE-9, HTTP-11: the same key returns its response."""
    talk = await Conversation.begin(client)
    body = b'{"text": "whole"}'
    head = (
        f"POST {talk.path}/prompt HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: once\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    async with Watcher(talk) as watcher:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(head.encode() + body)
        await writer.drain()
        writer.transport.abort()
        again = await talk.post("prompt", {"text": "whole"}, Idempotency_Key="once")
        while again.status_code == 409:
            again = await talk.post("prompt", {"text": "whole"}, Idempotency_Key="once")
        await watcher.until("agent_end")

        record = await record_session(talk, watcher, accepted=[again.json()["requestId"]])
    assert audit(record) == []
    assert record.prompt_count == 1


async def test_a_run_continues_when_its_last_reader_disconnects(client: httpx.AsyncClient) -> None:
    """SSE-9."""
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher:
        request_id = await talk.prompt(script({"text": ["w "] * 20, "delayMs": 10}))
        await watcher.until("message_delta")

    assert names(await talk.events(request_id))[-1] == "agent_end"


async def test_a_thousand_tool_calls_in_one_step_execute_once_each(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """EVT-1, EVT-4: at most eight run in parallel."""
    talk = await Conversation.begin(client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    await talk.post("tools", tool)
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(*A_THOUSAND)))
        await wait_until(lambda: bool(watcher.events) and watcher.events[-1].name == "agent_end", within=50)
        calls = [call.body["callId"] for call in receiver.calls]
        assert audit(await record_session(talk, watcher, executed=calls)) == []
    assert len(calls) == 1000
    running = maximum = 0
    for event in watcher.events:
        running += {"tool_execution_start": 1, "tool_execution_end": -1}.get(event.name, 0)
        maximum = max(maximum, running)
    assert maximum <= 8


async def test_a_thousand_pending_approvals_are_cancelled_by_one_abort(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """APP-1, EVT-9."""
    talk = await Conversation.begin(client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    await talk.post("tools", {**tool, "requiresApproval": True})
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(*A_THOUSAND)))
        await watcher.until("approval_required", 1000)
        assert (await talk.post("abort")).status_code == 202
        await watcher.until("agent_abort")

        record = await record_session(talk, watcher)
    assert audit(record) == []
    assert [event.name for event in record.log].count("approval_resolved") == 1000
    assert receiver.calls == []


async def test_a_run_whose_model_stalls_can_be_aborted_and_the_queue_continues(client: httpx.AsyncClient) -> None:
    """EP-abort."""
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(STALLED), await talk.prompt("next")]
        await watcher.until("agent_start")
        aborted = await talk.post("abort", {"reason": "enough"})
        abort = await watcher.until("agent_abort")
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, accepted=accepted)) == []
    assert (aborted.json(), abort["reason"]) == ({"ok": True}, "enough")


@pytest.mark.timeout(120)
async def test_the_connection_to_a_stalled_model_is_closed_by_an_abort_and_by_the_timeout(tmp_path: Path) -> None:
    """MODEL-retry."""
    async with ScriptedModelServer() as model:
        file = {"models": {"far:m": {"model": "openai/m", "api_base": model.base_url}}}
        async with in_process_gateway(tmp_path, file=file, model_timeout_ms=1_000) as served, served.client() as client:
            talk = await Conversation.begin(client, model="far:m")
            warm = await client.post(f"{talk.path}/prompt", json={"text": "hello"})
            await wait_until_idle(talk, within=60)
            assert warm.status_code == 202

            model.fault = "stall"
            asked = len(model.requests)
            async with Watcher(talk, after="latest") as watcher:
                await talk.prompt("stall")
                await wait_until(lambda: len(model.requests) > asked)
                await talk.post("abort")
                await watcher.until("agent_abort")
                async with asyncio.timeout(5):
                    await model.requests[-1].disconnected.wait()

                await talk.prompt("stall")
                aborted = await watcher.until("agent_abort", 2)
            assert audit(await record_session(talk)) == []
    assert aborted["reason"] == "error"


@pytest.mark.parametrize("state", ["streaming", "running", "waiting_approval", "waiting_input", "queued", "idle"])
async def test_deleting_a_session_ends_its_runs_and_streams(
    served: InProcessGateway, client: httpx.AsyncClient, receiver: Receiver, state: str
) -> None:
    """EP-delete, WS-6: readers of an active run receive `agent_abort`; afterwards the session is unknown."""
    talk = await Conversation.begin(client, tools=["ask_user"])
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    await talk.post("tools", {**tool, "requiresApproval": state == "waiting_approval"})
    receiver.released.clear()
    prompts = {
        "streaming": (script({"text": ["w "] * 10_000, "delayMs": 1}), "message_delta"),
        "running": (script(calling(("t", {}))), "tool_execution_start"),
        "waiting_approval": (script(calling(("t", {}))), "approval_required"),
        "waiting_input": (script(calling(("ask_user", {"question": "?"}))), "ask_user"),
        "queued": (STALLED, "agent_start"),
        "idle": ("hello", "agent_end"),
    }
    url = f"ws://127.0.0.1:{served.port}{talk.path}/ws?after=start"
    async with Watcher(talk) as watcher, connect(url, additional_headers={"X-API-Key": KEY}, proxy=None) as socket:
        prompt, event = prompts[state]
        await talk.prompt(prompt)
        if state == "queued":
            await talk.prompt("never")
        await watcher.until(event)

        deleted = await client.delete(talk.path)
        clean = await watcher.wait_until_disconnected()
        code = await close_code(socket)

    afterwards = [await talk.get(), await talk.get("/events"), await talk.post("abort"), await client.delete(talk.path)]
    assert (deleted.status_code, clean) == (200, True)
    assert code == 4004
    assert [answer.status_code for answer in afterwards] == [404] * 4
    if state == "idle":
        assert watcher.events[-1].name == "agent_end"
    else:
        assert watcher.events[-1].data["reason"] == "session_deleted"
        assert [event.name for event in watcher.events].count("prompt_received") == 1
    assert served.gateway.registry.active == 0


async def test_concurrent_deletions_of_a_session_delete_it_once(client: httpx.AsyncClient) -> None:
    """EP-delete: a concurrent prompt is accepted before, or returns 404."""
    for _ in range(20):
        talk = await Conversation.begin(client)
        await talk.prompt(STALLED)

        answers = await asyncio.gather(
            *(client.delete(talk.path) for _ in range(4)), *(talk.post("prompt", {"text": "x"}) for _ in range(4))
        )

        assert sorted(answer.status_code for answer in answers[:4]) == [200, 404, 404, 404]
        assert {answer.status_code for answer in answers[4:]} <= {202, 404}


@pytest.mark.parametrize("seed", range(3))
async def test_a_run_whose_abort_races_with_its_end_has_one_terminal_event(
    client: httpx.AsyncClient, seed: int
) -> None:
    """EVT-2, EP-abort: nothing hangs, and the next prompt runs."""
    rng = random.Random(seed)
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher:
        accepted: list[str] = []
        stopped = 0
        for _ in range(40):
            accepted.append(await talk.prompt(script({"text": ["a ", "b"], "delayMs": 1})))
            await asyncio.sleep(rng.uniform(0, 0.008))
            answers = await asyncio.gather(*(talk.post("abort") for _ in range(3)))
            stopped += sum(answer.status_code == 202 for answer in answers)
        await wait_until_idle(talk)
        record = await record_session(talk, watcher, accepted=accepted)
    assert audit(record) == []
    assert [event.name for event in record.log].count("agent_abort") == stopped
    assert sum(event.name in TERMINAL for event in record.log) == 40


async def test_one_of_many_concurrent_decisions_wins(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-2, EVT-4: approvals, rejections and an abort."""
    talk = await Conversation.begin(client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    await talk.post("tools", {**tool, "requiresApproval": True})
    async with Watcher(talk) as watcher:
        decisions: dict[str, str] = {}
        for turn in range(1, 31):
            await talk.prompt(script(calling(("t", {}))))
            approval_id = (await watcher.until("approval_required", turn))["approvalId"]
            decision = {"approvalId": approval_id}
            posts = [talk.post("approve", decision), talk.post("reject", decision), talk.post("abort")] * 2
            random.Random(turn).shuffle(posts)
            answers = await asyncio.gather(*posts)
            for answer in answers:
                body = answer.json()
                if answer.status_code == 200 and "action" in body:
                    status = {"approve": "approved", "reject": "rejected"}[body["action"]]
                    assert decisions.setdefault(approval_id, status) == status, "two decisions were accepted"
            await wait_until_idle(talk)
        calls = [call.body["callId"] for call in receiver.calls]
        assert audit(await record_session(talk, watcher, decisions=decisions, executed=calls)) == []


async def test_a_tool_that_responds_after_the_abort_changes_nothing(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """EVT-2, EVT-9."""
    talk = await Conversation.begin(client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    await talk.post("tools", tool)
    receiver.released.clear()
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("t", {}), ("t", {}))))
        await receiver.wait_for_calls(2)
        await talk.post("abort")
        receiver.released.set()
        await watcher.until("agent_abort")
        await talk.run("next")
        await watcher.until("agent_end")

        assert (
            audit(await record_session(talk, watcher, executed=[call.body["callId"] for call in receiver.calls])) == []
        )
