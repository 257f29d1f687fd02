"""Experiment 9: every route needs a valid key, streams end with their key, and no secret is logged or returned."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import secrets
import string
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_gateway.tenancy.keys import KeyRing, NewKey, Principal, new_key
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.documented_requests import Input, Operation, operations
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, OTHER_KEY, GatewayProcess, InProcessGateway, in_process_gateway
from cmdc_testkit.watchers import close_code
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.timeout(240)  # for a busy machine

CLOSED_WITHIN = 5.0
REVOKED = 4001


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    async with in_process_gateway(tmp_path) as served:
        yield served


async def operations_with_key(client: httpx.AsyncClient) -> list[Operation]:
    published = operations((await client.get("/openapi.json")).json())
    return [operation for operation in published if operation.requires_key]


def open_socket(served: InProcessGateway, talk: Conversation, **options: Any) -> connect:
    return connect(f"{served.url.replace('http', 'ws', 1)}{talk.path}/ws", proxy=None, **options)


# -- authentication ----------------------------------------------------------------------------------------------------


def similar_keys(key: str, rng: random.Random) -> Iterator[str]:
    """Yield keys that differ slightly from this one."""
    place = rng.randrange(len(key))
    letter = rng.choice(string.ascii_letters + string.digits + "-_")
    yield key[:place] + (letter if letter != key[place] else "~") + key[place + 1 :]
    yield key[:place] + key[place + 1 :]
    yield key[:place] + letter + key[place:]
    yield key.swapcase()
    yield key[::-1]
    yield f"{key},{key}"
    yield rng.choice(["null", "Bearer", "*", "%", "' OR 1=1 --", "sha256:"])
    yield new_key().key


def credentials(key: str) -> Iterator[dict[str, str]]:
    """Yield headers that may carry a key."""
    yield {"X-API-Key": key}
    yield {"Authorization": f"Bearer {key}"}
    yield {"X-API-Key": key, "Authorization": f"Bearer {KEY}"}  # X-API-Key takes precedence
    yield {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}
    yield {"Cookie": f"api_key={key}"}


async def test_every_route_needs_a_valid_key(experiment: Experiment, served: InProcessGateway) -> None:
    """HTTP-7: every route and WebSocket, with every kind of invalid credential."""
    rng = experiment.random
    good, old = new_key(), new_key()
    served.keys.replace({KEY: "default", good.stored: "acme", old.stored: "acme"})
    served.keys.replace({KEY: "default", good.stored: "acme"})
    async with served.client(None) as anonymous, served.client(good.key) as acme:
        talk = await Conversation.begin(acme)
        routes = await operations_with_key(anonymous)
        refused, wrong = 0, old.key
        for _ in range(experiment.trials(short=2, long=100)):
            for operation in routes:
                wrong = rng.choice(
                    [*similar_keys(good.key, rng), *similar_keys(KEY, rng), good.stored, old.key, old.stored]
                )
                request = operation.request({Input("path", "sessionId"): talk.id})
                for headers in (*credentials(wrong), {}):
                    answer = await anonymous.request(
                        request.method,
                        request.path,
                        params=rng.choice([{}, {"key": good.key}]),
                        headers={**request.headers, **headers},
                        json=request.body,
                    )
                    assert answer.status_code == 401, (operation.name, headers)
                    assert answer.json()["error"] == "unauthorized"
                    refused += 1
            for headers in credentials(wrong):
                with pytest.raises(InvalidStatus) as denied:
                    await open_socket(served, talk, additional_headers=headers)
                assert denied.value.response.status_code == 401
                refused += 1
        assert (await talk.info())["state"] == "idle"
        assert (await talk.get("/stats")).json()["promptCount"] == 0
    experiment.record("rejected requests", refused)
    experiment.record("routes", len(routes))
    experiment.record("accepted requests", 0)


# -- rotation and revocation -------------------------------------------------------------------------------------------


async def test_streams_end_with_their_key_and_those_of_the_new_key_continue(
    experiment: Experiment, served: InProcessGateway
) -> None:
    """HTTP-7, WS-6: also streams that are just being opened, and tickets that were issued before."""
    rounds = experiment.trials(short=5, long=300)
    rng = experiment.random
    slowest, closed = 0.0, 0
    old = new_key()
    served.keys.replace({old.stored: "acme"})
    for _ in range(rounds):
        new = new_key()
        served.keys.replace({old.stored: "acme", new.stored: "acme"})  # both are valid for a while
        waited, ended = await rotate(served, old, new, rng)
        slowest, closed = max(slowest, waited), closed + ended
        old = new
    experiment.record("rotations", rounds)
    experiment.record("streams closed", closed)
    experiment.record("slowest, ms", round(slowest * 1000))
    assert slowest < CLOSED_WITHIN


async def rotate(served: InProcessGateway, old: NewKey, new: NewKey, rng: random.Random) -> tuple[float, int]:
    """Revoke the old key while its streams are open or being opened; return the seconds until they closed, and their number."""
    async with AsyncExitStack() as stack:
        before, after = [await stack.enter_async_context(served.client(key.key)) for key in (old, new)]
        talk = await Conversation.begin(before)
        kept = await stack.enter_async_context(
            after.stream("GET", f"{talk.path}/events", params={"follow": "true"}, timeout=30)
        )
        sockets = [
            await stack.enter_async_context(open_socket(served, talk, additional_headers={"X-API-Key": old.key}))
            for _ in range(3)
        ]
        ticket = (await talk.post("tickets", {"scope": "control"})).json()["ticket"]
        opening = [asyncio.create_task(read_to_the_end(before, talk)) for _ in range(6)]
        await asyncio.sleep(rng.random() / 100)  # at any stage of the handshake

        begun = time.monotonic()
        served.keys.replace({new.stored: "acme"})
        async with asyncio.timeout(CLOSED_WITHIN):
            codes = await asyncio.gather(*(close_code(opened) for opened in sockets))
            await asyncio.gather(*opening)
        waited = time.monotonic() - begun

        assert codes == [REVOKED] * 3
        assert (await before.get(talk.path)).status_code == 401
        async with served.client(None) as anonymous:
            answer = await anonymous.get(f"{talk.path}/events", params={"ticket": ticket})
            assert answer.status_code == 401, "a ticket is revoked with its key"
        await Conversation(after, talk.id).prompt("still there")
        async with asyncio.timeout(30):
            async for line in kept.aiter_lines():
                if line == "event: agent_end":
                    break
        return waited, len(sockets) + len(opening)


async def read_to_the_end(client: httpx.AsyncClient, talk: Conversation) -> None:
    """Read a stream that is rejected, or that the server ends."""
    async with client.stream("GET", f"{talk.path}/events", params={"follow": "true"}, timeout=30) as answer:
        assert answer.status_code in (200, 401)
        await answer.aread()


async def test_a_body_that_arrives_after_its_key_was_revoked_has_no_effect(
    monkeypatch: pytest.MonkeyPatch, served: InProcessGateway
) -> None:
    """HTTP-7: a request in flight does not keep its key valid."""
    async with served.client() as client, served.client(OTHER_KEY) as other:
        talk = await Conversation.begin(other)
        authenticated = asyncio.Event()

        def principal(keys: KeyRing, key: str) -> Principal | None:
            authenticated.set()
            return original(keys, key)

        original = KeyRing.principal
        monkeypatch.setattr(KeyRing, "principal", principal)

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"text": '
            async with asyncio.timeout(10):
                await authenticated.wait()
            served.keys.replace({KEY: "default"})
            yield b'"too late"}'

        headers = {"Content-Type": "application/json"}
        answer = await other.post(f"{talk.path}/prompt", content=slowly(), headers=headers)

        served.keys.replace({KEY: "default", OTHER_KEY: "other"})
        assert answer.status_code == 401
        assert (await talk.get("/stats")).json()["promptCount"] == 0
        assert (await client.get("/v1/usage")).status_code == 200


# -- secrets -----------------------------------------------------------------------------------------------------------


async def test_no_secret_and_no_payload_is_in_any_log_error_or_report(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-2, WS-1: keys, invalid keys, tickets, tool secrets, and the texts of users and models."""
    made = new_key()
    payloads = {f"hush{secrets.token_hex(8)}" for _ in range(8)}
    secrets_ = {KEY, OTHER_KEY, made.key, made.key.split("_", 2)[2], made.stored.partition(":")[2]}
    prompt, tool, url, wrong, reason, canary, answer_, once = sorted(payloads)
    async with GatewayProcess(
        tmp_path,
        config='[tools]\noffered = ["shell", "ask_user"]\napproval = ["shell"]\n',
        GATEWAY_API_KEYS=made.key,
        GATEWAY_LOG_LEVEL="debug",
    ) as gateway:
        texts: list[str] = []
        async with gateway.client(made.key) as client:
            talk = await Conversation.begin(client, tools=["shell", "ask_user"], systemPrompt=canary)
            definition = {"name": "t", "description": tool, "parameters": {"type": "object"}}
            registered = await talk.post("tools", {**definition, "callbackUrl": f"http://127.0.0.1:9/{url}?k={url}"})
            ticket = (await talk.post("tickets", {"scope": "control"})).json()["ticket"]
            secrets_ |= {registered.json()["secret"], ticket}
            request_id = await talk.prompt(
                script(
                    calling(("t", {"a": prompt}), ("shell", {"command": prompt}), ("ask_user", {"question": prompt}))
                )
            )
            approval, question = await talk.first("approval_required"), await talk.first("ask_user")
            await talk.post("reject", {"approvalId": approval["approvalId"], "reason": reason}, Idempotency_Key=once)
            await talk.post("respond", {"ref": question["ref"], "response": answer_})
            await talk.events(request_id)
            texts += [
                response.text for response in await invalid_requests(talk, wrong=wrong, key=made.key, ticket=ticket)
            ]
            texts.append((await client.get("/v1/usage")).text)
            texts.append((await client.get("/v1/capabilities")).text)
            texts.append((await talk.get("/tools")).text.replace(tool, "").replace(url, ""))
            await client.delete(talk.path)
        await gateway.stop()
        texts.append(gateway.log())
    for command in (["audit", "--json"], ["audit"], ["keys", "list", "--config", str(tmp_path / "gateway.toml")]):
        texts.append(await run_command(tmp_path, command))

    found = [thing for thing in secrets_ | payloads if any(thing in text for text in texts)]
    experiment.record("secrets", len(secrets_))
    experiment.record("payloads", len(payloads))
    experiment.record("bytes of logs, errors and reports", sum(map(len, texts)))
    experiment.record("found", len(found))
    assert found == []


