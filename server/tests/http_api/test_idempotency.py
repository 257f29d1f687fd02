"""Idempotency keys: HTTP-11."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import Lease
from cmdc_gateway.store.writes import CreateSession, Write
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.gateways import KEY, TENANTS, in_process_gateway
from cmdc_testkit.receivers import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONCE = {"Idempotency-Key": "once"}
TOOL = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": "http://127.0.0.1:9/"}


class GatedStore(MemoryStore):
    """A store whose commits wait for a gate, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.down = False

    async def commit(self, writes: Sequence[Write], lease: Lease | None = None) -> None:
        if not self.gate.is_set() and any(isinstance(write, CreateSession) for write in writes):
            self.asked.set()  # the server has notes of its own to commit when it starts
        await self.gate.wait()
        if self.down:
            raise StoreUnavailable("the disk is full")
        await super().commit(writes, lease)


async def waiting(client: httpx.AsyncClient, *calls: tuple[str, dict[str, Any]]) -> tuple[Conversation, dict[str, Any]]:
    """A session that is blocked on the user, and the event that shows it."""
    talk = await Conversation.begin(client, tools=["shell", "ask_user"])
    await talk.prompt(script(calling(*calls)))
    return talk, await talk.first("ask_user" if calls[0][0] == "ask_user" else "approval_required")


