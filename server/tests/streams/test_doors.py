"""WS-1, SSE-12 and EP-tickets: credentials for streams and WebSockets."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from cmdc_testkit.events import json_object, text_of
from cmdc_testkit.gateways import KEY, OTHER_KEY, GatewayProcess, InProcessGateway, in_process_gateway
from cmdc_testkit.streams import event_stream, open_websocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus


async def refusal(served: InProcessGateway, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """The response to a rejected WebSocket handshake."""
    options = {"proxy": None, "additional_headers": {"X-API-Key": KEY}, **options}
    with pytest.raises(InvalidStatus) as refused:
        async with asyncio.timeout(5), connect(f"ws://127.0.0.1:{served.port}{path}", **options):
            pass
    answer = refused.value.response
    assert answer.headers["content-type"] == "application/json"
    assert answer.body is not None
    return answer.status_code, json_object(bytes(answer.body))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ticket(client: httpx.AsyncClient, session: str, scope: str = "read") -> str:
    answer = await client.post(f"/v1/sessions/{session}/tickets", json={"scope": scope})
    assert answer.status_code == 201, answer.text
    return answer.json()["ticket"]


# Keys


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {"X-API-Key": KEY}),
        ("", bearer(KEY)),
        (f"?api_key={KEY}", {}),
        (f"?api_key={KEY}", {"X-API-Key": KEY}),
        ("?api_key=wrong", {"X-API-Key": KEY}),
        ("", {"X-API-Key": KEY, "Authorization": "Bearer wrong"}),
    ],
)
async def test_a_websocket_opens_with_a_key_in_a_header_or_in_the_url(
    served: InProcessGateway, session: str, query: str, headers: dict[str, str]
) -> None:
    """WS-1, HTTP-7: the header takes precedence."""
    async with asyncio.timeout(5), open_websocket(served.port, session, query, additional_headers=headers) as talk:
        assert (await talk.act("abort")) == {"ok": False}


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        ("", {"X-API-Key": "wrong"}),
        ("", bearer("wrong")),
        ("", {"Authorization": f"Basic {KEY}"}),
        ("?api_key=wrong", {}),
        ("?api_key=", {}),
        (f"?api_key={KEY}", {"X-API-Key": "wrong"}),
        (f"?API_KEY={KEY}", {}),
    ],
)
async def test_a_bad_key_is_rejected_before_the_upgrade(
    served: InProcessGateway, session: str, query: str, headers: dict[str, str]
) -> None:
    """WS-1: 401 with the usual body; also if the session or the path does not exist."""
    for path in (f"/v1/sessions/{session}/ws", "/v1/sessions/nobody/ws", "/v1/nowhere"):
        status, body = await refusal(served, f"{path}{query}", additional_headers=headers)
        assert (status, body["error"]) == (401, "unauthorized")
        assert set(body) == {"error", "message"}
        assert KEY not in str(body)


async def test_an_unknown_session_is_rejected_before_the_upgrade(served: InProcessGateway, session: str) -> None:
    """WS-1, HTTP-8: a session of another tenant gets the same response."""
    status, body = await refusal(served, "/v1/sessions/nobody/ws")
    assert (status, body["error"]) == (404, "not_found")

    hidden = await refusal(served, f"/v1/sessions/{session}/ws", additional_headers=bearer(OTHER_KEY))
    assert hidden == (404, {**body, "message": body["message"].replace("nobody", session)})


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/sessions/{}/events", "/v1/sessions/{}/ws/", "/ws", "/"])
async def test_an_unknown_path_is_rejected_before_the_upgrade(
    served: InProcessGateway, session: str, path: str
) -> None:
    """WS-1, HTTP-6."""
    status, body = await refusal(served, path.format(session))

    assert (status, body["error"]) == (404, "not_found")


async def test_an_unknown_parameter_is_rejected_before_the_upgrade(served: InProcessGateway, session: str) -> None:
    """WS-1, HTTP-3."""
    for query in ("follow=true", "ticket=x", "after=start&after=latest"):
        status, body = await refusal(served, f"/v1/sessions/{session}/ws?{query}")
        assert (status, body["error"]) == (400, "bad_request")


async def test_a_plain_get_of_a_websocket_needs_an_upgrade(client: httpx.AsyncClient, session: str) -> None:
    """WS-1.plain: 426."""
    answer = await client.get(f"/v1/sessions/{session}/ws")

    assert (answer.status_code, answer.json()["error"]) == (426, "upgrade_required")


async def test_an_operator_can_disable_keys_in_the_url(tmp_path: Path) -> None:
    """WS-1: headers still work."""
    async with in_process_gateway(tmp_path, ws_api_key=False) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})

        status, body = await refusal(served, f"/v1/sessions/s/ws?api_key={KEY}", additional_headers={})
        assert (status, body["error"]) == (401, "unauthorized")
        async with asyncio.timeout(5), open_websocket(served.port, "s") as talk:
            assert await talk.act("abort") == {"ok": False}


async def test_a_key_in_the_url_is_in_no_log(tmp_path: Path) -> None:
    """WS-1: at any level, in a process started like an operator's."""
    gateway = GatewayProcess(tmp_path, GATEWAY_LOG_LEVEL="debug")
    async with gateway, gateway.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        url = f"ws://127.0.0.1:{gateway.port}/v1/sessions/s/ws"
        async with asyncio.timeout(10), connect(f"{url}?api_key={KEY}", proxy=None) as socket:
            await socket.send("nonsense")
            await socket.recv()
        for query in (f"api_key={KEY}x", f"api_key={KEY}&nonsense=1", f"api_key={KEY}&after=nonsense"):
            with pytest.raises(InvalidStatus):
                async with connect(f"{url}?{query}", proxy=None):
                    pass
        await client.get(f"/v1/sessions/s/ws?api_key={KEY}")
        await client.get(f"/v1/sessions/s/events?api_key={KEY}")
        await gateway.stop()

    assert "draining" in gateway.log()
    assert KEY not in gateway.log()


