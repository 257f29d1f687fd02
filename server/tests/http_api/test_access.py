"""Who gets in, and what is there for whom: HTTP-7, HTTP-8."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_gateway.tenancy.keys import new_key
from cmdc_testkit.conversations import Conversation, calling, frames, script
from cmdc_testkit.gateways import KEY, OTHER_KEY, Served, serving

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
def served(shared: Served) -> Served:
    return shared


def requests(served: Served, session_id: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    """A proper request for every operation under /v1."""
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


async def test_every_route_needs_a_key(served: Served) -> None:
    """HTTP-7."""
    async with served.client(None) as nobody:
        for method, path, body in [*requests(served, "s"), ("GET", "/v1/nothing", None), ("PUT", "/v1/usage", None)]:
            answer = await nobody.request(method, path, json=body)
            assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/openapi.json", "/asyncapi.json", "/events.schema.json", "/docs"]
)
async def test_what_tells_of_the_server_needs_no_key(served: Served, path: str) -> None:
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
async def test_a_key_is_taken_from_either_header(served: Served, headers: dict[str, str]) -> None:
    """HTTP-7: X-API-Key wins."""
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
async def test_a_missing_or_wrong_key_is_refused(served: Served, headers: dict[str, str]) -> None:
    """HTTP-7: whatever is wrong with it, the answer is the same."""
    async with served.client(None) as client:
        answer = await client.get("/v1/usage", headers=headers)

    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)


async def test_a_key_of_bytes_beyond_ascii_is_a_wrong_key(served: Served) -> None:
    """HTTP-7."""
    async with served.client(None) as client:
        answer = await client.get("/v1/usage", headers=[(b"X-API-Key", b"k\xe9y\xff")])

    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)


async def test_a_key_in_the_url_opens_nothing_over_http(served: Served) -> None:
    """HTTP-7: only the WebSocket's URL may carry one."""
    async with served.client(None) as client:
        assert (await client.get("/v1/usage", params={"api_key": KEY})).status_code == 401


async def test_a_key_may_be_configured_by_its_hash(tmp_path: Path) -> None:
    """HTTP-7: the server need not know the key."""
    made = new_key()
    async with serving(tmp_path) as served, served.client(made.key) as client, served.client(made.stored) as thief:
        served.keys.replace({made.stored: "third"})

        assert (await client.get("/v1/usage")).json()["tenant"] == "third"
        assert (await thief.get("/v1/usage")).status_code == 401


async def test_a_key_that_is_taken_away_opens_nothing_and_its_streams_end(tmp_path: Path) -> None:
    """HTTP-7, WS-6."""
    async with serving(tmp_path) as served, served.client() as client, served.client(OTHER_KEY) as other:
        talk = await Conversation.begin(client)
        async with client.stream("GET", f"{talk.path}/events", params={"follow": "true"}) as stream:
            served.keys.replace({OTHER_KEY: "other"})

            async with asyncio.timeout(5):
                assert [seen async for seen in frames(stream.aiter_lines())] == []
        assert (await client.get(talk.path)).status_code == 401
        assert (await other.get("/v1/usage")).status_code == 200


# -- HTTP-8


async def test_what_belongs_to_another_tenant_is_as_if_it_had_never_been(
    served: Served, client: httpx.AsyncClient, stranger: httpx.AsyncClient
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


async def test_ids_inside_a_foreign_session_say_nothing_either(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-8: for decisions, answers and replay by request or cursor."""
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


async def test_the_same_id_is_another_session_for_each_tenant(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-8: a name that another tenant uses is free."""
    mine = await Conversation.begin(client, sessionId="same", metadata={"whose": "mine"})
    theirs = await Conversation.begin(stranger, sessionId="same", metadata={"whose": "theirs"})
    await mine.run("hello")

    assert (await theirs.info())["metadata"] == {"whose": "theirs"}
    assert await theirs.messages() == []
    await theirs.client.delete(theirs.path)
    assert (await mine.info())["metadata"] == {"whose": "mine"}
    listed = (await client.get("/v1/sessions")).json()["sessions"]
    assert [session["metadata"] for session in listed if session["sessionId"] == "same"] == [{"whose": "mine"}]


async def test_a_cursor_of_the_session_list_shows_nothing_of_another_tenant(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-8."""
    for _ in range(2):
        await Conversation.begin(client)
    cursor = (await client.get("/v1/sessions", params={"limit": 1})).json()["nextCursor"]

    answer = await stranger.get("/v1/sessions", params={"cursor": cursor})

    theirs = {session["sessionId"] for session in (await stranger.get("/v1/sessions")).json()["sessions"]}
    assert {session["sessionId"] for session in answer.json()["sessions"]} <= theirs


async def test_a_ticket_is_good_for_the_session_of_its_tenant_alone(
    served: Served, client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-8, §3.11: the same id of two tenants is two sessions."""
    mine = await Conversation.begin(client, sessionId="ticket")
    theirs = await Conversation.begin(stranger, sessionId="ticket")
    await mine.run("of mine")
    await theirs.run("of theirs")
    ticket = (await theirs.post("tickets")).json()["ticket"]

    async with served.client(None) as nobody:
        seen = [seen async for seen in Conversation(nobody, "ticket").stream(ticket=ticket, after="start")]

    assert seen[0].data["text"] == "of theirs"
