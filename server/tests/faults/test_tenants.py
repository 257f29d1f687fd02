"""Experiment 8: what belongs to another tenant is as if it had never been, on every route and for every id."""

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
from cmdc_gateway.store.store import SessionKey
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.documented_requests import Input, Operation, actions, operations
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, OTHER_KEY, Served, serving
from cmdc_testkit.tenant_isolation import ForeignId, TenantData, TenantResponse, differences, leaked_secrets
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.timeout(240)  # on a machine that is busy with other things

T = TypeVar("T")

WAITING = script(calling(("shell", {"command": "true"}), ("ask_user", {"question": "?"})))
SESSION = Input("path", "sessionId")
# What a proper request of the asker's own has in these slots.
OWN: Mapping[Input, str] = {Input("body", "model"): "scripted:x", Input("body", "workingDir"): "."}
STEPS = 12
EXAMPLES_A_RESTART = 10  # it takes half a second


def chance_like(text: str) -> str:
    """Other characters of chance, as many and of the same kind; a slash stays, for it divides paths."""
    letters = "0123456789abcdef" if set(text) <= set("0123456789abcdef") else "abcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(letters) if character.isalnum() else character for character in text)


@dataclass
class World:
    """A gateway with two tenants, which can be started anew on what it has stored; and what was found out."""

    folder: Path
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    asked: int = 0
    examples: int = 0
    places: set[tuple[str, Input]] = field(default_factory=set[tuple[str, Input]])
    routes: set[str] = field(default_factory=set[str])
    restarts: int = 0
    served: Served = field(init=False)
    owner: httpx.AsyncClient = field(init=False)
    stranger: httpx.AsyncClient = field(init=False)
    operations: list[Operation] = field(init=False)
    actions: list[dict[str, Any]] = field(init=False)
    every_place: Iterator[tuple[Operation, Input]] = field(init=False)
    unexpected: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _stack: AsyncExitStack = field(init=False)

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        store = f"sqlite:///{self.folder / 'gateway.db'}"
        self.served = await self._stack.enter_async_context(serving(self.folder, store=store))
        self.owner = await self._stack.enter_async_context(self.served.client(KEY))
        self.stranger = await self._stack.enter_async_context(self.served.client(OTHER_KEY))
        published = operations((await self.stranger.get("/openapi.json")).json())
        self.operations = [operation for operation in published if operation.requires_key]
        self.actions = actions((await self.stranger.get("/asyncapi.json")).json())
        places = [(operation, slot) for operation in self.operations for slot in operation.inputs if slot != SESSION]
        self.every_place = islice(cycle(places), len(self.places) % len(places), None)

    @property
    def about_sessions(self) -> list[Operation]:
        return [operation for operation in self.operations if SESSION in operation.inputs]

    async def stop(self) -> None:
        await self._stack.aclose()

    async def restart(self) -> None:
        await self.stop()
        await self.start()
        self.restarts += 1

    async def let_sleep(self) -> None:
        """Have every session that rests be in the store alone."""
        registry = self.served.gateway.registry
        await registry._evict_idle(registry.services.clock() + 1)  # pyright: ignore[reportPrivateUsage]

    async def ask(self, operation: Operation, values: Mapping[Input, str]) -> TenantResponse:
        """What the stranger is answered; of a stream no more than its head, which may have no end."""
        self.asked += 1
        self.routes.add(operation.name)
        self.places |= {(operation.name, slot) for slot in values}
        proper = {**OWN, Input("body", "sessionId"): secrets.token_hex(16)}
        request = operation.request({**proper, **values})
        async with self.stranger.stream(
            request.method, request.path, params=request.query, headers=request.headers, json=request.body
        ) as answer:
            headers = tuple(sorted(answer.headers.items()))
            streams = answer.headers.get("content-type", "").startswith("text/event-stream")
            return TenantResponse(answer.status_code, headers, b"" if streams else await answer.aread())

    def socket(self, path: str, *, key: str | None = OTHER_KEY, **options: Any) -> connect:
        self.asked += 1
        headers = {"X-API-Key": key} if key is not None else {}
        address = f"{self.served.url.replace('http', 'ws', 1)}{path}"
        return connect(address, additional_headers=headers, proxy=None, **options)

    async def knock(self, path: str, **options: Any) -> TenantResponse:
        """What the stranger is answered who opens a WebSocket."""
        try:
            async with self.socket(path, **options):
                return TenantResponse(101)
        except InvalidStatus as refused:
            response = refused.response
            headers = tuple(sorted((name.lower(), value) for name, value in response.headers.raw_items()))
            return TenantResponse(response.status_code, headers, bytes(response.body or b""))

    async def act(self, socket: ClientConnection, action: Mapping[str, Any]) -> TenantResponse:
        """What the stranger's action is acknowledged with; events of the stranger's own session are passed over."""
        self.asked += 1
        await socket.send(json.dumps(action))
        async with asyncio.timeout(10):
            while "event" in (said := json.loads(await socket.recv())):
                pass
        return TenantResponse(body=json.dumps(said, sort_keys=True).encode())


