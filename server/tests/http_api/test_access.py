"""Authentication and isolation of tenants: HTTP-6 to HTTP-8."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_gateway.tenancy.keys import new_key
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import parse_events
from cmdc_testkit.gateways import KEY, OTHER_KEY, InProcessGateway, in_process_gateway
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNAUTHORIZED = {
    "error": "unauthorized",
    "message": "a valid API key is required: send X-API-Key: KEY or Authorization: Bearer KEY",
}
BODIES: dict[str, dict[str, Any]] = {
    "sessions": {"model": "scripted:x"},
    "prompt": {"text": "x"},
    "approve": {"approvalId": "apr_call_1"},
    "reject": {"approvalId": "apr_call_1"},
    "respond": {"ref": "ask_call_1", "response": "yes"},
    "abort": {},
    "tickets": {},
    "tools": {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": "http://127.0.0.1:9/"},
}


@pytest.fixture
def served(shared: InProcessGateway) -> InProcessGateway:
    return shared


def requests(served: InProcessGateway, session_id: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    """A valid request for every operation under /v1."""
    return [
        (
            method.upper(),
            path.replace("{session_id}", session_id).replace("{name}", "t"),
            BODIES[path.rpartition("/")[2]] if method == "post" else None,
        )
        for path, methods in served.app.openapi()["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    ]


# -- HTTP-7


async def test_every_route_needs_a_key(served: InProcessGateway) -> None:
    """HTTP-7."""
    async with served.client(None) as nobody:
        for method, path, body in requests(served, "s"):
            answer = await nobody.request(method, path, json=body)
            assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "with_key"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/usage", 405),
        ("OPTIONS", "/v1/usage", 405),
        ("GET", "/", 404),
        ("GET", "/v2/sessions", 404),
        ("GET", "/V1/usage", 404),
        ("GET", "/healthz/", 404),
        ("GET", "//healthz", 404),
        ("GET", "/docs/index.html", 404),
        ("GET", "/nothing?api_key=" + KEY, 404),
        ("POST", "/healthz", 405),
        ("DELETE", "/openapi.json", 405),
        ("OPTIONS", "/docs", 405),
    ],
)
async def test_unknown_paths_and_wrong_methods_need_a_key_first(
    served: InProcessGateway, method: str, path: str, with_key: int
) -> None:
    """HTTP-6: authentication is the default, also outside /v1."""
    async with served.client(None) as anonymous, served.client("wrong") as wrong, served.client() as client:
        for unauthenticated in (anonymous, wrong):
            answer = await unauthenticated.request(method, path)
            assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)

        answer = await client.request(method, path)

    assert answer.status_code == with_key
    assert ("allow" in answer.headers) == (with_key == 405)


@pytest.mark.parametrize("path", ["/", "/ws", "/v2/sessions/s/ws", "/v1/sessions/s/events", "/docs"])
async def test_a_websocket_at_an_unknown_path_needs_a_key_first(served: InProcessGateway, path: str) -> None:
    """HTTP-6, WS-1."""
    url = f"ws://127.0.0.1:{served.port}{path}"
    statuses: list[int] = []
    for headers in ({}, {"X-API-Key": KEY}):
        with pytest.raises(InvalidStatus) as rejected:
            await connect(url, additional_headers=headers, proxy=None)
        statuses.append(rejected.value.response.status_code)

    assert statuses == [401, 404]


async def test_a_preflight_needs_no_key_on_any_path(served: InProcessGateway) -> None:
    """HTTP-7."""
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    async with served.client(None) as anonymous:
        assert (await anonymous.options("/nothing", headers=headers)).status_code == 204


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/openapi.json", "/asyncapi.json", "/events.schema.json", "/docs"]
)
async def test_public_routes_need_no_key(served: InProcessGateway, path: str) -> None:
    """HTTP-7."""
    async with served.client(None) as nobody:
        assert (await nobody.get(path)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"x-api-key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
        {"Authorization": f"BEARER   {KEY}"},
        {"X-API-Key": KEY, "Authorization": "Bearer wrong"},
        {"X-API-Key": KEY, "Authorization": "Basic dXNlcjpwYXNz"},
    ],
)
async def test_a_key_is_accepted_in_either_header(served: InProcessGateway, headers: dict[str, str]) -> None:
    """HTTP-7: X-API-Key takes precedence."""
    async with served.client(None) as client:
        assert (await client.get("/v1/usage", headers=headers)).json()["tenant"] == "default"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": KEY.upper()},
        {"X-API-Key": f"{KEY} {KEY}"},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
        {"X-API-Key": "", "Authorization": f"Bearer {KEY}"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer{KEY}"},
        {"Cookie": f"api_key={KEY}"},
    ],
)
async def test_a_missing_or_wrong_key_is_unauthorized(served: InProcessGateway, headers: dict[str, str]) -> None:
    """HTTP-7: the response is the same for every invalid key."""
    async with served.client(None) as client:
        answer = await client.get("/v1/usage", headers=headers)

    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)


async def test_a_key_of_bytes_beyond_ascii_is_a_wrong_key(served: InProcessGateway) -> None:
    """HTTP-7."""
    async with served.client(None) as client:
        answer = await client.get("/v1/usage", headers=[(b"X-API-Key", b"k\xe9y\xff")])

    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)


async def test_a_key_in_the_url_is_not_accepted_over_http(served: InProcessGateway) -> None:
    """HTTP-7: it is accepted only in the URL of a WebSocket."""
    async with served.client(None) as client:
        assert (await client.get("/v1/usage", params={"api_key": KEY})).status_code == 401


async def test_a_key_may_be_configured_by_its_hash(tmp_path: Path) -> None:
    """HTTP-7: the server does not need the key itself."""
    made = new_key()
    async with (
        in_process_gateway(tmp_path) as served,
        served.client(made.key) as client,
        served.client(made.stored) as thief,
    ):
        served.keys.replace({made.stored: "third"})

        assert (await client.get("/v1/usage")).json()["tenant"] == "third"
        assert (await thief.get("/v1/usage")).status_code == 401


async def test_a_revoked_key_is_rejected_and_its_streams_end(tmp_path: Path) -> None:
    """HTTP-7, WS-6."""
    async with in_process_gateway(tmp_path) as served, served.client() as client, served.client(OTHER_KEY) as other:
        talk = await Conversation.begin(client)
        async with client.stream("GET", f"{talk.path}/events", params={"follow": "true"}) as stream:
            served.keys.replace({OTHER_KEY: "other"})

            async with asyncio.timeout(5):
                assert [event async for event in parse_events(stream.aiter_raw())] == []
        assert (await client.get(talk.path)).status_code == 401
        assert (await other.get("/v1/usage")).status_code == 200


# -- HTTP-8


async def test_resources_of_another_tenant_do_not_exist(
    served: InProcessGateway, client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-8: on every route the same status, body and headers, byte for byte."""
    talk = await Conversation.begin(client, sessionId="taken", tools=["shell", "ask_user"])
    await talk.post("tools", BODIES["tools"])
    await talk.prompt(script(calling(("shell", {"command": "true"}), ("ask_user", {"question": "?"}))))
    await talk.first("approval_required")
    before = await talk.info()
    foreign, unknown = requests(served, "taken"), requests(served, "empty")
    about_sessions = [pair for pair in zip(foreign, unknown, strict=True) if pair[0] != pair[1]]

    for (method, path, body), (_, other_path, _) in about_sessions:
        theirs = await stranger.request(method, path, json=body)
        nobodys = await stranger.request(method, other_path, json=body)

        assert theirs.status_code == nobodys.status_code == (426 if path.endswith("/ws") else 404), path
        assert theirs.content.replace(b"taken", b"empty") == nobodys.content
        assert {**theirs.headers, "date": ""} == {**nobodys.headers, "date": ""}

    assert len(about_sessions) == 15
    after = await talk.info()
    assert {**after, "uptimeMs": 0} == {**before, "uptimeMs": 0}


