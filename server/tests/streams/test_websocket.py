"""WS-2 … WS-7: messages of a WebSocket, their order, and close codes."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_testkit.conversations import call, script
from cmdc_testkit.events import text_of
from cmdc_testkit.gateways import KEY, OTHER_KEY, TENANTS, GatewayProcess, InProcessGateway, in_process_gateway
from cmdc_testkit.streams import WebSocketClient, event_stream, open_websocket, wait_until

ASKS = script({"toolCalls": [call("ask_user", question="Go on?")]}, {"text": ["Going on."]})


@pytest.fixture
async def talk(served: InProcessGateway, session: str) -> AsyncIterator[WebSocketClient]:
    """An open WebSocket on the session."""
    async with asyncio.timeout(20), open_websocket(served.port, session) as talk:
        yield talk


# Events


async def test_events_are_sent_from_the_time_of_connecting_across_runs(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """WS-2: nothing of the previous run, and all of the following ones, without a gap."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": "before"})
    async with event_stream(served.port, session) as stream:
        last = (await stream.rest())[-1]

    async with asyncio.timeout(5), open_websocket(served.port, session) as talk:
        for text in ("one", "two", "three"):
            await client.post(f"/v1/sessions/{session}/prompt", json={"text": text})
        events = [event for _ in range(3) for event in await talk.until("agent_end")]

    assert [event.seq for event in events] == list(range(last.seq + 1, last.seq + 1 + len(events)))
    assert text_of(events) == "You said: oneYou said: twoYou said: three"