class Tenants(RuleBasedStateMachine):
    """One tenant works with sessions; the other tries everything that can be asked about them."""

    world: ClassVar[World]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.world.loop).result(60)

    # -- the owner ---------------------------------------------------------------------------------------------------

    @initialize(stage=st.sampled_from(["new", "done", "waiting", "working", "deleted"]))
    def begin(self, stage: str) -> None:
        self.world.examples += 1
        self.things = TenantData()
        self.live = self._run(self._owners_session(stage))
        self.own = self._run(self._strangers_session())
        self.stable = stage in ("new", "done", "waiting")
        self.before = self._run(self._look()) if self.stable else None

    async def _owners_session(self, stage: str) -> Conversation:
        name = f"s{secrets.token_hex(8)}"
        canary = f"canary{secrets.token_hex(8)}"
        self.things.add_secret(name, f"s{chance_like(name[1:])}")
        self.things.add_secret(canary, f"canary{chance_like(canary[6:])}")
        once = f"once-{canary}"
        body = {
            "model": "scripted:x",
            "sessionId": name,
            "systemPrompt": canary,
            "metadata": {"note": canary},
            "tools": ["shell", "ask_user"],
        }
        answer = await self.world.owner.post("/v1/sessions", json=body, headers={"Idempotency-Key": once})
        assert answer.status_code == 201, answer.text
        talk = Conversation(self.world.owner, name)
        self.things.add_id("session", name)
        self.things.add_id("Idempotency-Key", once)
        tool = {"name": f"t{canary}", "description": canary, "parameters": {"type": "object"}}
        registered = await talk.post("tools", {**tool, "callbackUrl": f"http://127.0.0.1:9/{canary}"})
        kind, _, secret = registered.json()["secret"].partition("_")
        self.things.add_secret(secret, chance_like(secret[:-2]) + secret[-2:])  # the end is not free in Base64
        self.things.add_id("secret", f"{kind}_{secret}")
        self.things.add_id("tool", f"t{canary}")
        await self._converse(talk, stage, canary, once)
        self._mark_and_add("ticket", (await talk.post("tickets", {"scope": "control"})).json()["ticket"])
        info = await talk.info()
        self.things.add_secret(info["cursor"].split(".")[0], chance_like(info["cursor"].split(".")[0]))
        for what in ("cursor", "start of the log"):
            epoch, _, seq = info["cursor"].partition(".")
            self.things.add_id(what, f"{epoch}.{seq if what == 'cursor' else 0}")
        listed = (await self.world.owner.get("/v1/sessions", params={"limit": 1})).json()
        self.things.add_list_cursor(listed["nextCursor"])
        if stage == "deleted":
            await self.world.owner.delete(talk.path)
        return talk

    async def _converse(self, talk: Conversation, stage: str, canary: str, once: str) -> None:
        if stage == "new":
            return
        text = {
            "working": script({"text": [canary] * 2000, "delayMs": 5}),
            "waiting": script(calling(("shell", {"command": canary}), ("ask_user", {"question": canary}))),
        }.get(stage, canary)
        answer = await talk.post("prompt", {"text": text}, Idempotency_Key=f"p{once}")
        request_id = answer.json()["requestId"]
        self.things.add_secret(request_id, chance_like(request_id))
        self.things.add_id("requestId", request_id)
        self.things.add_id("Idempotency-Key", f"p{once}")
        if stage == "working":
            await talk.first("message_delta")
        elif stage == "waiting":
            approval, question = await talk.first("approval_required"), await talk.first("ask_user")
            self._mark_and_add("digest", approval["digest"])
            for what, value in (("approvalId", approval["approvalId"]), ("ref", question["ref"])):
                self.things.add_id(what, value)
            self.things.add_id("callId", approval["callId"])
        else:
            await talk.events(request_id)

    def _mark_and_add(self, what: str, value: str) -> None:
        self.things.add_secret(value, chance_like(value))
        self.things.add_id(what, value)

    async def _look(self) -> dict[str, Any]:
        info = await self.live.info()
        return {**info, "uptimeMs": 0}

    @precondition(lambda self: self.stable)
    @rule()
    def the_owner_deletes_it(self) -> None:
        assert self._run(self.live.client.delete(self.live.path)).status_code == 200
        self.stable, self.before = False, None

    @rule()
    def it_goes_to_sleep(self) -> None:
        self._run(self.world.let_sleep())

    @rule()
    def the_server_starts_anew(self) -> None:
        if self.world.examples < EXAMPLES_A_RESTART * (1 + self.world.restarts):
            return
        self._run(self.world.restart())
        self.live = Conversation(self.world.owner, self.live.id)
        self.own = Conversation(self.world.stranger, self.own.id)

    # -- the stranger --------------------------------------------------------------------------------------------------

    async def _strangers_session(self) -> Conversation:
        """A session of the stranger's own that waits for an approval and an answer."""
        talk = await Conversation.begin(self.world.stranger, tools=["shell", "ask_user"])
        await talk.prompt(WAITING)
        await talk.first("ask_user")
        return talk

    @rule()
    def every_route_of_a_foreign_session(self) -> None:
        for operation in self.world.about_sessions:
            foreign, _ = self._both(operation, {SESSION: self._thing("session")})
            assert not foreign.granted, (operation.name, foreign)

    @rule(data=st.data())
    def a_route_of_a_foreign_session_with_more_of_its_ids(self, data: st.DataObject) -> None:
        operation = data.draw(st.sampled_from(self.world.about_sessions), "operation")
        values = self._drawn(data, [slot for slot in operation.inputs if slot != SESSION])
        foreign, _ = self._both(operation, {**values, SESSION: self._thing("session")})
        assert not foreign.granted, (operation.name, foreign)

    @rule(data=st.data())
    def every_foreign_id_in_every_place(self, data: st.DataObject) -> None:
        """In requests about the stranger's own session, or none; place after place, so that none is left out."""
        operation, slot = next(self.world.every_place)
        thing = data.draw(st.sampled_from(self.things.ids), "id")
        granted = self._both(operation, {slot: thing}, own=True)
        if slot == Input("body", "sessionId"):  # a name that another tenant uses is free
            free = re.fullmatch(r"[A-Za-z0-9_-]{1,128}", thing.value) is not None
            assert [answer.status for answer in granted] == [201 if free else 400] * 2
            for name in (thing.value, thing.substitute) if free else ():
                self._twin_shows_nothing(name)

    def _twin_shows_nothing(self, name: str) -> None:
        """The stranger's session of the same name has nothing of the owner's, on any route; then it is deleted."""
        for operation in self.world.about_sessions:
            if operation.method == "GET":
                answer = self._run(self.world.ask(operation, {SESSION: name}))
                assert leaked_secrets(answer, self.things.secrets, [name]) == [], operation.name
        assert self._run(self.world.stranger.delete(f"/v1/sessions/{name}")).status_code == 200

    @rule()
    def what_is_asked_about_no_session(self) -> None:
        for operation in self.world.operations:
            if SESSION not in operation.inputs and operation.method == "GET":
                answer = self._run(self.world.ask(operation, {}))
                assert leaked_secrets(answer, self.things.secrets, []) == [], operation.name

    @rule(data=st.data())
    def a_websocket_of_a_foreign_session(self, data: st.DataObject) -> None:
        after = data.draw(st.sampled_from(["", *(thing.value for thing in self.things.ids)]), "after")
        query = f"?after={quote(after, safe='')}" if after else ""
        session = self._thing("session")
        foreign = self._run(self.world.knock(f"/v1/sessions/{session.value}/ws{query}"))
        unknown = self._run(self.world.knock(f"/v1/sessions/{session.substitute}/ws{query}"))
        self._judge("WebSocket", foreign, unknown, {session.value: session.substitute}, [session.value, after])
        assert foreign.status == 404 or after

    @rule(data=st.data())
    def a_websocket_with_a_foreign_cursor_or_ticket(self, data: st.DataObject) -> None:
        thing = data.draw(st.sampled_from(self.things.ids), "id")
        answers = [
            self._run(self.world.knock(f"/v1/sessions/{self.own.id}/ws?after={quote(value, safe='')}"))
            for value in (thing.value, thing.substitute)
        ]
        self._judge("after", answers[0], answers[1], {thing.value: thing.substitute}, [thing.value])
        if thing.kind == "secret":  # base64 cannot stand in a subprotocol
            return
        answers = [
            self._run(
                self.world.knock(
                    f"/v1/sessions/{self.own.id}/ws", key=None, subprotocols=["cmdc.v1", f"cmdc.ticket.{value}"]
                )
            )
            for value in (thing.value, thing.substitute)
        ]
        self._judge("ticket", answers[0], answers[1], {thing.value: thing.substitute}, [thing.value])
        assert answers[0].status == 401

    @rule(data=st.data())
    def a_foreign_id_in_an_action(self, data: st.DataObject) -> None:
        """WS-3: in every member of every action that holds text."""
        action = data.draw(st.sampled_from(self.world.actions), "action")
        members = [name for name, value in action.items() if isinstance(value, str) and name != "action"]
        member = data.draw(st.sampled_from([*members, "idempotencyKey"]), "member")
        thing = data.draw(st.sampled_from(self.things.ids), "id")

        async def both() -> list[TenantResponse]:
            async with self.world.socket(f"/v1/sessions/{self.own.id}/ws") as socket:
                values = (thing.value, thing.substitute)
                return [await self.world.act(socket, {**action, member: value}) for value in values]

        foreign, unknown = self._run(both())
        self._judge(f"action {action['action']}", foreign, unknown, {thing.value: thing.substitute}, [thing.value])

    def teardown(self) -> None:
        if self.before is not None:
            assert self._run(self._look()) == self.before, "what the stranger did changed something"

    # -- judging -------------------------------------------------------------------------------------------------------

    def _thing(self, what: str) -> ForeignId:
        return next(thing for thing in self.things.ids if thing.kind == what)

    def _drawn(self, data: st.DataObject, slots: list[Input]) -> dict[Input, ForeignId]:
        """Foreign ids for some of these slots."""
        chosen = data.draw(st.lists(st.sampled_from(slots), max_size=2, unique=True), "slots") if slots else []
        return {slot: data.draw(st.sampled_from(self.things.ids), f"{slot.name}") for slot in chosen}

    def _both(
        self, operation: Operation, things: Mapping[Input, ForeignId], *, own: bool = False
    ) -> tuple[TenantResponse, TenantResponse]:
        """What is answered about the foreign things, and about their twins; judged."""
        common: dict[Input, str] = {SESSION: self.own.id} if own else {}
        foreign = self._run(self.world.ask(operation, common | {slot: thing.value for slot, thing in things.items()}))
        unknown = self._run(
            self.world.ask(operation, common | {slot: thing.substitute for slot, thing in things.items()})
        )
        twins = {thing.value: thing.substitute for thing in things.values()}
        self._judge(operation.name, foreign, unknown, twins, [thing.value for thing in things.values()])
        return foreign, unknown

    def _judge(
        self, where: str, foreign: TenantResponse, unknown: TenantResponse, twins: Mapping[str, str], sent: list[str]
    ) -> None:
        assert differences(foreign, unknown, twins) == [], (where, twins)
        for answer in (foreign, unknown):
            assert (
                leaked_secrets(answer, self.things.secrets, [*sent, *self.things.substitute(" ".join(sent)).split(" ")])
                == []
            ), where


