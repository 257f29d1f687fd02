"""A running gateway responds as the published document describes: every operation, every error code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from cmdc_gateway.protocol.events import EVENT_NAMES
from cmdc_gateway.protocol.schema import events_schema
from cmdc_gateway.store.errors import StoredStateDamaged
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import SessionKey, StoredResponseRow, StoredSession, UsageRow
from cmdc_gateway.web.errors import STATUS
from cmdc_testkit.contract import Contract
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import EventParser
from cmdc_testkit.gateways import KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver

# No operation of the document answers these two: see `test_what_no_operation_answers`.
ELSEWHERE = {"forbidden", "method_not_allowed"}

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class TroubledStore(MemoryStore):
    """A store that can be slow, raise an unexpected exception, and contain a session that cannot be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.defect = False
        self.damaged: str | None = None
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def response(self, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None:
        self.asked.set()
        await self.gate.wait()
        return await super().response(tenant, route, idempotency_key)

    async def usage(self, tenant: str) -> list[UsageRow]:
        if self.defect:
            raise RuntimeError("a defect")
        return await super().usage(tenant)

    async def load(self, key: SessionKey) -> StoredSession | None:
        if key.session_id == self.damaged:
            raise StoredStateDamaged("it is damaged")
        return await super().load(key)


@asynccontextmanager
async def judged(
    contract: Contract, folder: Path, **settings: Any
) -> AsyncGenerator[tuple[InProcessGateway, httpx.AsyncClient]]:
    """A gateway and a client that validates every response against the document."""
    async with in_process_gateway(folder, **settings) as served, served.client() as client:
        client.event_hooks = {"response": [contract.validate_response]}
        yield served, client


async def test_every_operation_responds_as_documented_with_every_error_code(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    contract, folders = Contract(), tmp_path_factory.mktemp

    await converse(contract, folders("conversation"))
    await be_refused(contract, folders("refusals"))
    await be_too_big_or_too_slow(contract, folders("bounds"))
    await meet_trouble(contract, folders("trouble"))

    succeeded = {name for name, status, _ in contract.seen if status < 400} | {"open_socket"}
    assert succeeded == {operation.name for operation in contract.operations}
    assert {code for _, _, code in contract.seen if code} == STATUS.keys() - ELSEWHERE


async def converse(contract: Contract, folder: Path) -> None:
    """Successful requests for every operation."""
    async with Receiver() as receiver, judged(contract, folder, rate_limit_rpm=10_000) as (_, client):
        for path in ("/healthz", "/readyz", "/v1/capabilities", "/openapi.json", "/asyncapi.json", "/docs"):
            await client.get(path)
        await client.get("/events.schema.json")
        talk = await Conversation.begin(
            client,
            tools=["ask_user", "shell"],
            metadata={"a": "b"},
            approval={"tools": ["*"], "timeoutMs": 60_000},
            providerOpts={"temperature": 0.5},
            budget={"maxTokens": 100_000},
        )
        once = {"Idempotency_Key": "once"}
        for _ in range(2):
            await talk.post("tools", {**WEATHER, "callbackUrl": receiver.url}, **once)
        request = await talk.prompt(
            script(
                calling(("get_weather", {"city": "Oslo"}), ("ask_user", {"question": "?", "options": ["a", "b"]})),
                calling(("shell", {"command": "true"})),
            )
        )
        queued = await talk.prompt("a prompt that waits")
        weather = await talk.first("approval_required")
        question = await talk.first("ask_user")
        await talk.info()
        await talk.post("approve", {"approvalId": weather["approvalId"], "digest": weather["digest"]}, **once)
        await talk.post("respond", {"ref": question["ref"], "response": "a"}, **once)
        command = await talk.first("approval_required", nth=2)
        await talk.post("reject", {"approvalId": command["approvalId"], "reason": "no"}, **once)
        await talk.events(request)
        await talk.events(queued)
        await client.get(f"{talk.path}/events", headers={"Accept": "application/json"}, params={"limit": 3})
        await talk.get("/messages")
        await talk.get("/messages", limit=2)
        for what in ("/stats", "/tools"):
            await talk.get(what)
        await talk.post("abort")
        waiting = await talk.prompt(script(calling(("shell", {"command": "true"}))))
        await talk.first("approval_required", nth=3)
        await talk.post("abort", {"reason": "enough"})
        await talk.events(waiting)
        await talk.post("tickets", {"scope": "control"})
        await client.get("/v1/sessions", params={"limit": 1})
        await client.get("/v1/usage")
        await client.delete(f"{talk.path}/tools/get_weather")
        await client.delete(talk.path)

        call = receiver.calls[0]
        schema = {"$ref": "#/components/schemas/CallbackCall"}
        contract.validator(schema).validate(call.body)
        [callback] = callback_of(contract)["{$request.body#/callbackUrl}"].values()
        assert {parameter["name"] for parameter in callback["parameters"]} <= call.headers.keys()


def callback_of(contract: Contract) -> dict[str, Any]:
    return contract.document["paths"]["/v1/sessions/{sessionId}/tools"]["post"]["callbacks"]["toolCall"]


async def be_refused(contract: Contract, folder: Path) -> None:
    """Errors of the client."""
    async with judged(contract, folder, queued_prompts=1) as (served, client):
        talk = await Conversation.begin(client, sessionId="s", tools=["ask_user"])
        for operation in contract.operations:
            path = operation.path.replace("{sessionId}", "nobody").replace("{name}", "x")
            if path.startswith("/v1/"):
                await client.request(operation.method, path, params={"colour": "red"})
                await client.request(operation.method, path, headers={"X-API-Key": "wrong"})
                await client.request(operation.method, path, **minimal(contract, operation.definition))
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        await client.post("/v1/sessions", json={"model": "nobody:x"})
        await client.post("/v1/sessions", content=b"{}", headers={"Content-Type": "text/plain"})
        await talk.post("tools", {**WEATHER, "callbackUrl": "http://10.0.0.1/"})
        await talk.get("/events", after="yesterday")
        await talk.get("/events", after="other.0")
        await client.get("/v1/sessions", params={"cursor": "?"})
        await talk.get("/messages", cursor="?")
        await talk.post("prompt", {"text": "a"}, Idempotency_Key="k")
        await talk.post("prompt", {"text": "b"}, Idempotency_Key="k")

        waiting = await Conversation.begin(client, tools=["shell", "ask_user"], approval={"tools": ["shell"]})
        await waiting.prompt(
            script(calling(("shell", {"command": "true"}), ("ask_user", {"question": "?", "options": ["a"]})))
        )
        approval, question = await waiting.first("approval_required"), await waiting.first("ask_user")
        await waiting.prompt("this one waits")
        await waiting.post("prompt", {"text": "and this one may not"})
        named = {"approvalId": approval["approvalId"]}
        await waiting.post("approve", {**named, "digest": "0" * 64})
        await waiting.post("reject", named)
        await waiting.post("approve", named)
        await waiting.post("reject", {**named, "reason": "another"})
        await waiting.post("respond", {"ref": question["ref"], "response": "a"})
        await waiting.post("respond", {"ref": question["ref"], "response": "b"})

        poor = await Conversation.begin(client, budget={"maxTokens": 1})
        await poor.run("hello to you")
        await poor.post("prompt", {"text": "more"})

        served.gateway.connections.draining = True
        await talk.get("/events")
        served.gateway.ready = False
        await client.get("/readyz")


def minimal(contract: Contract, operation: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a valid request, from the first of its examples; only the path is still missing."""
    if "requestBody" not in operation:
        return {"headers": {"Accept": "application/json"}}
    [reference, *_] = operation["requestBody"]["content"]["application/json"]["examples"].values()
    return {"json": contract.document["components"]["examples"][reference["$ref"].rpartition("/")[2]]["value"]}


async def be_too_big_or_too_slow(contract: Contract, folder: Path) -> None:
    """Requests that exceed a limit."""

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(2)

    bounds = {"body_bytes": 1024, "url_bytes": 256, "header_bytes": 1024, "body_timeout_ms": 100, "rate_limit_rpm": 60}
    async with judged(contract, folder, file={"rate_limit": {"burst": 2}}, **bounds) as (_, client):
        await client.get("/healthz", headers={"X": "x" * 1100})
        await client.get("/healthz", params={"x": "x" * 300})
        await client.post("/v1/sessions", content=b" " * 1100, headers={"Content-Type": "application/json"})
        await client.post("/v1/sessions", content=stalled(), headers={"Content-Type": "application/json"})
        for _ in range(3):
            await client.get("/v1/sessions")


async def meet_trouble(contract: Contract, folder: Path) -> None:
    """Errors of the server."""
    store = TroubledStore()
    async with judged(contract, folder, store=store) as (served, client):
        once = {"Idempotency-Key": "once"}
        store.gate.clear()
        first = asyncio.create_task(client.post("/v1/sessions", json={"model": "scripted:x"}, headers=once))
        await store.asked.wait()
        await client.post("/v1/sessions", json={"model": "scripted:x"}, headers=once)
        store.gate.set()
        await first
        store.defect = True
        await client.get("/v1/usage")
        await Conversation.begin(client, sessionId="damaged")
        await served.gateway.registry.close()
        store.damaged = "damaged"
        await client.get("/v1/sessions/damaged")


async def test_errors_outside_the_operations_have_the_same_body(tmp_path: Path) -> None:
    async with in_process_gateway(tmp_path, cors_origins=["https://good.example"]) as served, served.client() as client:
        contract = Contract()
        body = contract.validator({"$ref": "#/components/schemas/ErrorBody"})
        asked = {"Origin": "https://bad.example", "Access-Control-Request-Method": "POST"}

        answers = [
            await client.put("/v1/sessions"),
            await client.get("/nothing"),
            await client.options("/v1/sessions", headers=asked),
        ]

    assert [answer.json()["error"] for answer in answers] == ["method_not_allowed", "not_found", "forbidden"]
    assert all(body.is_valid(answer.json()) for answer in answers)
    assert answers[0].headers["allow"] == "GET, POST"


async def test_the_events_of_real_runs_satisfy_the_schema(tmp_path: Path) -> None:
    """EVT-5."""
    judge = jsonschema_rs.Draft202012Validator(events_schema("0.1.0"))
    async with in_process_gateway(tmp_path) as served, served.client() as client:
        talk = await Conversation.begin(client, tools=["ask_user", "shell"], approval={"tools": ["shell"]})
        request = await talk.prompt(
            script(
                calling(("nothing", {}), ("shell", {"command": "true"}), thinking=["hm"], text=["so"]),
                calling(("ask_user", {"question": "?"})),
            )
        )
        await talk.post("approve", {"approvalId": (await talk.first("approval_required"))["approvalId"]})
        await talk.post("respond", {"ref": (await talk.first("ask_user"))["ref"], "response": "yes"})
        events = await talk.events(request)
        aborted = await talk.prompt(script({"text": ["slow"] * 50, "delayMs": 200}))
        await talk.first("message_delta", nth=3)
        await talk.post("abort")
        events += await talk.events(aborted)

    for seen in events:
        judge.validate({"event": seen.name, "data": seen.data, "id": seen.id})
    assert {seen.name for seen in events} == EVENT_NAMES


async def test_the_example_of_a_stream_is_read_as_the_events_it_shows(tmp_path: Path) -> None:
    async with in_process_gateway(tmp_path) as served, served.client() as client:
        document = (await client.get("/openapi.json")).json()
    answer = document["paths"]["/v1/sessions/{sessionId}/events"]["get"]["responses"]["200"]
    text = answer["content"]["text/event-stream"]["examples"]["stream"]["value"]

    assert [event.name for event in EventParser().feed(text.encode())] == ["message_delta", "agent_end"]
    assert json.dumps(document).count(KEY) == 0