@pytest.mark.parametrize("place", ["start", "2", "end"])
async def test_after_works_as_for_a_stream(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, place: str
) -> None:
    """WS-2, SSE-6: and new events follow."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": "one"})
    async with event_stream(served.port, session) as stream:
        run = await stream.rest()
    after, expected = {"start": ("start", run), "2": (run[1].id, run[2:]), "end": (run[-1].id, [])}[place]

    async with asyncio.timeout(5), open_websocket(served.port, session, f"?after={after}") as talk:
        assert [await talk.next() for _ in expected] == expected
        await talk.act("prompt", text="two")
        assert text_of(await talk.until("agent_end")) == "You said: two"


async def test_any_number_of_websockets_get_every_event(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """WS-2, SSE-9: also when one of them disconnects."""

    async def listen(number: int, ready: asyncio.Barrier) -> list[str]:
        async with open_websocket(served.port, session) as talk:
            await ready.wait()
            if number % 5 == 0:
                await talk.until("message_delta")
                return []
            return [event.id for event in await talk.until("agent_end")]

    async with asyncio.timeout(20):
        ready = asyncio.Barrier(26)
        listeners = [asyncio.create_task(listen(number, ready)) for number in range(25)]
        await ready.wait()
        text = script({"text": ["x"] * 100, "delayMs": 1})
        await client.post(f"/v1/sessions/{session}/prompt", json={"text": text})
        heard = [ids for ids in await asyncio.gather(*listeners) if ids]

    assert len(heard) == 20
    assert heard == [heard[0]] * 20
    assert len(heard[0]) == 104


# Actions


async def test_an_acknowledgement_comes_before_the_events_it_causes_under_load(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """WS-4: thirty sessions at a time, each with two connections, and a prompt while another run is active."""

    async def hold(number: int) -> None:
        session = f"load-{number}"
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": session})
        async with open_websocket(served.port, session) as talk, open_websocket(served.port, session) as other:
            accepted: list[str] = []
            for turn in range(6):
                speaker = talk if turn % 3 else other
                answer = await speaker.act("prompt", text=f"turn {turn}", actionId=f"{number}-{turn}")
                assert answer["actionId"] == f"{number}-{turn}"
                accepted.append(answer["requestId"])
                if turn % 2:
                    await talk.until("agent_end")
            for speaker in (talk, other):
                while (end := await speaker.next()).request_id != accepted[-1] or not end.is_terminal:
                    pass
                check_order(speaker)

    def check_order(speaker: WebSocketClient) -> None:
        acknowledged: dict[str, int] = {}
        first: dict[str, int] = {}
        for index, message in enumerate(speaker.received):
            if "event" in message:
                first.setdefault(message["data"]["requestId"], index)
            else:
                acknowledged[message["requestId"]] = index
        assert all(acknowledged[request_id] < first[request_id] for request_id in acknowledged)

    async with asyncio.timeout(50):
        await asyncio.gather(*(hold(number) for number in range(30)))


async def test_a_decision_is_acknowledged_before_its_events(talk: WebSocketClient) -> None:
    """WS-4: `approval_resolved` comes after the answer to `approve`, `tool_execution_end` after that to `respond`."""
    for number in range(10):
        await talk.act("prompt", text=script({"toolCalls": [call("write_file", path=f"{number}", content="x")]}))
        shown = (await talk.until("approval_required"))[-1]
        before = len(talk.received)
        await talk.act("approve", approvalId=shown.data["approvalId"])
        assert talk.received[before] == {"ok": True, "action": "approve", "approvalId": shown.data["approvalId"]}
        assert (await talk.next()).name == "approval_resolved"
        await talk.until("agent_end")
        await asyncio.sleep(0.1)  # the pace is the subject of other tests; this stays below it


async def test_an_abort_is_acknowledged_before_its_events(talk: WebSocketClient) -> None:
    """WS-4."""
    await talk.act("prompt", text=ASKS)
    await talk.until("ask_user")
    before = len(talk.received)

    assert await talk.act("abort", reason="enough", actionId="a") == {"ok": True, "actionId": "a"}

    assert talk.received[before] == {"ok": True, "actionId": "a"}
    assert names(await talk.until("agent_abort")) == ["tool_execution_end", "agent_abort"]


async def test_each_action_is_acknowledged_once_and_in_order(talk: WebSocketClient) -> None:
    """WS-4: also actions that are pipelined, and actions that are rejected."""
    for number in range(15):
        action = {"action": "prompt", "text": "x"} if number % 3 else {"action": "nonsense"}
        await talk.socket.send(json.dumps({**action, "actionId": str(number)}))

    answers = [await talk.acknowledgement() for _ in range(15)]

    assert [answer["actionId"] for answer in answers] == [str(number) for number in range(15)]
    assert [("error" in answer) for answer in answers] == [number % 3 == 0 for number in range(15)]


@pytest.mark.parametrize("action_id", ["", "a", "x" * 64, "👧", "\u2028"])
async def test_an_action_id_is_returned_unchanged(talk: WebSocketClient, action_id: str) -> None:
    """WS-3, WS-4: base clients send none and receive none."""
    assert await talk.act("abort", actionId=action_id) == {"ok": False, "actionId": action_id}
    assert await talk.act("abort") == {"ok": False}


@pytest.mark.parametrize("action_id", ["x" * 65, 7, None, ["a"], {}])
async def test_an_invalid_action_id_is_rejected(talk: WebSocketClient, action_id: Any) -> None:
    """WS-3, HTTP-3."""
    answer = await talk.act("abort", actionId=action_id)

    assert (answer["error"], set(answer)) == ("bad_request", {"error", "message"})


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("prompt", {"text": ""}),
        ("prompt", {"text": 7}),
        ("prompt", {"text": "x", "more": 1}),
        ("prompt", {}),
        ("approve", {"approvalId": "unknown"}),
        ("reject", {"approvalId": "unknown"}),
        ("respond", {"ref": "unknown", "response": "yes"}),
        ("respond", {"ref": "unknown"}),
        ("abort", {"reason": ""}),
        ("abort", {"more": 1}),
    ],
)
async def test_an_acknowledgement_has_the_body_of_the_http_response(
    client: httpx.AsyncClient, session: str, talk: WebSocketClient, action: str, body: dict[str, Any]
) -> None:
    """WS-3, WS-4: the same rules, and the same body."""
    over_http = await client.post(f"/v1/sessions/{session}/{action}", json=body)

    assert await talk.act(action, **body) == over_http.json()


async def test_a_decision_over_one_transport_holds_for_the_other(
    client: httpx.AsyncClient, session: str, talk: WebSocketClient
) -> None:
    """WS-3, APP-2: the second decision gets the first one's result."""
    await talk.act("prompt", text=script({"toolCalls": [call("write_file", path="x", content="x")]}))
    approval = (await talk.until("approval_required"))[-1].data["approvalId"]

    taken = await client.post(f"/v1/sessions/{session}/reject", json={"approvalId": approval})
    assert await talk.act("reject", approvalId=approval) == taken.json()
    refused = await talk.act("approve", approvalId=approval)
    assert (refused["error"], refused["status"]) == ("already_resolved", "rejected")