async def test_ids_inside_a_session_of_another_tenant_reveal_nothing(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-8: for decisions, answers, and replay by request or cursor."""
    talk = await Conversation.begin(client, sessionId="inside", tools=["shell", "ask_user"])
    calls = (("shell", {"command": "true"}), ("ask_user", {"question": "?"}))
    request_id = await talk.prompt(script(calling(*calls)))
    approval, question = await talk.first("approval_required"), await talk.first("ask_user")
    cursor = (await talk.info())["cursor"]
    not_found = (404, {"error": "not_found", "message": "no session 'inside'"})

    for action, body in (
        ("approve", {"approvalId": approval["approvalId"], "digest": approval["digest"]}),
        ("reject", {"approvalId": approval["approvalId"]}),
        ("respond", {"ref": question["ref"], "response": "x"}),
    ):
        answer = await stranger.post(f"{talk.path}/{action}", json=body)
        assert (answer.status_code, answer.json()) == not_found
    for params in ({"requestId": request_id}, {"after": cursor}, {"after": "start", "follow": "true"}):
        answer = await stranger.get(f"{talk.path}/events", params=params)
        assert (answer.status_code, answer.json()) == not_found

    assert (await talk.info())["state"] == "waiting_approval"


async def test_two_tenants_can_use_the_same_session_id(client: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    """HTTP-8: an id that another tenant uses is available."""
    mine = await Conversation.begin(client, sessionId="same", metadata={"whose": "mine"})
    theirs = await Conversation.begin(stranger, sessionId="same", metadata={"whose": "theirs"})
    await mine.run("hello")

    assert (await theirs.info())["metadata"] == {"whose": "theirs"}
    assert await theirs.messages() == []
    await theirs.client.delete(theirs.path)
    assert (await mine.info())["metadata"] == {"whose": "mine"}
    listed = (await client.get("/v1/sessions")).json()["sessions"]
    assert [session["metadata"] for session in listed if session["sessionId"] == "same"] == [{"whose": "mine"}]


async def test_a_cursor_of_the_session_list_reveals_nothing_of_another_tenant(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-8."""
    for _ in range(2):
        await Conversation.begin(client)
    cursor = (await client.get("/v1/sessions", params={"limit": 1})).json()["nextCursor"]

    answer = await stranger.get("/v1/sessions", params={"cursor": cursor})

    theirs = {session["sessionId"] for session in (await stranger.get("/v1/sessions")).json()["sessions"]}
    assert {session["sessionId"] for session in answer.json()["sessions"]} <= theirs


async def test_a_ticket_is_valid_only_for_the_session_of_its_tenant(
    served: InProcessGateway, client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-8, EP-create: the same id of two tenants is two sessions."""
    mine = await Conversation.begin(client, sessionId="ticket")
    theirs = await Conversation.begin(stranger, sessionId="ticket")
    await mine.run("of mine")
    await theirs.run("of theirs")
    ticket = (await theirs.post("tickets")).json()["ticket"]

    async with served.client(None) as nobody:
        seen = [seen async for seen in Conversation(nobody, "ticket").stream(ticket=ticket, after="start")]

    assert seen[0].data["text"] == "of theirs"
