"""Experiment 8: data of another tenant is indistinguishable from data that never existed, on every route, for every id."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import httpx
import pytest
from cmdc_gateway.errors import Forbidden
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.store.rows import SessionKey
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.documented_requests import Input, Operation, actions, operations
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, OTHER_KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.tenant_isolation import ForeignId, TenantData, TenantResponse, differences, leaked_secrets
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.timeout(240)  # for a busy machine

T = TypeVar("T")

WAITING = script(calling(("shell", {"command": "true"}), ("ask_user", {"question": "?"})))
SESSION = Input("path", "sessionId")
# Valid values for requests that need them.
OWN: Mapping[Input, str] = {Input("body", "model"): "scripted:x", Input("body", "workingDir"): "."}
STEPS = 12
EXAMPLES_PER_RESTART = 10  # a restart takes half a second


def random_like(text: str) -> str:
    """Return random characters of the same kind and number. A slash stays, because it separates path segments."""
    letters = "0123456789abcdef" if set(text) <= set("0123456789abcdef") else "abcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(letters) if character.isalnum() else character for character in text)


@dataclass
class Environment:
    """A gateway with two tenants, which can be restarted on its store, and statistics about the requests."""

    folder: Path
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    requests: int = 0
    examples: int = 0
    inputs: set[tuple[str, Input]] = field(default_factory=set[tuple[str, Input]])
    routes: set[str] = field(default_factory=set[str])
    restarts: int = 0
    served: InProcessGateway = field(init=False)
    owner: httpx.AsyncClient = field(init=False)
    other: httpx.AsyncClient = field(init=False)
    operations: list[Operation] = field(init=False)
    actions: list[dict[str, Any]] = field(init=False)
    every_input: Iterator[tuple[Operation, Input]] = field(init=False)
    unexpected: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _stack: AsyncExitStack = field(init=False)

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        store = f"sqlite:///{self.folder / 'gateway.db'}"
        self.served = await self._stack.enter_async_context(in_process_gateway(self.folder, store=store))
        self.owner = await self._stack.enter_async_context(self.served.client(KEY))
        self.other = await self._stack.enter_async_context(self.served.client(OTHER_KEY))
        published = operations((await self.other.get("/openapi.json")).json())
        self.operations = [operation for operation in published if operation.requires_key]
        self.actions = actions((await self.other.get("/asyncapi.json")).json())
        inputs = [(operation, one) for operation in self.operations for one in operation.inputs if one != SESSION]
        self.every_input = islice(cycle(inputs), len(self.inputs) % len(inputs), None)

    @property
    def session_operations(self) -> list[Operation]:
        return [operation for operation in self.operations if SESSION in operation.inputs]

    async def stop(self) -> None:
        await self._stack.aclose()

    async def restart(self) -> None:
        await self.stop()
        await self.start()
        self.restarts += 1

    async def evict_idle(self) -> None:
        """Evict every idle session from memory."""
        registry = self.served.gateway.registry
        await registry._evict_idle(registry.services.clock() + 1)  # pyright: ignore[reportPrivateUsage]

    async def send(self, operation: Operation, values: Mapping[Input, str]) -> TenantResponse:
        """Send a request of the other tenant. Of a stream, only the head is read."""
        self.requests += 1
        self.routes.add(operation.name)
        self.inputs |= {(operation.name, one) for one in values}
        proper = {**OWN, Input("body", "sessionId"): secrets.token_hex(16)}
        request = operation.request({**proper, **values})
        async with self.other.stream(
            request.method, request.path, params=request.query, headers=request.headers, json=request.body
        ) as answer:
            headers = tuple(sorted(answer.headers.items()))
            streams = answer.headers.get("content-type", "").startswith("text/event-stream")
            return TenantResponse(answer.status_code, headers, b"" if streams else await answer.aread())

    def socket(self, path: str, *, key: str | None = OTHER_KEY, **options: Any) -> connect:
        self.requests += 1
        headers = {"X-API-Key": key} if key is not None else {}
        address = f"{self.served.url.replace('http', 'ws', 1)}{path}"
        return connect(address, additional_headers=headers, proxy=None, **options)

    async def handshake(self, path: str, **options: Any) -> TenantResponse:
        """Open a WebSocket as the other tenant; return the response to the handshake."""
        try:
            async with self.socket(path, **options):
                return TenantResponse(101)
        except InvalidStatus as refused:
            response = refused.response
            headers = tuple(sorted((name.lower(), value) for name, value in response.headers.raw_items()))
            return TenantResponse(response.status_code, headers, bytes(response.body or b""))

    async def act(self, socket: ClientConnection, action: Mapping[str, Any]) -> TenantResponse:
        """Send an action of the other tenant; return its acknowledgement and skip events."""
        self.requests += 1
        await socket.send(json.dumps(action))
        async with asyncio.timeout(10):
            while "event" in (message := json.loads(await socket.recv())):
                pass
        return TenantResponse(body=json.dumps(message, sort_keys=True).encode())


class TenantMachine(RuleBasedStateMachine):
    """The owner uses a session; the other tenant tries every request about it."""

    environment: ClassVar[Environment]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.environment.loop).result(60)

    # -- owner -------------------------------------------------------------------------------------------------------

    @initialize(stage=st.sampled_from(["new", "done", "waiting", "working", "deleted"]))
    def begin(self, stage: str) -> None:
        self.environment.examples += 1
        self.data = TenantData()
        self.live = self._run(self._create_owner_session(stage))
        self.own = self._run(self._create_other_session())
        self.stable = stage in ("new", "done", "waiting")
        self.before = self._run(self._info()) if self.stable else None

    async def _create_owner_session(self, stage: str) -> Conversation:
        name = f"s{secrets.token_hex(8)}"
        canary = f"canary{secrets.token_hex(8)}"
        self.data.add_secret(name, f"s{random_like(name[1:])}")
        self.data.add_secret(canary, f"canary{random_like(canary[6:])}")
        once = f"once-{canary}"
        body = {
            "model": "scripted:x",
            "sessionId": name,
            "systemPrompt": canary,
            "metadata": {"note": canary},
            "tools": ["shell", "ask_user"],
        }
        answer = await self.environment.owner.post("/v1/sessions", json=body, headers={"Idempotency-Key": once})
        assert answer.status_code == 201, answer.text
        talk = Conversation(self.environment.owner, name)
        self.data.add_id("session", name)
        self.data.add_id("Idempotency-Key", once)
        tool = {"name": f"t{canary}", "description": canary, "parameters": {"type": "object"}}
        registered = await talk.post("tools", {**tool, "callbackUrl": f"http://127.0.0.1:9/{canary}"})
        kind, _, secret = registered.json()["secret"].partition("_")
        self.data.add_secret(
            secret, random_like(secret[:-2]) + secret[-2:]
        )  # the last characters of Base64 are not arbitrary
        self.data.add_id("secret", f"{kind}_{secret}")
        self.data.add_id("tool", f"t{canary}")
        await self._use_session(talk, stage, canary, once)
        self._add_secret_id("ticket", (await talk.post("tickets", {"scope": "control"})).json()["ticket"])
        info = await talk.info()
        self.data.add_secret(info["cursor"].split(".")[0], random_like(info["cursor"].split(".")[0]))
        for what in ("cursor", "start of the log"):
            epoch, _, seq = info["cursor"].partition(".")
            self.data.add_id(what, f"{epoch}.{seq if what == 'cursor' else 0}")
        listed = (await self.environment.owner.get("/v1/sessions", params={"limit": 1})).json()
        self.data.add_list_cursor(listed["nextCursor"])
        if stage == "deleted":
            await self.environment.owner.delete(talk.path)
        return talk

    async def _use_session(self, talk: Conversation, stage: str, canary: str, once: str) -> None:
        if stage == "new":
            return
        text = {
            "working": script({"text": [canary] * 2000, "delayMs": 5}),
            "waiting": script(calling(("shell", {"command": canary}), ("ask_user", {"question": canary}))),
        }.get(stage, canary)
        answer = await talk.post("prompt", {"text": text}, Idempotency_Key=f"p{once}")
        request_id = answer.json()["requestId"]
        self.data.add_secret(request_id, random_like(request_id))
        self.data.add_id("requestId", request_id)
        self.data.add_id("Idempotency-Key", f"p{once}")
        if stage == "working":
            await talk.first("message_delta")
        elif stage == "waiting":
            approval, question = await talk.first("approval_required"), await talk.first("ask_user")
            self._add_secret_id("digest", approval["digest"])
            for kind, value in (("approvalId", approval["approvalId"]), ("ref", question["ref"])):
                self.data.add_id(kind, value)
            self.data.add_id("callId", approval["callId"])
        else:
            await talk.events(request_id)

    def _add_secret_id(self, kind: str, value: str) -> None:
        self.data.add_secret(value, random_like(value))
        self.data.add_id(kind, value)

    async def _info(self) -> dict[str, Any]:
        info = await self.live.info()
        return {**info, "uptimeMs": 0}

    @precondition(lambda self: self.stable)
    @rule()
    def the_owner_deletes_the_session(self) -> None:
        assert self._run(self.live.client.delete(self.live.path)).status_code == 200
        self.stable, self.before = False, None

    @rule()
    def the_session_is_evicted(self) -> None:
        self._run(self.environment.evict_idle())

    @rule()
    def the_gateway_restarts(self) -> None:
        if self.environment.examples < EXAMPLES_PER_RESTART * (1 + self.environment.restarts):
            return
        self._run(self.environment.restart())
        self.live = Conversation(self.environment.owner, self.live.id)
        self.own = Conversation(self.environment.other, self.own.id)

    # -- other tenant ------------------------------------------------------------------------------------------------

    async def _create_other_session(self) -> Conversation:
        """Create a session of the other tenant that waits for an approval and an answer."""
        talk = await Conversation.begin(self.environment.other, tools=["shell", "ask_user"])
        await talk.prompt(WAITING)
        await talk.first("ask_user")
        return talk

    @rule()
    def every_route_of_a_foreign_session(self) -> None:
        for operation in self.environment.session_operations:
            foreign, _ = self._send_both(operation, {SESSION: self._foreign_id("session")})
            assert not foreign.granted, (operation.name, foreign)

    @rule(data=st.data())
    def a_route_of_a_foreign_session_with_other_foreign_ids(self, data: st.DataObject) -> None:
        operation = data.draw(st.sampled_from(self.environment.session_operations), "operation")
        values = self._drawn(data, [one for one in operation.inputs if one != SESSION])
        foreign, _ = self._send_both(operation, {**values, SESSION: self._foreign_id("session")})
        assert not foreign.granted, (operation.name, foreign)

    @rule(data=st.data())
    def a_foreign_id_in_the_next_input(self, data: st.DataObject) -> None:
        """In requests about the other tenant's own session, or about none. Every input has its turn."""
        operation, one = next(self.environment.every_input)
        foreign_id = data.draw(st.sampled_from(self.data.ids), "id")
        granted = self._send_both(operation, {one: foreign_id}, own=True)
        if one == Input("body", "sessionId"):  # a sessionId that another tenant uses is available
            free = re.fullmatch(r"[A-Za-z0-9_-]{1,128}", foreign_id.value) is not None
            assert [answer.status for answer in granted] == [201 if free else 400] * 2
            for name in (foreign_id.value, foreign_id.substitute) if free else ():
                self._check_session_with_same_id(name)

    def _check_session_with_same_id(self, name: str) -> None:
        """The other tenant's session with the same id has no data of the owner, on any route; delete it."""
        for operation in self.environment.session_operations:
            if operation.method == "GET":
                answer = self._run(self.environment.send(operation, {SESSION: name}))
                assert leaked_secrets(answer, self.data.secrets, [name]) == [], operation.name
        assert self._run(self.environment.other.delete(f"/v1/sessions/{name}")).status_code == 200

    @rule()
    def every_route_without_a_session(self) -> None:
        for operation in self.environment.operations:
            if SESSION not in operation.inputs and operation.method == "GET":
                answer = self._run(self.environment.send(operation, {}))
                assert leaked_secrets(answer, self.data.secrets, []) == [], operation.name

    @rule(data=st.data())
    def a_websocket_of_a_foreign_session(self, data: st.DataObject) -> None:
        after = data.draw(st.sampled_from(["", *(foreign_id.value for foreign_id in self.data.ids)]), "after")
        query = f"?after={quote(after, safe='')}" if after else ""
        session = self._foreign_id("session")
        foreign = self._run(self.environment.handshake(f"/v1/sessions/{session.value}/ws{query}"))
        unknown = self._run(self.environment.handshake(f"/v1/sessions/{session.substitute}/ws{query}"))
        self._compare("WebSocket", foreign, unknown, {session.value: session.substitute}, [session.value, after])
        assert foreign.status == 404 or after

    @rule(data=st.data())
    def a_websocket_with_a_foreign_cursor_or_ticket(self, data: st.DataObject) -> None:
        foreign_id = data.draw(st.sampled_from(self.data.ids), "id")
        answers = [
            self._run(self.environment.handshake(f"/v1/sessions/{self.own.id}/ws?after={quote(value, safe='')}"))
            for value in (foreign_id.value, foreign_id.substitute)
        ]
        self._compare("after", answers[0], answers[1], {foreign_id.value: foreign_id.substitute}, [foreign_id.value])
        if foreign_id.kind == "secret":  # a subprotocol cannot contain Base64
            return
        answers = [
            self._run(
                self.environment.handshake(
                    f"/v1/sessions/{self.own.id}/ws", key=None, subprotocols=["cmdc.v1", f"cmdc.ticket.{value}"]
                )
            )
            for value in (foreign_id.value, foreign_id.substitute)
        ]
        self._compare("ticket", answers[0], answers[1], {foreign_id.value: foreign_id.substitute}, [foreign_id.value])
        assert answers[0].status == 401

    @rule(data=st.data())
    def a_foreign_id_in_an_action(self, data: st.DataObject) -> None:
        """WS-3: in every text member of every action."""
        action = data.draw(st.sampled_from(self.environment.actions), "action")
        members = [name for name, value in action.items() if isinstance(value, str) and name != "action"]
        member = data.draw(st.sampled_from([*members, "idempotencyKey"]), "member")
        foreign_id = data.draw(st.sampled_from(self.data.ids), "id")

        async def both() -> list[TenantResponse]:
            async with self.environment.socket(f"/v1/sessions/{self.own.id}/ws") as socket:
                values = (foreign_id.value, foreign_id.substitute)
                return [await self.environment.act(socket, {**action, member: value}) for value in values]

        foreign, unknown = self._run(both())
        self._compare(
            f"action {action['action']}",
            foreign,
            unknown,
            {foreign_id.value: foreign_id.substitute},
            [foreign_id.value],
        )

    def teardown(self) -> None:
        if self.before is not None:
            assert self._run(self._info()) == self.before, "the other tenant changed the session"

    # -- comparison --------------------------------------------------------------------------------------------------

    def _foreign_id(self, kind: str) -> ForeignId:
        return next(foreign_id for foreign_id in self.data.ids if foreign_id.kind == kind)

    def _drawn(self, data: st.DataObject, inputs: list[Input]) -> dict[Input, ForeignId]:
        """Draw foreign ids for some of these inputs."""
        chosen = data.draw(st.lists(st.sampled_from(inputs), max_size=2, unique=True), "inputs") if inputs else []
        return {one: data.draw(st.sampled_from(self.data.ids), f"{one.name}") for one in chosen}

    def _send_both(
        self, operation: Operation, ids: Mapping[Input, ForeignId], *, own: bool = False
    ) -> tuple[TenantResponse, TenantResponse]:
        """Send a request with foreign ids and one with their substitutes; compare the responses."""
        common: dict[Input, str] = {SESSION: self.own.id} if own else {}
        foreign = self._run(
            self.environment.send(operation, common | {one: foreign_id.value for one, foreign_id in ids.items()})
        )
        unknown = self._run(
            self.environment.send(operation, common | {one: foreign_id.substitute for one, foreign_id in ids.items()})
        )
        substitutes = {foreign_id.value: foreign_id.substitute for foreign_id in ids.values()}
        self._compare(operation.name, foreign, unknown, substitutes, [foreign_id.value for foreign_id in ids.values()])
        return foreign, unknown

    def _compare(
        self,
        where: str,
        foreign: TenantResponse,
        unknown: TenantResponse,
        substitutes: Mapping[str, str],
        sent: list[str],
    ) -> None:
        assert differences(foreign, unknown, substitutes) == [], (where, substitutes)
        for answer in (foreign, unknown):
            assert (
                leaked_secrets(answer, self.data.secrets, [*sent, *self.data.substitute(" ".join(sent)).split(" ")])
                == []
            ), where