async def test_a_digest_is_checked_over_websockets_too(talk: WebSocketClient) -> None:
    """WS-3, APP-3: and the call runs with edited arguments."""
    await talk.act("prompt", text=script({"toolCalls": [call("write_file", path="x", content="x")]}))
    shown = (await talk.until("approval_required"))[-1].data
    approval = {"approvalId": shown["approvalId"]}

    assert (await talk.act("approve", **approval, digest="0" * 64))["error"] == "digest_mismatch"
    edited = {"path": "y", "content": "y"}
    assert (await talk.act("approve", **approval, digest=shown["digest"], args=edited))["ok"] is True
    assert (await talk.until("tool_execution_start"))[-1].data["args"] == edited


# Idempotency


async def test_an_action_with_an_idempotency_key_has_one_effect(
    client: httpx.AsyncClient, session: str, talk: WebSocketClient
) -> None:
    """WS-3, HTTP-11: sent twice over each transport; the response is the stored one."""
    answers = [await talk.act("prompt", text="hello", idempotencyKey="once", actionId=name) for name in "ab"]
    over_http = [
        await client.post(f"/v1/sessions/{session}/prompt", json={"text": "hello"}, headers={"Idempotency-Key": "once"})
        for _ in range(2)
    ]
    await talk.until("agent_end")

    assert [answer.pop("actionId") for answer in answers] == ["a", "b"]
    assert answers == [answers[0]] * 2
    assert [answer.json() for answer in over_http] == answers
    assert [answer.headers["idempotent-replayed"] for answer in over_http] == ["true"] * 2
    assert (await client.get(f"/v1/sessions/{session}/stats")).json()["promptCount"] == 1


async def test_a_request_first_sent_over_http_is_not_executed_again(
    client: httpx.AsyncClient, session: str, talk: WebSocketClient
) -> None:
    """WS-3, HTTP-11: also not with another text."""
    first = await client.post(
        f"/v1/sessions/{session}/prompt", json={"text": "hello"}, headers={"Idempotency-Key": "once"}
    )

    assert await talk.act("prompt", text="hello", idempotencyKey="once") == first.json()
    assert (await talk.act("prompt", text="other", idempotencyKey="once"))["error"] == "idempotency_mismatch"


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "é", 7, None])
async def test_an_invalid_idempotency_key_is_rejected(talk: WebSocketClient, key: Any) -> None:
    """WS-3, HTTP-11: it is never ignored."""
    answer = await talk.act("prompt", text="hello", idempotencyKey=key)

    assert answer["error"] == "bad_request"


# Bad frames


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "nonsense",
        "[]",
        '"prompt"',
        "null",
        "{}",
        '{"action": null}',
        '{"action": "PROMPT", "text": "x"}',
        '{"action": ["prompt"], "text": "x"}',
        '{"action": "create"}',
        '{"action": "tickets", "scope": "control"}',
        '{"action": "prompt"}',
        '{"action": "prompt", "text": "x", "text": "y"}',
        '{"action": "prompt", "text": "\\ud800"}',
        '{"action": "prompt", "text": "\\u0000"}',
        '{"action": "prompt", "text": "x", "n": NaN}',
        '{"action": "abort", "reason": 1e999}',
        '{"action": "abort", "event": "agent_end"}',
        '\ufeff{"action": "abort"}',
        '{"action": "abort"} {}',
        "[" * 100_000,
        b'{"action": "abort"}',
        b"\xff\xfe",
    ],
)
async def test_a_bad_frame_gets_an_error_and_the_connection_stays_open(
    talk: WebSocketClient, frame: str | bytes
) -> None:
    """WS-5, HTTP-4: and it has no effect."""
    answer = await talk.send(frame)

    assert set(answer) <= {"error", "message", "details"}
    assert answer["error"] == "bad_request"
    await talk.act("prompt", text="hello")
    assert text_of(await talk.until("agent_end")) == "You said: hello"


