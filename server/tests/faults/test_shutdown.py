"""DUR-3: SIGTERM, as clients see it."""

import asyncio
import json
import os
import signal
import socket
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from cmdc_gateway.web.middleware.exceptions import ExceptionMiddleware
from cmdc_testkit.audit import audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.gateways import KEY, GatewayProcess
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, close_code, record_session, wait_until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

# The server has to exit within the grace period and 1 s. A busy machine gets another second.
CLOSING_SECONDS = 1 + 1
SLOW = script({"text": ["tick "] * 5_000, "delayMs": 10})


def with_grace(milliseconds: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("gateway", [milliseconds], indirect=True)


class StoppingGateway:
    """A gateway that has received SIGTERM."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.begun = time.monotonic()
        gateway.send_signal(signal.SIGTERM)

    async def wait_until_draining(self, client: httpx.AsyncClient) -> None:
        """Wait until `/readyz` fails."""
        async with asyncio.timeout(5):
            while (await client.get("/readyz")).status_code == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def wait_until_exited(self) -> float:
        """Wait for the exit, whose status must be 0; return the seconds since SIGTERM."""
        async with asyncio.timeout(30):
            assert await self.gateway.wait() == 0
        return time.monotonic() - self.begun


def web_socket(gateway: GatewayProcess, talk: Conversation) -> connect:
    url = gateway.url.replace("http", "ws", 1)
    return connect(f"{url}{talk.path}/ws", additional_headers={"X-API-Key": KEY}, proxy=None)


async def test_streams_of_idle_sessions_end_immediately(gateway: GatewayProcess, client: httpx.AsyncClient) -> None:
    """DUR-3: without waiting for the grace period of 30 s."""
    used, new = await Conversation.begin(client), await Conversation.begin(client)
    await used.run("hello")
    async with Watcher(used) as first, Watcher(new) as second, web_socket(gateway, used) as open_socket:
        await first.until("agent_end")
        stopping = StoppingGateway(gateway)

        assert await close_code(open_socket) == 1012
        assert [await first.wait_until_disconnected(), await second.wait_until_disconnected()] == [True, True]
        assert await stopping.wait_until_exited() < 10


async def test_a_run_that_ends_within_the_grace_period_is_read_to_its_end(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-3: on its stream and its WebSocket, before the server exits."""
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher, web_socket(gateway, talk) as open_socket:
        accepted = [await talk.prompt(script({"text": ["word "] * 30, "delayMs": 30})), await talk.prompt("later")]
        await watcher.until("message_delta")
        stopping = StoppingGateway(gateway)
        code = await close_code(open_socket)
        clean = await watcher.wait_until_disconnected()
        took = await stopping.wait_until_exited()

        await gateway.start()
        await watcher.resume()
        await watcher.until("agent_end", 2)
        assert audit(await record_session(talk, watcher, accepted=accepted)) == []
    assert (code, clean) == (1012, True)
    assert took < 10
    assert [frame.name for frame in watcher.events].count("agent_abort") == 0


@with_grace(1_000)
async def test_a_run_that_exceeds_the_grace_period_is_interrupted_by_the_restart(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-2, DUR-3: its stream ends without a terminal event, and the server exits within the grace period and 1 s."""
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher, web_socket(gateway, talk) as open_socket:
        accepted = [await talk.prompt(SLOW), await talk.prompt("next")]
        await watcher.until("message_delta")
        stopping = StoppingGateway(gateway)
        code = await close_code(open_socket)
        clean = await watcher.wait_until_disconnected()
        took = await stopping.wait_until_exited()
        ended_with = watcher.events[-1].name

        await gateway.start()
        await watcher.resume()
        aborted = await watcher.until("agent_abort")
        await watcher.until("agent_end")
        assert audit(await record_session(talk, watcher, accepted=accepted)) == []
    assert (code, clean, ended_with, aborted["reason"]) == (1012, True, "message_delta", "interrupted")
    assert 1 <= took < 1 + CLOSING_SECONDS


async def test_a_run_that_waits_for_a_user_does_not_delay_the_exit(
    gateway: GatewayProcess, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """DUR-2, DUR-3: it can be approved or answered after the restart."""
    asking = await Conversation.begin(client, tools=["ask_user"])
    guarded = await Conversation.begin(client, approval={"tools": ["*"], "timeoutMs": 0})
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    assert (await guarded.post("tools", tool)).status_code == 201
    async with Watcher(asking) as first, Watcher(guarded) as second:
        await asking.prompt(script(calling(("ask_user", {"question": "?"}))))
        await guarded.prompt(script(calling(("t", {}))))
        ref = (await first.until("ask_user"))["ref"]
        approval_id = (await second.until("approval_required"))["approvalId"]
        stopping = StoppingGateway(gateway)
        clean = [await first.wait_until_disconnected(), await second.wait_until_disconnected()]
        took = await stopping.wait_until_exited()

        await gateway.start()
        for watcher in (first, second):
            await watcher.resume()
        answered = await asking.post("respond", {"ref": ref, "response": "yes"})
        approved = await guarded.post("approve", {"approvalId": approval_id})
        for talk, watcher in ((asking, first), (guarded, second)):
            await watcher.until("agent_end")
            assert audit(await record_session(talk, watcher)) == []
    assert clean == [True, True]
    assert took < 10
    assert (answered.status_code, approved.status_code, len(receiver.calls)) == (200, 200, 1)


async def test_a_draining_gateway_rejects_new_work(gateway: GatewayProcess, client: httpx.AsyncClient) -> None:
    """DUR-3: 503 with Retry-After for prompts, sessions, streams and WebSockets; reading and deciding still work."""
    busy = await Conversation.begin(client)
    idle = await Conversation.begin(client)
    async with Watcher(busy) as watcher:
        await busy.prompt(SLOW)
        await watcher.until("message_delta")
        stopping = StoppingGateway(gateway)
        await stopping.wait_until_draining(client)

        refused = [
            await client.get("/readyz"),
            await idle.post("prompt", {"text": "hello"}),
            await busy.post("prompt", {"text": "hello"}),
            await client.post("/v1/sessions", json={"model": "scripted:x"}),
            await idle.get("/events"),
            await busy.get("/events", after="start"),
        ]
        with pytest.raises(InvalidStatus) as not_opened:
            await web_socket(gateway, busy)
        healthy = await client.get("/healthz")
        page = await client.get(f"{busy.path}/events", headers={"Accept": "application/json"})
        aborted = await busy.post("abort")
        clean = await watcher.wait_until_disconnected()
        took = await stopping.wait_until_exited()

    assert [answer.status_code for answer in refused] == [503] * len(refused)
    assert {answer.json()["error"] for answer in refused} == {"unavailable"}
    assert all(answer.headers["retry-after"].isdecimal() for answer in refused)
    assert not_opened.value.response.status_code == 503
    assert not_opened.value.response.headers["retry-after"].isdecimal()
    assert (healthy.status_code, page.status_code, aborted.status_code) == (200, 200, 202)
    assert (clean, watcher.events[-1].name) == (True, "agent_abort")
    assert took < 10


async def test_a_decision_during_the_drain_is_kept(
    gateway: GatewayProcess, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """DUR-1, DUR-3."""
    talk, busy = await Conversation.begin(client), await Conversation.begin(client)
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    assert (await talk.post("tools", {**tool, "requiresApproval": True})).status_code == 201
    async with Watcher(talk) as watcher, Watcher(busy) as other:
        await talk.prompt(script(calling(("t", {}))))
        await busy.prompt(SLOW)
        approval_id = (await watcher.until("approval_required"))["approvalId"]
        await other.until("message_delta")
        stopping = StoppingGateway(gateway)
        await stopping.wait_until_draining(client)
        approved = await talk.post("approve", {"approvalId": approval_id})
        await watcher.until("agent_end")
        await busy.post("abort")
        await stopping.wait_until_exited()

        await gateway.start()
        await watcher.resume()
        calls = [call.body["callId"] for call in receiver.calls]
        assert audit(await record_session(talk, watcher, decisions={approval_id: "approved"}, executed=calls)) == []
    assert approved.status_code == 200


async def test_a_second_signal_ends_the_grace_period(gateway: GatewayProcess, client: httpx.AsyncClient) -> None:
    """DUR-3: nothing that was accepted is lost."""
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(SLOW)]
        await watcher.until("message_delta")
        stopping = StoppingGateway(gateway)
        await stopping.wait_until_draining(client)
        gateway.send_signal(signal.SIGTERM)
        took = await stopping.wait_until_exited()
        await watcher.wait_until_disconnected()

        await gateway.start()
        await watcher.resume()
        await watcher.until("agent_abort")
        assert audit(await record_session(talk, watcher, accepted=accepted)) == []
    assert took < 10


@with_grace(500)
async def test_stalled_readers_and_running_commands_do_not_delay_the_exit(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-3, SSE-10: within the grace period and 1 s."""
    talk = await Conversation.begin(client, tools=["shell"])
    for _ in range(8):
        await talk.run(script({"text": ["x" * 60_000] * 12}))
    request = f"GET {talk.path}/events?after=start&follow=true HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\n\r\n"
    async with AsyncExitStack() as stack:
        for _ in range(5):
            stalled = stack.enter_context(socket.socket())
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", gateway.port))
            stalled.sendall(request.encode())
        watcher = await stack.enter_async_context(Watcher(talk))
        await talk.prompt(script(calling(("shell", {"command": "echo $$ > pid.txt; exec sleep 600"}))))
        await watcher.until("tool_execution_start")
        pid = gateway.folder / "gateway-workspace" / "pid.txt"
        await wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))

        took = await StoppingGateway(gateway).wait_until_exited()

        assert took < 0.5 + CLOSING_SECONDS
        assert not is_alive(int(pid.read_text())), "a command does not outlive a server that received SIGTERM"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_sigint_has_the_effect_of_sigterm(gateway: GatewayProcess, client: httpx.AsyncClient) -> None:
    """DUR-3."""
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher:
        gateway.send_signal(signal.SIGINT)
        clean = await watcher.wait_until_disconnected()
        status = await gateway.wait()
    assert (clean, status) == (True, 0)


