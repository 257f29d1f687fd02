"""Experiment 9: no route without a key that is good now, streams closed with their key, and no secret anywhere."""

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
from cmdc_testkit.gateways import KEY, OTHER_KEY, GatewayProcess, Served, serving
from cmdc_testkit.watchers import close_code
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.timeout(240)  # on a machine that is busy with other things

CLOSED_WITHIN = 5.0
REVOKED = 4001


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as served:
        yield served


async def guarded(client: httpx.AsyncClient) -> list[Operation]:
    published = operations((await client.get("/openapi.json")).json())
    return [operation for operation in published if operation.requires_key]


def socket(served: Served, talk: Conversation, **options: Any) -> connect:
    return connect(f"{served.url.replace('http', 'ws', 1)}{talk.path}/ws", proxy=None, **options)


# -- always refused ------------------------------------------------------------------------------------------------------


def near(key: str, chance: random.Random) -> Iterator[str]:
    """Keys that are almost this one."""
    place = chance.randrange(len(key))
    letter = chance.choice(string.ascii_letters + string.digits + "-_")
    yield key[:place] + (letter if letter != key[place] else "~") + key[place + 1 :]
    yield key[:place] + key[place + 1 :]
    yield key[:place] + letter + key[place:]
    yield key.swapcase()
    yield key[::-1]
    yield f"{key},{key}"
    yield chance.choice(["null", "Bearer", "*", "%", "' OR 1=1 --", "sha256:"])
    yield new_key().key


def credentials(key: str) -> Iterator[dict[str, str]]:
    """Ways to send it."""
    yield {"X-API-Key": key}
    yield {"Authorization": f"Bearer {key}"}
    yield {"X-API-Key": key, "Authorization": f"Bearer {KEY}"}  # X-API-Key wins, though it is the wrong one
    yield {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}
    yield {"Cookie": f"api_key={key}"}


async def test_nothing_but_a_good_key_opens_a_route(experiment: Experiment, served: Served) -> None:
    """HTTP-7: on every route and WebSocket, whatever is sent in its place."""
    chance = experiment.random
    good, old = new_key(), new_key()
    served.keys.replace({KEY: "default", good.stored: "acme", old.stored: "acme"})
    served.keys.replace({KEY: "default", good.stored: "acme"})
    async with served.client(None) as nobody, served.client(good.key) as acme:
        talk = await Conversation.begin(acme)
        routes = await guarded(nobody)
        refused, wrong = 0, old.key
        for _ in range(experiment.trials(short=2, long=100)):
            for operation in routes:
                wrong = chance.choice([*near(good.key, chance), *near(KEY, chance), good.stored, old.key, old.stored])
                request = operation.request({Input("path", "sessionId"): talk.id})
                for headers in (*credentials(wrong), {}):
                    answer = await nobody.request(
                        request.method,
                        request.path,
                        params=chance.choice([{}, {"key": good.key}]),
                        headers={**request.headers, **headers},
                        json=request.body,
                    )
                    assert answer.status_code == 401, (operation.name, headers)
                    assert answer.json()["error"] == "unauthorized"
                    refused += 1
            for headers in credentials(wrong):
                with pytest.raises(InvalidStatus) as denied:
                    await socket(served, talk, additional_headers=headers)
                assert denied.value.response.status_code == 401
                refused += 1
        assert (await talk.info())["state"] == "idle"
        assert (await talk.get("/stats")).json()["promptCount"] == 0
    experiment.record("refused", refused)
    experiment.record("routes", len(routes))
    experiment.record("let in", 0)


# -- rotated and revoked -------------------------------------------------------------------------------------------------


async def test_streams_end_with_their_key_and_those_of_its_successor_go_on(
    experiment: Experiment, served: Served
) -> None:
    """HTTP-7, WS-6: also streams that are being opened at that moment, and tickets that were issued before."""
    rounds = experiment.trials(short=5, long=300)
    chance = experiment.random
    slowest, closed = 0.0, 0
    old = new_key()
    served.keys.replace({old.stored: "acme"})
    for _ in range(rounds):
        new = new_key()
        served.keys.replace({old.stored: "acme", new.stored: "acme"})  # both are good for a while
        waited, ended = await one_rotation(served, old, new, chance)
        slowest, closed = max(slowest, waited), closed + ended
        old = new
    experiment.record("rotations", rounds)
    experiment.record("streams closed", closed)
    experiment.record("slowest, ms", round(slowest * 1000))
    assert slowest < CLOSED_WITHIN