async def run_machine(folder: Path, examples: int, seed_value: int) -> Environment:
    """Run the state machine against a new gateway."""
    environment = Environment(folder)
    environment.loop.set_exception_handler(lambda _, context: environment.unexpected.append(context))
    await environment.start()
    await Conversation.begin(environment.owner)  # so that a list of the owner has a second page

    class Machine(TenantMachine):
        pass

    Machine.environment = environment
    enough = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    try:
        # In a thread, because the machine blocks while this loop handles its requests.
        await asyncio.to_thread(run_state_machine_as_test, seed(seed_value)(Machine), settings=enough)
    finally:
        await environment.stop()
    return environment


async def test_another_tenant_learns_nothing(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-8."""
    examples = experiment.trials(short=20, long=5_000)
    begun = time.monotonic()

    environment = await run_machine(tmp_path, examples, experiment.random.getrandbits(32))

    assert environment.unexpected == [], "no exception was unhandled"
    assert environment.routes == {operation.name for operation in environment.operations}, "every route was requested"
    experiment.record("examples", examples)
    experiment.record("requests", environment.requests)
    experiment.record("routes", len(environment.routes))
    experiment.record("inputs", len(environment.inputs))
    experiment.record("restarts", environment.restarts)
    experiment.record("differences", 0)
    experiment.record("seconds", round(time.monotonic() - begun, 1))


# -- the comparison finds differences ------------------------------------------------------------------------------------


async def find_and_forbid(registry: Registry, key: SessionKey) -> Session:
    """A defect: the gateway reveals that the session exists."""
    tenants = ("default", "other")
    if any([await registry.services.store.log_bounds(SessionKey(name, key.session_id)) for name in tenants]):
        try:
            return await FIND(registry, key)
        except Exception as failure:
            raise Forbidden("this session belongs to another tenant") from failure
    return await FIND(registry, key)


async def find_in_any_tenant(registry: Registry, key: SessionKey) -> Session:
    """A defect: the gateway ignores the tenant."""
    keys = [SessionKey(name, key.session_id) for name in ("other", "default")]
    found = [candidate for candidate in keys if await registry.services.store.log_bounds(candidate)]
    return await FIND(registry, next(iter(found), key))


FIND = Registry.find


@pytest.mark.parametrize("broken", [find_and_forbid, find_in_any_tenant])
async def test_a_gateway_that_reveals_sessions_is_detected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: Any
) -> None:
    monkeypatch.setattr(Registry, "find", broken)

    with pytest.raises((AssertionError, ExceptionGroup)):
        await run_machine(tmp_path, 20, 1)


FOREIGN = TenantResponse(404, (("content-type", "application/json"), ("date", "now")), b"no session 'mine'")
UNKNOWN = TenantResponse(404, (("content-type", "application/json"), ("date", "then")), b"no session 'none'")


def test_responses_that_differ_only_in_the_id_and_the_date_have_no_differences() -> None:
    assert differences(FOREIGN, UNKNOWN, {"mine": "none"}) == []
    assert differences(TenantResponse(200, (("a", "1"),), b"yes"), TenantResponse(201, (("a", "2"),), b"no"), {}) == []


@pytest.mark.parametrize(
    ("foreign", "difference"),
    [
        (TenantResponse(403, FOREIGN.headers, FOREIGN.body), "status 403 and 404"),
        (TenantResponse(404, FOREIGN.headers, b"session 'mine' is not yours"), "body "),
        (TenantResponse(404, FOREIGN.headers, FOREIGN.body + b" "), "body "),
        (TenantResponse(404, (*FOREIGN.headers, ("etag", "1")), FOREIGN.body), "headers "),
        (TenantResponse(404, (("content-type", "text/plain"),), FOREIGN.body), "headers "),
        (TenantResponse(200, FOREIGN.headers, FOREIGN.body), "status 200 and 404"),
    ],
)
def test_every_difference_from_an_unknown_session_is_reported(foreign: TenantResponse, difference: str) -> None:
    assert differences(foreign, UNKNOWN, {"mine": "none"})[0].startswith(difference)


def test_a_secret_is_found_in_body_and_headers_except_where_it_repeats_the_request() -> None:
    assert leaked_secrets(TenantResponse(200, (), b"... canary1 ..."), ["canary1"], []) == ["canary1"]
    assert leaked_secrets(TenantResponse(200, (("x", "canary1"),)), ["canary1"], ["other"]) == ["canary1"]
    assert leaked_secrets(TenantResponse(404, (), b"no session 'canary1'"), ["canary1"], ["canary1"]) == []
    assert leaked_secrets(
        TenantResponse(404, (), b"no session 'canary1', but canary2"), ["canary1", "canary2"], ["canary1"]
    ) == ["canary2"]
