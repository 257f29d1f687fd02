"""The audit trail: every decision with its key, digest and time."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import rfc8785
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import AuditRow
from cmdc_gateway.store.writes import AppendAudit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.faults import faulty, once
from cmdc_testkit.gateways import KEY, OTHER_KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import wait_until
from websockets.asyncio.client import connect

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVER_STARTED = 1
GUARDED = calling(("shell", {"command": "true"}))


def mine(served: InProcessGateway) -> str:
    caller = served.keys.principal(KEY)
    assert caller is not None
    return caller.key_id


async def trail(served: InProcessGateway, *, of: str | None = None) -> list[AuditRow]:
    """The entries of the audit trail, of one session or of all."""
    return [row for _, row in await served.gateway.store.audit(0, 10_000) if of in (None, row.session_id)]


def told(rows: list[AuditRow]) -> list[tuple[str, str, str]]:
    return [(row.action, row.subject, row.key_id) for row in rows]


def canonical_digest(*parts: Any) -> str:
    return sha256(rfc8785.dumps(list(parts))).hexdigest()


async def test_an_approval_is_recorded_with_its_key_and_digest(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    talk = await Conversation.begin(client, tools=["shell"])
    request_id = await talk.prompt(script(GUARDED))
    required = await talk.first("approval_required")
    await talk.post("approve", {"approvalId": required["approvalId"]})
    await talk.post("approve", {"approvalId": required["approvalId"]})
    await talk.events(request_id)

    created, approved = await trail(served, of=talk.id)

    assert (created.action, created.key_id, created.tenant) == ("session_created", mine(served), "default")
    assert json.loads(created.detail) == {"model": "scripted:x"}
    assert approved == AuditRow(
        approved.at,
        "default",
        talk.id,
        mine(served),
        "approved",
        required["approvalId"],
        required["digest"],
        b'{"tool":"shell"}',
    )
    assert required["requestedAt"] <= approved.at


async def test_an_edited_approval_is_recorded_with_both_digests(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    talk = await Conversation.begin(client, tools=["shell"])
    await talk.prompt(script(GUARDED))
    required = await talk.first("approval_required")
    edited = {"command": "echo edited"}
    await talk.post("approve", {"approvalId": required["approvalId"], "args": edited})

    (row,) = (await trail(served, of=talk.id))[1:]

    approved = canonical_digest(talk.id, required["callId"], "shell", edited)
    assert (row.action, row.digest) == ("approved", required["digest"])
    assert json.loads(row.detail) == {"tool": "shell", "approvedDigest": approved}


async def test_a_rejection_and_an_answer_are_recorded_with_their_key_and_no_payload(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    talk = await Conversation.begin(client, tools=["shell", "ask_user"])
    request_id = await talk.prompt(script(calling(("shell", {"command": "hush"}), ("ask_user", {"question": "Hush?"}))))
    approval, question = await talk.first("approval_required"), await talk.first("ask_user")
    await talk.post("reject", {"approvalId": approval["approvalId"], "reason": "hush"})
    await talk.post("respond", {"ref": question["ref"], "response": "hush"})
    await talk.events(request_id)

    rows = (await trail(served, of=talk.id))[1:]

    assert told(rows) == [
        ("rejected", approval["approvalId"], mine(served)),
        ("answered", question["ref"], mine(served)),
    ]
    assert [row.digest for row in rows] == [
        approval["digest"],
        canonical_digest(talk.id, question["ref"], "hush"),
    ]
    assert "hush" not in repr(rows)


async def test_a_decision_of_the_server_is_recorded_without_a_key(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """APP-2: an approval that expired."""
    talk = await Conversation.begin(client, tools=["shell"], approval={"tools": [], "timeoutMs": 20})
    request_id = await talk.prompt(script(GUARDED))
    await talk.events(request_id)
    required = await talk.first("approval_required")

    assert told((await trail(served, of=talk.id))[1:]) == [("expired", required["approvalId"], "")]


async def test_an_abort_is_recorded_with_its_key_also_for_what_it_cancels(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """EVT-9."""
    talk = await Conversation.begin(client, tools=["shell"])
    request_id = await talk.prompt(script(GUARDED))
    required = await talk.first("approval_required")
    await talk.post("abort", {"reason": "hush"})
    await talk.events(request_id)

    rows = (await trail(served, of=talk.id))[1:]

    assert told(rows) == [
        ("aborted", request_id, mine(served)),
        ("cancelled", required["approvalId"], mine(served)),
    ]
    assert "hush" not in repr(rows)


async def test_tools_and_tickets_are_recorded_with_their_key_and_no_secret(
    served: InProcessGateway, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    talk = await Conversation.begin(client)
    url = f"{receiver.url}/hush?hush=hush"
    definition = {"name": "t", "description": "hush", "parameters": {"type": "object"}, "callbackUrl": url}
    secret = (await talk.post("tools", definition)).json()["secret"]
    await talk.post("tools", {**definition, "description": "other"})
    await client.delete(f"{talk.path}/tools/t")
    ticket = (await talk.post("tickets", {"scope": "control"})).json()
    await client.delete(talk.path)

    registered, again, removed, issued, deleted = (await trail(served, of=talk.id))[1:]

    assert told([registered, again, removed, issued, deleted]) == [
        (action, subject, mine(served))
        for action, subject in (
            ("tool_registered", "t"),
            ("tool_registered", "t"),
            ("tool_removed", "t"),
            ("ticket_issued", ""),
            ("session_deleted", ""),
        )
    ]
    assert registered.digest != again.digest == removed.digest
    assert json.loads(registered.detail) == {
        "origin": f"http://127.0.0.1:{receiver.url.rpartition(':')[2].split('/')[0]}"
    }
    assert json.loads(issued.detail) == {"scope": "control", "expiresAt": ticket["expiresAt"]}
    for hushed in ("hush", secret, ticket["ticket"]):
        assert hushed not in repr([registered, again, removed, issued, deleted])


async def test_a_decision_over_a_websocket_is_recorded_with_its_key(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """WS-3: the same rules as over HTTP."""
    talk = await Conversation.begin(client, tools=["shell"])
    await talk.prompt(script(GUARDED))
    required = await talk.first("approval_required")
    address = f"{served.url.replace('http', 'ws')}{talk.path}/ws"
    async with connect(address, additional_headers={"X-API-Key": KEY}, proxy=None) as socket:
        await socket.send(json.dumps({"action": "reject", "approvalId": required["approvalId"]}))
        await socket.recv()

    assert told((await trail(served, of=talk.id))[1:]) == [("rejected", required["approvalId"], mine(served))]


async def test_a_repeated_request_is_recorded_as_one_decision(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """HTTP-11, APP-2."""
    talk = await Conversation.begin(client, tools=["shell"])
    await talk.prompt(script(GUARDED))
    required = await talk.first("approval_required")
    for _ in range(3):
        await talk.post("reject", {"approvalId": required["approvalId"]}, Idempotency_Key="once")
    await talk.post("reject", {"approvalId": required["approvalId"]}, Idempotency_Key="twice")
    refused = await talk.post("approve", {"approvalId": required["approvalId"]})

    assert refused.status_code == 409
    assert told((await trail(served, of=talk.id))[1:]) == [("rejected", required["approvalId"], mine(served))]


async def test_a_decision_that_is_not_committed_is_not_recorded(tmp_path: Path) -> None:
    """DUR-5: decision and audit entry are one transaction."""
    store, faults = faulty(MemoryStore())
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        talk = await Conversation.begin(client, tools=["shell"])
        await talk.prompt(script(GUARDED))
        required = await talk.first("approval_required")
        faults.refuse = once(lambda write: isinstance(write, AppendAudit), StoreUnavailable("the disk is full"))
        refused = await talk.post("approve", {"approvalId": required["approvalId"]})
        after_refusal = told((await trail(served, of=talk.id))[1:])
        await wait_until(lambda: faults.refused > 0)
        while (answer := await talk.post("approve", {"approvalId": required["approvalId"]})).status_code == 503:
            pass

        assert refused.status_code == 503
        assert after_refusal == []
        assert answer.status_code == 200
        assert told((await trail(served, of=talk.id))[1:]) == [("approved", required["approvalId"], mine(served))]


async def test_the_keys_at_startup_are_recorded(served: InProcessGateway) -> None:
    ids = sorted(caller.key_id for caller in served.keys.principals())

    (row,) = (await trail(served))[:SERVER_STARTED]

    assert (row.action, row.tenant, row.session_id, row.key_id) == ("keys_loaded", "", "", "")
    assert json.loads(row.detail) == {"keys": ids}


async def test_a_key_is_revoked_while_the_store_is_down_and_recorded_later(tmp_path: Path) -> None:
    """HTTP-7: a revocation cannot wait."""
    store, faults = faulty(MemoryStore())
    async with in_process_gateway(tmp_path, store=store) as served, served.client(OTHER_KEY) as other:
        faults.down = True
        served.gateway.audit.record("keys_reloaded", revoked=["key_1"])
        served.gateway.audit.record("keys_reloaded", revoked=["key_2"])
        served.keys.replace({})
        assert (await other.get("/v1/usage")).status_code == 401
        faults.down = False

        await served.gateway.audit.close()

        assert [json.loads(row.detail) for row in (await trail(served))[SERVER_STARTED:]] == [
            {"revoked": ["key_1"]},
            {"revoked": ["key_2"]},
        ]