async def invalid_requests(talk: Conversation, *, wrong: str, key: str, ticket: str) -> list[httpx.Response]:
    """Send requests with secrets in the wrong places; return the error responses."""
    client = talk.client
    address = f"{client.base_url}".replace("http", "ws", 1).rstrip("/") + f"{talk.path}/ws"
    for name, value in (("api_key", wrong), ("api_key", key)):
        try:
            opened: ClientConnection
            async with connect(f"{address}?{name}={value}", proxy=None) as opened:
                await opened.send(json.dumps({"action": "approve", "approvalId": "none", "digest": wrong}))
                await opened.recv()
        except InvalidStatus:
            pass
    odd = httpx.Headers({"X-API-Key": wrong})
    return [
        await client.get("/v1/usage", headers=odd),
        await client.get("/v1/usage", params={"api_key": key}),
        await client.get(f"{talk.path}/events", params={"api_key": key}),
        await client.get(f"{talk.path}/events", params={"ticket": ticket, "limit": "9"}),
        await client.post(f"{talk.path}/prompt", content=b'{"text": "' + wrong.encode()),
        await client.post(f"{talk.path}/prompt", json={"text": [wrong]}),
        await client.post(
            f"{talk.path}/tools",
            json={
                "name": "u",
                "description": "",
                "parameters": {"type": "object"},
                "callbackUrl": f"http://user:{wrong}@127.0.0.1/",
                "secret": f"whsec_{wrong}",
            },
        ),
        await client.post("/v1/sessions", json={"model": "scripted:x", "providerOpts": {"api_key": wrong}}),
    ]


async def run_command(folder: Path, command: list[str]) -> str:
    arguments = [*command, *(["--store", f"sqlite:///{folder / 'gateway.db'}"] if command[0] == "audit" else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cmdc_gateway",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed
    return printed.decode()