async def one_rotation(served: Served, old: NewKey, new: NewKey, chance: random.Random) -> tuple[float, int]:
    """Revoke the old key while its streams are open, and more are being opened; how long it took to close how many."""
    async with AsyncExitStack() as stack:
        before, after = [await stack.enter_async_context(served.client(key.key)) for key in (old, new)]
        talk = await Conversation.begin(before)
        kept = await stack.enter_async_context(
            after.stream("GET", f"{talk.path}/events", params={"follow": "true"}, timeout=30)
        )
        sockets = [
            await stack.enter_async_context(socket(served, talk, additional_headers={"X-API-Key": old.key}))
            for _ in range(3)
        ]
        ticket = (await talk.post("tickets", {"scope": "control"})).json()["ticket"]
        opening = [asyncio.create_task(read_to_the_end(before, talk)) for _ in range(6)]
        await asyncio.sleep(chance.random() / 100)  # wherever they are by then

        begun = time.monotonic()
        served.keys.replace({new.stored: "acme"})
        async with asyncio.timeout(CLOSED_WITHIN):
            codes = await asyncio.gather(*(close_code(opened) for opened in sockets))
            await asyncio.gather(*opening)
        waited = time.monotonic() - begun

        assert codes == [REVOKED] * 3
        assert (await before.get(talk.path)).status_code == 401
        async with served.client(None) as nobody:
            answer = await nobody.get(f"{talk.path}/events", params={"ticket": ticket})
            assert answer.status_code == 401, "a ticket is worth no more than the key it came from"
        await Conversation(after, talk.id).prompt("still there")
        async with asyncio.timeout(30):
            async for line in kept.aiter_lines():
                if line == "event: agent_end":
                    break
        return waited, len(sockets) + len(opening)


async def read_to_the_end(client: httpx.AsyncClient, talk: Conversation) -> None:
    """A stream that is refused, or ended from the other side."""
    async with client.stream("GET", f"{talk.path}/events", params={"follow": "true"}, timeout=30) as answer:
        assert answer.status_code in (200, 401)
        await answer.aread()


async def test_a_body_that_arrives_after_its_key_was_taken_away_has_no_effect(
    monkeypatch: pytest.MonkeyPatch, served: Served
) -> None:
    """HTTP-7: whoever lost a key does not keep a request under way with it."""
    async with served.client() as client, served.client(OTHER_KEY) as stranger:
        talk = await Conversation.begin(stranger)
        admitted = asyncio.Event()

        def noticed(keys: KeyRing, key: str) -> Principal | None:
            admitted.set()
            return whose(keys, key)

        whose = KeyRing.principal
        monkeypatch.setattr(KeyRing, "principal", noticed)

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"text": '
            async with asyncio.timeout(10):
                await admitted.wait()
            served.keys.replace({KEY: "default"})
            yield b'"too late"}'

        headers = {"Content-Type": "application/json"}
        answer = await stranger.post(f"{talk.path}/prompt", content=slowly(), headers=headers)

        served.keys.replace({KEY: "default", OTHER_KEY: "other"})
        assert answer.status_code == 401
        assert (await talk.get("/stats")).json()["promptCount"] == 0
        assert (await client.get("/v1/usage")).status_code == 200


# -- no secret anywhere --------------------------------------------------------------------------------------------------


async def test_no_secret_and_no_payload_is_in_any_log_error_or_report(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-2, WS-1: keys, wrong keys, tickets, tool secrets, and whatever people and models say."""
    made = new_key()
    hushed = {f"hush{secrets.token_hex(8)}" for _ in range(8)}
    secret_things = {KEY, OTHER_KEY, made.key, made.key.split("_", 2)[2], made.stored.partition(":")[2]}
    prompt, tool, url, wrong, reason, canary, answer_, once = sorted(hushed)
    async with GatewayProcess(
        tmp_path,
        config='[tools]\noffered = ["shell", "ask_user"]\napproval = ["shell"]\n',
        GATEWAY_API_KEYS=made.key,
        GATEWAY_LOG_LEVEL="debug",
    ) as gateway:
        said: list[str] = []
        async with gateway.client(made.key) as client:
            talk = await Conversation.begin(client, tools=["shell", "ask_user"], systemPrompt=canary)
            definition = {"name": "t", "description": tool, "parameters": {"type": "object"}}
            registered = await talk.post("tools", {**definition, "callbackUrl": f"http://127.0.0.1:9/{url}?k={url}"})
            ticket = (await talk.post("tickets", {"scope": "control"})).json()["ticket"]
            secret_things |= {registered.json()["secret"], ticket}
            request_id = await talk.prompt(
                script(
                    calling(("t", {"a": prompt}), ("shell", {"command": prompt}), ("ask_user", {"question": prompt}))
                )
            )
            approval, question = await talk.first("approval_required"), await talk.first("ask_user")
            await talk.post("reject", {"approvalId": approval["approvalId"], "reason": reason}, Idempotency_Key=once)
            await talk.post("respond", {"ref": question["ref"], "response": answer_})
            await talk.events(request_id)
            said += [response.text for response in await wrong_requests(talk, wrong=wrong, key=made.key, ticket=ticket)]
            said.append((await client.get("/v1/usage")).text)
            said.append((await client.get("/v1/capabilities")).text)
            said.append((await talk.get("/tools")).text.replace(tool, "").replace(url, ""))
            await client.delete(talk.path)
        await gateway.stop()
        said.append(gateway.log())
    for command in (["audit", "--json"], ["audit"], ["keys", "list", "--config", str(tmp_path / "gateway.toml")]):
        said.append(await report(tmp_path, command))

    found = [thing for thing in secret_things | hushed if any(thing in text for text in said)]
    experiment.record("secrets", len(secret_things))
    experiment.record("payloads", len(hushed))
    experiment.record("bytes of logs, errors and reports", sum(map(len, said)))
    experiment.record("found", len(found))
    assert found == []


async def wrong_requests(talk: Conversation, *, wrong: str, key: str, ticket: str) -> list[httpx.Response]:
    """Requests with secrets where none belong, each answered with an error."""
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


async def report(folder: Path, command: list[str]) -> str:
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