@pytest.mark.parametrize("members", [{"action": "nonsense"}, {"action": "prompt"}, {}, {"action": "prompt", "text": 7}])
async def test_the_error_for_a_bad_frame_has_its_action_id(talk: WebSocketClient, members: dict[str, Any]) -> None:
    """WS-5: if it could be parsed."""
    answer = await talk.send(json.dumps({**members, "actionId": "mine"}))

    assert (answer["error"], answer["actionId"]) == ("bad_request", "mine")


async def test_a_frame_of_1_mib_is_accepted_and_one_byte_more_closes_with_1009(
    served: InProcessGateway, session: str, talk: WebSocketClient
) -> None:
    """WS-5, WS-6."""
    frame = json.dumps({"action": "abort", "actionId": "a", "more": ""})
    filled = frame[:-2] + "x" * (1_048_576 - len(frame)) + frame[-2:]
    assert (await talk.send(filled))["actionId"] == "a"

    await talk.socket.send(" " + filled)

    assert await talk.closed() == 1009


# The pace


async def test_at_most_20_messages_per_second_are_executed(
    served: InProcessGateway, session: str, talk: WebSocketClient
) -> None:
    """WS-7: bad frames count; frames over the limit get an error with their actionId."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(100):
        bad = number % 2
        await talk.socket.send(
            json.dumps({"action": "nonsense" if bad else "prompt", "text": "x", "actionId": str(number)})
        )
    answers = [await talk.acknowledgement() for _ in range(100)]
    seconds = loop.time() - begun

    assert [answer["actionId"] for answer in answers] == [str(number) for number in range(100)]
    refused = [answer for answer in answers if answer.get("error") == "rate_limited"]
    assert 20 <= 100 - len(refused) <= 20 + 20 * seconds
    assert all(answer["retryAfter"] == 1 for answer in refused)
    async with served.client() as client:
        stats = (await client.get(f"/v1/sessions/{session}/stats")).json()
    assert stats["promptCount"] == sum("requestId" in answer for answer in answers)


async def test_a_long_frame_over_the_rate_limit_is_not_parsed(tmp_path: Path) -> None:
    """WS-7, HTTP-9: parsing is the expensive part, and a client could occupy the server with it."""
    async with in_process_gateway(tmp_path, rate_limit_rpm=3) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        async with asyncio.timeout(20), open_websocket(served.port, "s") as talk:
            assert await talk.act("abort", actionId="1") == {"ok": False, "actionId": "1"}
            long = await talk.act("abort", actionId="2", x=[1] * 300_000)
            short = await talk.act("abort", actionId="3")

    assert (long["error"], long.get("actionId")) == ("rate_limited", None)
    assert (short["error"], short["actionId"]) == ("rate_limited", "3")


async def test_fragments_and_control_frames_do_not_count(talk: WebSocketClient) -> None:
    """WS-7."""

    async def fragments() -> AsyncIterator[str]:
        for letter in json.dumps({"action": "abort", "actionId": "in pieces"}):
            yield letter

    for _ in range(50):
        await (await talk.socket.ping())
    await talk.socket.send(fragments())

    assert await talk.acknowledgement() == {"ok": False, "actionId": "in pieces"}
    for number in range(18):
        assert "error" not in await talk.act("abort", actionId=str(number))


async def test_a_busy_connection_does_not_slow_down_another(
    served: InProcessGateway, session: str, talk: WebSocketClient
) -> None:
    """WS-7: each has its own limit."""
    for _ in range(200):
        await talk.socket.send("nonsense")

    async with asyncio.timeout(5), open_websocket(served.port, session) as other:
        for _ in range(15):
            assert await other.act("abort") == {"ok": False}


# The end


async def test_a_client_closes_with_1000(served: InProcessGateway, session: str) -> None:
    """WS-6: and its stream is removed."""
    async with asyncio.timeout(5), open_websocket(served.port, session) as talk:
        await talk.socket.close(1000)

    assert talk.socket.close_code == 1000
    await wait_until(lambda: len(served.gateway.connections) == 0)


async def test_a_run_continues_when_its_websocket_is_lost(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-9: an acknowledged action stays in effect."""
    async with asyncio.timeout(5), open_websocket(served.port, session) as talk:
        await talk.act("prompt", text=script({"text": ["x"] * 40, "delayMs": 2}))
        talk.socket.transport.abort()

    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        assert text_of(await stream.rest()) == "x" * 40