async def test_many_sessions_and_streams_do_not_delay_the_exit(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-3: two hundred idle sessions, each with a reader."""
    talks = [await Conversation.begin(client) for _ in range(200)]
    watchers = [Watcher(talk) for talk in talks]
    async with httpx.AsyncClient(
        base_url=gateway.url,
        headers={"X-API-Key": KEY},
        trust_env=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    ) as wide:
        for talk in talks:
            talk.client = wide
        await asyncio.gather(*(watcher.resume() for watcher in watchers))
        stopping = StoppingGateway(gateway)
        clean: list[Any] = await asyncio.gather(*(watcher.wait_until_disconnected() for watcher in watchers))
        took = await stopping.wait_until_exited()
    assert all(clean)
    assert took < 10


async def test_a_request_that_the_exit_interrupts_returns_503() -> None:
    """DUR-3, HTTP-2: in JSON, where uvicorn would return 500 in plain text."""
    entered = asyncio.Event()
    sent: list[Any] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    request = asyncio.create_task(
        ExceptionMiddleware(slow)({"type": "http", "method": "POST", "headers": []}, receive, send)
    )
    await entered.wait()
    request.cancel()
    await request

    start, body = sent
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"].isdigit()
    assert json.loads(body["body"])["error"] == "unavailable"