async def twice(client: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    """Send a request twice, expect the same response, and return it."""
    first = await client.post(path, json=body, headers=ONCE)
    second = await client.post(path, json=body, headers=ONCE)

    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["content-type"] == "application/json"
    return second


async def test_a_session_is_created_once(client: httpx.AsyncClient) -> None:
    """HTTP-11."""
    answer = await twice(client, "/v1/sessions", {"model": "scripted:x"})

    listed = (await client.get("/v1/sessions")).json()["sessions"]
    assert answer.status_code == 201
    assert [session["sessionId"] for session in listed] == [answer.json()["sessionId"]]


async def test_a_session_with_a_chosen_id_does_not_conflict_with_itself(client: httpx.AsyncClient) -> None:
    """HTTP-11: 201 again, and not `session_exists`."""
    assert (await twice(client, "/v1/sessions", {"model": "scripted:x", "sessionId": "s"})).status_code == 201


async def test_a_prompt_is_accepted_once(client: httpx.AsyncClient) -> None:
    """HTTP-11."""
    talk = await Conversation.begin(client)

    answer = await twice(client, f"{talk.path}/prompt", {"text": "hello"})
    await talk.events(answer.json()["requestId"])

    assert [message["content"] for message in await talk.messages()] == ["hello", "You said: hello"]
    assert (await talk.get("/stats")).json()["promptCount"] == 1


async def test_a_tool_is_registered_once_and_its_secret_is_returned_again(client: httpx.AsyncClient) -> None:
    """HTTP-11, CB-4: a client that lost the first response gets the same secret."""
    talk = await Conversation.begin(client)

    answer = await twice(client, f"{talk.path}/tools", TOOL)

    assert answer.json()["secret"].startswith("whsec_")


async def test_decisions_are_made_once(client: httpx.AsyncClient) -> None:
    """HTTP-11."""
    shell = ("shell", {"command": "true"})
    talk, approval = await waiting(client, shell)
    assert (await twice(client, f"{talk.path}/approve", {"approvalId": approval["approvalId"]})).status_code == 200

    talk, approval = await waiting(client, shell)
    assert (await twice(client, f"{talk.path}/reject", {"approvalId": approval["approvalId"]})).status_code == 200

    talk, question = await waiting(client, ("ask_user", {"question": "?"}))
    body = {"ref": question["ref"], "response": "42"}
    assert (await twice(client, f"{talk.path}/respond", body)).status_code == 200


async def test_a_repeated_abort_does_not_end_the_next_run(client: httpx.AsyncClient) -> None:
    """HTTP-11."""
    talk = await Conversation.begin(client)
    await talk.prompt(script({"text": ["slow"], "delayMs": 60_000}))
    await talk.first("agent_start")
    next_run = await talk.prompt("next")

    answer = await twice(client, f"{talk.path}/abort", {})

    assert (answer.status_code, answer.json()) == (202, {"ok": True})
    assert names(await talk.events(next_run))[-1] == "agent_end"


async def test_an_abort_without_an_active_run_is_stored_too(client: httpx.AsyncClient) -> None:
    """HTTP-11: the stored response, with its status."""
    talk = await Conversation.begin(client)

    assert (await twice(client, f"{talk.path}/abort", {})).status_code == 200


async def test_a_ticket_is_issued_once(client: httpx.AsyncClient) -> None:
    """HTTP-11."""
    talk = await Conversation.begin(client)

    assert (await twice(client, f"{talk.path}/tickets", {"scope": "read"})).status_code == 201


async def test_another_body_under_the_same_key_is_a_mismatch(client: httpx.AsyncClient) -> None:
    """HTTP-11: and has no effect."""
    talk = await Conversation.begin(client)
    await client.post(f"{talk.path}/prompt", json={"text": "one"}, headers=ONCE)

    answer = await client.post(f"{talk.path}/prompt", json={"text": "two"}, headers=ONCE)

    assert (answer.status_code, answer.json()) == (
        422,
        {
            "error": "idempotency_mismatch",
            "message": "this Idempotency-Key was already used with another body; use a new key",
        },
    )
    assert (await talk.get("/stats")).json()["promptCount"] == 1


async def test_an_equal_body_with_different_formatting_is_the_same_body(client: httpx.AsyncClient) -> None:
    """HTTP-11: JSON objects have no order."""
    json_type = {"Content-Type": "application/json", **ONCE}

    first = await client.post("/v1/sessions", content=b'{"model":"scripted:x","maxTurns":5}', headers=json_type)
    second = await client.post("/v1/sessions", content=b'{ "maxTurns": 5, "model": "scripted:x" }', headers=json_type)

    assert second.content == first.content


async def test_an_idempotency_key_is_scoped_to_route_session_and_tenant(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """HTTP-11: elsewhere the same value is another key."""
    one, two = await Conversation.begin(client), await Conversation.begin(client)
    theirs = await Conversation.begin(stranger, sessionId=one.id)

    answers = [
        await client.post(f"{one.path}/abort", json={}, headers=ONCE),
        await client.post(f"{one.path}/tickets", json={}, headers=ONCE),
        await client.post(f"{two.path}/abort", json={}, headers=ONCE),
        await stranger.post(f"{theirs.path}/abort", json={}, headers=ONCE),
    ]

    assert [answer.status_code for answer in answers] == [200, 201, 200, 200]
    assert not any("idempotent-replayed" in answer.headers for answer in answers)


async def test_another_api_key_of_the_same_tenant_gets_the_same_response(tmp_path: Path) -> None:
    """HTTP-11: a tenant can change its API key between two attempts."""
    async with in_process_gateway(tmp_path) as served:
        served.keys.replace({**TENANTS, "another-key": "default"})
        async with served.client(KEY) as one, served.client("another-key") as other:
            first = await one.post("/v1/sessions", json={"model": "scripted:x"}, headers=ONCE)
            second = await other.post("/v1/sessions", json={"model": "scripted:x"}, headers=ONCE)

    assert second.content == first.content


async def test_duplicates_of_a_request_in_progress_are_conflicts(tmp_path: Path) -> None:
    """HTTP-11: 409 for the same body, 422 for another."""
    store = GatedStore()
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        store.gate.clear()
        first = asyncio.create_task(client.post("/v1/sessions", json={"model": "scripted:x"}, headers=ONCE))
        await store.asked.wait()

        same = await client.post("/v1/sessions", json={"model": "scripted:x"}, headers=ONCE)
        other = await client.post("/v1/sessions", json={"model": "scripted:y"}, headers=ONCE)
        store.gate.set()
        done = await first

    assert (same.status_code, same.json()) == (
        409,
        {
            "error": "idempotency_in_progress",
            "message": "a request with this Idempotency-Key is still in progress; retry later",
        },
    )
    assert (other.status_code, other.json()["error"]) == (422, "idempotency_mismatch")
    assert done.status_code == 201


async def test_one_of_many_concurrent_requests_takes_effect(client: httpx.AsyncClient) -> None:
    """HTTP-11."""
    talk = await Conversation.begin(client)

    answers = await asyncio.gather(
        *(client.post(f"{talk.path}/prompt", json={"text": "x"}, headers=ONCE) for _ in range(20))
    )

    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["requestId"] for answer in answers if answer.status_code == 202}) == 1
    assert (await talk.get("/stats")).json()["promptCount"] == 1