async def test_a_revoked_key_closes_its_websockets_with_4001(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """WS-6: and its streams end; those of other keys stay open."""
    async with served.client(OTHER_KEY) as other:
        await other.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "theirs"})
    async with (
        asyncio.timeout(10),
        open_websocket(served.port, session) as talk,
        event_stream(served.port, session, "?follow=true") as stream,
        open_websocket(served.port, "theirs", key=OTHER_KEY) as theirs,
    ):
        ticket = (await client.post(f"/v1/sessions/{session}/tickets", json={"scope": "control"})).json()["ticket"]
        protocols = ["cmdc.v1", f"cmdc.ticket.{ticket}"]
        async with open_websocket(served.port, session, key=None, subprotocols=protocols) as by_ticket:
            served.keys.replace({key: tenant for key, tenant in TENANTS.items() if key != KEY})

            assert await talk.closed() == 4001
            assert await by_ticket.closed() == 4001
            assert await stream.rest() == []
            assert await theirs.act("abort") == {"ok": False}


async def test_actions_of_a_revoked_key_are_rejected(
    served: InProcessGateway, session: str, talk: WebSocketClient
) -> None:
    """WS-6, HTTP-7: even before the connection is closed."""
    served.keys.replace({KEY + "2": "default"})
    for _ in range(5):
        await talk.socket.send('{"action": "prompt", "text": "hello"}')

    assert await talk.closed() == 4001
    async with served.client(KEY + "2") as client:
        stats = (await client.get(f"/v1/sessions/{session}/stats")).json()
    assert stats["promptCount"] == 0


async def test_a_deleted_session_closes_its_websockets_with_4004(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, talk: WebSocketClient
) -> None:
    """WS-6, EP-delete: after the last event."""
    await talk.act("prompt", text=ASKS)
    await talk.until("ask_user")

    await client.delete(f"/v1/sessions/{session}")

    assert (await talk.until("agent_abort"))[-1].data["reason"] == "session_deleted"
    assert await talk.closed() == 4004


async def test_a_stopping_server_closes_its_websockets_with_1012(tmp_path: Path) -> None:
    """WS-6, DUR-3: for idle sessions immediately, for active runs at the end of the grace period."""
    gateway = GatewayProcess(tmp_path, GATEWAY_GRACE_MS="400")
    async with gateway, gateway.client() as client:
        for name in ("idle", "busy"):
            await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": name})
        async with (
            asyncio.timeout(20),
            open_websocket(gateway.port, "idle") as idle,
            open_websocket(gateway.port, "busy") as busy,
        ):
            await busy.act("prompt", text=script({"text": ["x"] * 10_000, "delayMs": 20}))
            await busy.until("message_delta")
            stopping = asyncio.create_task(gateway.stop())
            assert await idle.closed() == 1012
            assert not stopping.done()
            assert await busy.closed() == 1012
            assert await stopping == 0


async def test_events_of_a_run_that_ends_within_the_grace_period_still_arrive(tmp_path: Path) -> None:
    """DUR-3: up to the terminal event; then 1012."""
    async with in_process_gateway(tmp_path, grace_ms=5000) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        async with (
            asyncio.timeout(10),
            open_websocket(served.port, "s") as talk,
            event_stream(served.port, "s") as stream,
        ):
            await talk.act("prompt", text=script({"text": ["x"] * 30, "delayMs": 5}))
            await talk.until("message_delta")
            stopping = asyncio.create_task(served.server.shutdown())
            await talk.until("agent_end")
            assert await talk.closed() == 1012
            assert text_of(await stream.rest()) == "x" * 30
            await stopping