async def explore(folder: Path, examples: int, chance: int) -> World:
    """Let the machine try so many examples against a gateway of its own."""
    world = World(folder)
    world.loop.set_exception_handler(lambda _, context: world.unexpected.append(context))
    await world.start()
    await Conversation.begin(world.owner)  # so that every list of the owner's goes on

    class Machine(Tenants):
        pass

    Machine.world = world
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
        # In a thread, because the machine waits for what this loop does.
        await asyncio.to_thread(run_state_machine_as_test, seed(chance)(Machine), settings=enough)
    finally:
        await world.stop()
    return world


async def test_a_stranger_learns_nothing(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-8."""
    examples = experiment.trials(short=40, long=5_000)
    begun = time.monotonic()

    world = await explore(tmp_path, examples, experiment.random.getrandbits(32))

    assert world.unexpected == [], "nothing failed where nobody looked"
    assert world.routes == {operation.name for operation in world.operations}, "every route was asked"
    experiment.record("examples", examples)
    experiment.record("requests", world.asked)
    experiment.record("routes", len(world.routes))
    experiment.record("places of ids", len(world.places))
    experiment.record("restarts", world.restarts)
    experiment.record("foreign bytes", 0)
    experiment.record("seconds", round(time.monotonic() - begun, 1))


# -- and it would be noticed ---------------------------------------------------------------------------------------------


async def found_by(registry: Registry, key: SessionKey) -> Session:
    """What a careless gateway does: it says that the session is there, and not yours."""
    tenants = ("default", "other")
    if any([await registry.services.store.log_bounds(SessionKey(name, key.session_id)) for name in tenants]):
        try:
            return await FIND(registry, key)
        except Exception as failure:
            raise Forbidden("this session is not yours") from failure
    return await FIND(registry, key)


async def found_anywhere(registry: Registry, key: SessionKey) -> Session:
    """A gateway that forgets the tenant."""
    keys = [SessionKey(name, key.session_id) for name in ("other", "default")]
    found = [candidate for candidate in keys if await registry.services.store.log_bounds(candidate)]
    return await FIND(registry, next(iter(found), key))


FIND = Registry.find


@pytest.mark.parametrize("broken", [found_by, found_anywhere])
async def test_a_gateway_that_tells_would_be_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: Any
) -> None:
    monkeypatch.setattr(Registry, "find", broken)

    with pytest.raises((AssertionError, ExceptionGroup)):
        await explore(tmp_path, 20, 1)


SAID = TenantResponse(404, (("content-type", "application/json"), ("date", "now")), b"no session 'mine'")
TWIN = TenantResponse(404, (("content-type", "application/json"), ("date", "then")), b"no session 'none'")


def test_answers_that_differ_in_nothing_but_the_id_and_the_date_are_told_apart_by_nothing() -> None:
    assert differences(SAID, TWIN, {"mine": "none"}) == []
    assert differences(TenantResponse(200, (("a", "1"),), b"yes"), TenantResponse(201, (("a", "2"),), b"no"), {}) == []


@pytest.mark.parametrize(
    ("foreign", "flaw"),
    [
        (TenantResponse(403, SAID.headers, SAID.body), "status 403 and 404"),
        (TenantResponse(404, SAID.headers, b"session 'mine' is not yours"), "body "),
        (TenantResponse(404, SAID.headers, SAID.body + b" "), "body "),
        (TenantResponse(404, (*SAID.headers, ("etag", "1")), SAID.body), "headers "),
        (TenantResponse(404, (("content-type", "text/plain"),), SAID.body), "headers "),
        (TenantResponse(200, SAID.headers, SAID.body), "status 200 and 404"),
    ],
)
def test_whatever_tells_a_foreign_session_is_found(foreign: TenantResponse, flaw: str) -> None:
    assert differences(foreign, TWIN, {"mine": "none"})[0].startswith(flaw)


def test_a_mark_of_the_owner_is_found_in_body_and_headers_but_not_where_the_asker_sent_it() -> None:
    assert leaked_secrets(TenantResponse(200, (), b"... canary1 ..."), ["canary1"], []) == ["canary1"]
    assert leaked_secrets(TenantResponse(200, (("x", "canary1"),)), ["canary1"], ["other"]) == ["canary1"]
    assert leaked_secrets(TenantResponse(404, (), b"no session 'canary1'"), ["canary1"], ["canary1"]) == []
    assert leaked_secrets(
        TenantResponse(404, (), b"no session 'canary1', but canary2"), ["canary1", "canary2"], ["canary1"]
    ) == ["canary2"]