async def test_a_key_in_the_url_is_in_no_log_record(
    served: InProcessGateway, session: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """WS-1: not even if every logger is set to its lowest level."""
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets", "websockets.server", "asyncio")
    for name in names:
        caplog.set_level(logging.DEBUG, logger=name)
    with structlog.testing.capture_logs() as logged:
        async with (
            asyncio.timeout(5),
            connect(
                f"ws://127.0.0.1:{served.port}/v1/sessions/{session}/ws?api_key={KEY}",
                proxy=None,
                logger=logging.getLogger("quiet"),
            ) as socket,
        ):
            await socket.send("nonsense")
            await socket.recv()

    assert KEY not in caplog.text
    assert KEY not in str(logged)
    assert KEY not in "".join(capfd.readouterr())


# Origins


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A gateway with one origin, and a session `s`."""
    async with in_process_gateway(tmp_path, cors_origins=["https://app.example"]) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        yield served


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://app.example", "https://app.example.evil", "https://app.example:1", "null"],
)
async def test_a_foreign_origin_is_rejected_before_the_upgrade(guarded: InProcessGateway, origin: str) -> None:
    """WS-1: also with a valid key, which a hostile page could use."""
    status, body = await refusal(guarded, f"/v1/sessions/s/ws?api_key={KEY}", origin=origin, additional_headers={})

    assert (status, body["error"]) == (403, "forbidden")


async def test_a_configured_origin_and_a_missing_one_are_accepted(guarded: InProcessGateway) -> None:
    """WS-1: programs send none."""
    for options in ({"origin": "https://app.example"}, {}):
        async with asyncio.timeout(5), open_websocket(guarded.port, "s", **options) as talk:
            assert await talk.act("abort") == {"ok": False}


async def test_an_asterisk_allows_every_origin(served: InProcessGateway, session: str) -> None:
    """WS-1: the default."""
    async with asyncio.timeout(5), open_websocket(served.port, session, origin="https://any.example") as talk:
        assert await talk.act("abort") == {"ok": False}


# Tickets


async def test_a_ticket_opens_one_stream(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """SSE-12, EP-tickets: a second one is rejected."""
    name = await ticket(client, session)
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": "hello"})

    async with asyncio.timeout(5), event_stream(served.port, session, f"?ticket={name}", key=None) as stream:
        assert text_of(await stream.rest()) == "You said: hello"
    async with event_stream(served.port, session, f"?ticket={name}", key=None) as stream:
        assert (stream.status, (await stream.body())["error"]) == (401, "unauthorized")


async def test_a_ticket_opens_one_websocket(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """WS-1: the server selects `cmdc.v1` and never returns the ticket."""
    protocols = ["cmdc.v1", f"cmdc.ticket.{await ticket(client, session, 'control')}"]

    async with asyncio.timeout(5), open_websocket(served.port, session, key=None, subprotocols=protocols) as talk:
        assert talk.socket.subprotocol == "cmdc.v1"
        await talk.act("prompt", text="hello")
        assert text_of(await talk.until("agent_end")) == "You said: hello"
    status, body = await refusal(served, f"/v1/sessions/{session}/ws", subprotocols=protocols, additional_headers={})
    assert (status, body["error"]) == (401, "unauthorized")


async def test_a_websocket_without_the_subprotocol_negotiates_none(served: InProcessGateway, session: str) -> None:
    """WS-1: base clients offer none; other subprotocols are not selected."""
    for offered in ([], ["other"], ["other", "cmdc.v2"]):
        async with asyncio.timeout(5), open_websocket(served.port, session, subprotocols=offered or None) as talk:
            assert talk.socket.subprotocol is None
    async with asyncio.timeout(5), open_websocket(served.port, session, subprotocols=["other", "cmdc.v1"]) as talk:
        assert talk.socket.subprotocol == "cmdc.v1"


async def test_a_ticket_is_valid_only_for_its_session(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """EP-tickets: and a failed attempt uses it up."""
    other = (await client.post("/v1/sessions", json={"model": "scripted:x"})).json()["sessionId"]
    name = await ticket(client, session)

    for place in (other, session):
        async with event_stream(served.port, place, f"?ticket={name}", key=None) as stream:
            assert stream.status == 401


@pytest.mark.parametrize("age_ms", [29_999, 30_000])
async def test_a_ticket_is_valid_for_30_seconds(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, monkeypatch: pytest.MonkeyPatch, age_ms: int
) -> None:
    """EP-tickets."""
    tickets = served.gateway.actions._tickets  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(tickets, "_clock", lambda: 1_000_000)
    answer = await client.post(f"/v1/sessions/{session}/tickets", json={"scope": "read"})
    assert answer.json()["expiresAt"] == 1_030_000

    monkeypatch.setattr(tickets, "_clock", lambda: 1_000_000 + age_ms)

    query = f"?ticket={answer.json()['ticket']}"
    async with asyncio.timeout(5), event_stream(served.port, session, query, key=None) as stream:
        assert stream.status == (200 if age_ms < 30_000 else 401)


async def test_a_read_ticket_allows_no_actions(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """WS-3: events are still sent."""
    protocols = ["cmdc.v1", f"cmdc.ticket.{await ticket(client, session)}"]
    actions = [
        {"action": "prompt", "text": "hello"},
        {"action": "approve", "approvalId": "a"},
        {"action": "reject", "approvalId": "a"},
        {"action": "respond", "ref": "r", "response": "yes"},
        {"action": "abort"},
    ]

    async with asyncio.timeout(5), open_websocket(served.port, session, key=None, subprotocols=protocols) as talk:
        for number, action in enumerate(actions):
            answer = await talk.act(**action, actionId=str(number))
            assert (answer["error"], answer["actionId"]) == ("forbidden", str(number))
        await client.post(f"/v1/sessions/{session}/prompt", json={"text": "hello"})
        assert text_of(await talk.until("agent_end")) == "You said: hello"


@pytest.mark.parametrize("path", ["", "/messages", "/stats", "/tools"])
async def test_a_ticket_opens_only_streams(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, path: str
) -> None:
    """SSE-12."""
    name = await ticket(client, session, "control")
    async with served.client(None) as nobody:
        answer = await nobody.get(f"/v1/sessions/{session}{path}", params={"ticket": name})

    assert answer.status_code == 401


async def test_a_ticket_also_opens_a_page(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """SSE-11, SSE-12: the URL is the same."""
    name = await ticket(client, session)
    headers = {"Accept": "application/json"}
    async with event_stream(served.port, session, f"?ticket={name}", key=None, headers=headers) as answer:
        assert (await answer.body())["events"] == []


async def test_an_unknown_session_has_no_tickets(client: httpx.AsyncClient) -> None:
    """EP-tickets."""
    assert (await client.post("/v1/sessions/nobody/tickets", json={"scope": "read"})).status_code == 404


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": KEY}, bearer(KEY)])
async def test_a_key_in_the_url_of_a_stream_is_rejected(
    served: InProcessGateway, session: str, headers: dict[str, str]
) -> None:
    """SSE-12: whatever the headers say."""
    for query in (f"?api_key={KEY}", "?api_key=", f"?after=start&api_key={KEY}"):
        async with event_stream(served.port, session, query, key=None, headers=headers) as stream:
            body = await stream.body()
        assert (stream.status, body["error"]) == (400, "bad_request")
        assert KEY not in str(body)


# Draining


async def test_no_stream_opens_while_the_server_drains(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """WS-1, DUR-3: 503, before the upgrade and before the stream."""
    served.gateway.connections.drain()

    status, body = await refusal(served, f"/v1/sessions/{session}/ws")
    assert (status, body["error"]) == (503, "unavailable")
    async with event_stream(served.port, session) as stream:
        assert (stream.status, (await stream.body())["error"]) == (503, "unavailable")
        assert int(stream.headers["retry-after"]) > 0


# The rate limit


async def test_opening_a_stream_and_each_action_count_as_one_request(tmp_path: Path) -> None:
    """HTTP-9: 429 before the upgrade, `rate_limited` over the WebSocket."""
    async with in_process_gateway(tmp_path, rate_limit_rpm=6) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        async with asyncio.timeout(5), event_stream(served.port, "s") as stream:
            assert stream.headers["ratelimit"].startswith('"default";r=4;')
            async with open_websocket(served.port, "s") as talk:
                answers = [await talk.act("abort", actionId=str(number)) for number in range(5)]

        assert [answer.get("ok") for answer in answers] == [False] * 3 + [None] * 2
        assert (answers[3]["error"], answers[3]["actionId"]) == ("rate_limited", "3")
        assert answers[3]["retryAfter"] > 0
        status, body = await refusal(served, "/v1/sessions/s/ws")
        assert (status, body["error"]) == (429, "rate_limited")
        async with event_stream(served.port, "s") as stream:
            assert stream.status == 429