async def test_an_error_response_is_not_stored(client: httpx.AsyncClient) -> None:
    """HTTP-11: the request had no effect, so the key can be used again."""
    body = {"model": "scripted:x", "sessionId": "s"}
    talk = await Conversation.begin(client, sessionId="s")
    refused = await client.post("/v1/sessions", json=body, headers=ONCE)
    await client.delete(talk.path)

    answer = await client.post("/v1/sessions", json=body, headers=ONCE)

    assert (refused.status_code, answer.status_code) == (409, 201)
    assert "idempotent-replayed" not in answer.headers


async def test_a_failed_commit_stores_no_response(tmp_path: Path) -> None:
    """HTTP-11, DUR-5: response and effect are one transaction."""
    store = GatedStore()
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        store.down = True
        failed = await client.post("/v1/sessions", json={"model": "scripted:x"}, headers=ONCE)
        store.down = False

        answer = await client.post("/v1/sessions", json={"model": "scripted:x"}, headers=ONCE)

    assert (failed.status_code, answer.status_code) == (503, 201)
    assert "idempotent-replayed" not in answer.headers


async def test_stored_responses_survive_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    """HTTP-11: of every action."""
    address = f"sqlite:///{tmp_path / 'store.db'}"
    sent: list[tuple[str, dict[str, Any]]] = []
    before: list[httpx.Response] = []
    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk, approval = await waiting(client, ("shell", {"command": "true"}))
        sent += [
            ("/v1/sessions", {"model": "scripted:x"}),
            (f"{talk.path}/approve", {"approvalId": approval["approvalId"]}),
            (f"{talk.path}/tools", {**TOOL, "callbackUrl": receiver.url}),
            (f"{talk.path}/prompt", {"text": "x"}),
        ]
        before += [await client.post(path, json=body, headers=ONCE) for path, body in sent]
        await talk.events(before[-1].json()["requestId"])

    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        after = [await client.post(path, json=body, headers=ONCE) for path, body in sent]
        sessions = (await client.get("/v1/sessions")).json()["sessions"]
        prompts = (await client.get(f"{talk.path}/stats")).json()["promptCount"]

    assert [answer.status_code for answer in before] == [201, 200, 201, 202]
    assert [(answer.status_code, answer.content) for answer in after] == [
        (answer.status_code, answer.content) for answer in before
    ]
    assert {answer.headers["idempotent-replayed"] for answer in after} == {"true"}
    assert (len(sessions), prompts) == (2, 2)


@pytest.mark.parametrize("key", ["", "with space", "tab\there", "x" * 256])
async def test_an_idempotency_key_must_be_visible_ascii(client: httpx.AsyncClient, key: str) -> None:
    """HTTP-11: 1–255 visible ASCII characters."""
    answer = await client.post("/v1/sessions", json={"model": "scripted:x"}, headers={"Idempotency-Key": key})

    assert (answer.status_code, answer.json()) == (
        400,
        {
            "error": "bad_request",
            "message": "Idempotency-Key must be sent once, as 1 to 255 visible ASCII characters",
        },
    )


async def test_two_idempotency_keys_are_rejected_and_a_long_one_is_accepted(client: httpx.AsyncClient) -> None:
    """HTTP-11."""
    body = {"model": "scripted:x"}

    two = await client.post("/v1/sessions", json=body, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    umlaut = await client.post("/v1/sessions", json=body, headers=[(b"Idempotency-Key", "ä".encode())])
    longest = await client.post("/v1/sessions", json=body, headers={"Idempotency-Key": "!~" + "x" * 253})

    assert [answer.status_code for answer in (two, umlaut, longest)] == [400, 400, 201]
