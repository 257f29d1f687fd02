"""A world: sessions on one disk, gateways that come and go, people who use them, and somebody who breaks things."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from cmdc_gateway.errors import GatewayError, SessionNotFound, Unavailable
from cmdc_gateway.protocol.decisions import ApproveBody, RejectBody, RespondBody
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.sessions import AbortBody, CreateSessionBody, PromptBody
from cmdc_gateway.protocol.tools import RegisterToolBody
from cmdc_gateway.providers.catalog import Catalog
from cmdc_gateway.providers.litellm import ModelTarget
from cmdc_gateway.sessions.idempotency import Given, Idempotency
from cmdc_gateway.sessions.log import Trimmed
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import Offer
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import SessionKey, StoreDown
from cmdc_gateway.tenancy.keys import Caller
from cmdc_gateway.tenancy.meter import Allowance, Meter
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.testing.audit import Frame
from cmdc_gateway.testing.simulation.judge import Judge, Violation, body
from cmdc_gateway.testing.simulation.loop import SimulatedLoop, Stuck, simulate
from cmdc_gateway.testing.simulation.parts import SimulatedCallbacks, SimulatedModel, SimulatedStore, Weather
from cmdc_gateway.tools.addresses import AddressPolicy
from cmdc_gateway.tools.workspace import Workspace
from cmdc_gateway.web.actions import Actions

T = TypeVar("T")

_TENANT = "default"
_CALLER = Caller(_TENANT, "key1")
_BEGUN_MS = 1_800_000_000_000
_SECRET = "whsec_" + "c2VjcmV0" * 5
_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}}
# With fair weather and somebody to decide, everything comes to its end in this time (of the simulation).
_PATIENCE_SECONDS = 1_800.0
# What is broken breaks other things.
_TOLD = 5

_within: ContextVar[Incarnation | None] = ContextVar("within", default=None)


class Gone(Exception):
    """The gateway that was asked died before it answered, or the asker's patience did."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a world has been through."""

    seed: int
    steps: int
    commits: int
    tool_calls: int
    prompts: int
    gateways: int
    story: str


class Incarnation:
    """One gateway, from its start to its death. What it does, it does in tasks of its own, which die with it."""

    def __init__(self, world: World, number: int) -> None:
        self.over: asyncio.Future[None] = world.loop.create_future()
        self.store = SimulatedStore(world.disk, world.judge, world.weather, world.chance_for("store", number))
        self.owner = f"gateway{number}"
        chance = world.chance_for("ids", number)
        services = Services(
            store=self.store,  # pyright: ignore[reportArgumentType] - it has the methods of the disk
            offer=world.offer,
            callbacks=SimulatedCallbacks(world.judge, world.chance_for("tools", number)),
            meter=Meter(world.allowances, clock=world.clock),
            clock=world.clock,
            new_id=lambda: f"{chance.getrandbits(64):016x}",
            owner=self.owner,
            queued_prompts=world.queued_prompts,
            parallel_tools=2,
            replay_events=world.replay_events,
        )
        self.registry = Registry(services)
        idempotency = Idempotency(self.store, world.clock)  # pyright: ignore[reportArgumentType]
        self.actions = Actions(self.registry, idempotency, Tickets(world.clock), AddressPolicy())
        self._loop = world.loop
        self._context = copy_context()
        self._context.run(_within.set, self)

    async def start(self) -> None:
        """Become the owner of what is on the disk. Raises StoreDown."""
        meter = self.registry.services.meter
        meter.recall(_TENANT, await self.store.usage(_TENANT))
        await self.registry.start()

    async def ask(self, request: Coroutine[Any, Any, T], patience: float | None = None, *, give_up: bool = False) -> T:
        """Have it do something. Raises Gone, and what it answers.

        When the asker's patience ends the gateway goes on, unless they `give_up` what they asked for.
        """
        if self.over.done():
            request.close()
            raise Gone
        task = self._loop.create_task(request, context=self._context)
        await asyncio.wait([task, self.over], timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if self.over.done() or not task.done():
            task.add_done_callback(_seen)  # the answer reaches nobody
            if give_up:
                task.cancel()
            raise Gone
        return task.result()

    async def die(self) -> None:
        """`kill -9`: from now on nothing it does reaches anybody."""
        self.store.cut = True
        if not self.over.done():
            self.over.set_result(None)
        while tasks := [task for task in self._loop.tasks() if task.context.get(_within) is self]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


class World:
    """`World(seed).run()` lives one through and judges it. Raises Violation, with the seed in it."""

    def __init__(self, seed: int, *, loop: SimulatedLoop, folder: Path) -> None:
        self.seed = seed
        self.loop = loop
        self.disk = MemoryStore()
        self.judge = Judge(self.disk)
        self.weather = Weather()
        self.chance = self.chance_for("world", 0)
        model = SimulatedModel(self.chance_for("model", 0))
        catalog = Catalog(
            aliases={"simulated:x": ModelTarget("none")}, environ={}, scripted=False, reach=lambda _: model
        )
        self.offer = Offer(catalog, Workspace(folder))
        self.allowances = (
            {f"tenant:{_TENANT}": Allowance(max_tokens=self.chance.randrange(500, 5_000))}
            if self.chance.random() < 0.2
            else {}
        )
        self.queued_prompts = self.chance.choice((3, 100))
        self.replay_events = self.chance.choice((None, None, 40))
        self.gateway: Incarnation
        self.gateways: list[Incarnation] = []
        self.keys: list[SessionKey] = []

    @property
    def kept(self) -> list[SessionKey]:
        """The sessions that were not deleted."""
        return [key for key in self.keys if key not in self.judge.deleted]

    def chance_for(self, what: str, number: int) -> random.Random:
        """A chance of its own for everybody, so that one who asks more often does not change the others'."""
        return random.Random(f"{self.seed} {what} {number}")  # noqa: S311

    def clock(self) -> int:
        return _BEGUN_MS + int(self.loop.time() * 1000)

    async def live(self) -> Report:
        """Some minutes of trouble, then peace until everything has come to its end."""
        await self._begin_gateway()
        for number in range(self.chance.randrange(1, 4)):
            self.keys.append(await self._new_session(f"s{number}"))
        readers = [Reading(self, key, n) for key in self.keys for n in range(2)]
        reading = [self.loop.create_task(reader.read()) for reader in readers]
        people = [Person(self, key, n) for key in self.keys for n in range(3)]
        living = [self.loop.create_task(person.live(prompts=n % 3 == 0)) for n, person in enumerate(people)]
        await self._trouble(until=self.loop.time() + self.chance.uniform(20, 120))
        self.weather.clear()
        for gateway in self.gateways[
            :-1
        ]:  # of those that were overtaken, some have gone on with what nobody else wanted
            await self._end(gateway)
        for person in people:
            person.stopped = True
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await asyncio.gather(*living)
                await self._settle(people)
                await asyncio.gather(*(reader.caught_up() for reader in readers))
        except TimeoutError:
            self._hold()
            raise Violation(
                f"DUR-2: something has no end: {[await self.disk.session(key) for key in self.keys]}"
            ) from None
        for reader in reading:
            reader.cancel()
        for key in self.kept:
            await self.judge.at_rest(key)
        await self.judge.all_counted(_TENANT, self.keys)
        for gateway in self.gateways:
            await gateway.die()
        self._hold(*self.loop.unhandled)
        return self._report()

    def _hold(self, *flaws: str) -> None:
        if broken := [*self.judge.broken, *flaws]:
            raise Violation("; ".join(broken[:_TOLD]))

    def _report(self) -> Report:
        return Report(
            self.seed,
            self.loop.steps,
            self.judge.commits,
            self.judge.calls,
            sum(len(promised.accepted) for promised in self.judge.promises.values()),
            len(self.gateways),
            self.judge.story,
        )

    # -- who breaks things ---------------------------------------------------------------------------------------------

    async def _trouble(self, until: float) -> None:
        trouble: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._kill,
            self._kill,
            self._stop,
            self._take_over,
            self._storm,
            self._storm,
            self._delete,
        ]
        while self.loop.time() < until:
            await asyncio.sleep(self.chance.choice((0.01, 0.3, 2, 8, 20)))
            await self.chance.choice(trouble)()
            self._hold()

    async def _kill(self) -> None:
        await self._end(self.gateway)
        await asyncio.sleep(self.chance.choice((0, 0.1, 3)))
        await self._begin_gateway()

    async def _end(self, gateway: Incarnation) -> None:
        await gateway.die()
        await self.disk.beat(gateway.owner, 0)

    async def _stop(self) -> None:
        """SIGTERM."""
        gateway = self.gateway
        registry = gateway.registry

        async def stop() -> None:
            await registry.drain(self.chance.choice((0, 0.5, 10)))
            await registry.close()

        with suppress(Gone):
            await gateway.ask(stop())
        await self._kill()

    async def _take_over(self) -> None:
        """Another gateway takes the sessions, and this one does not know."""
        await self.disk.beat(self.gateway.owner, 0)
        await self._begin_gateway()

    async def _storm(self) -> None:
        weather = self.weather
        weather.failing = self.chance.choice((0, 0.02, 0.2))
        weather.losing = self.chance.choice((0, 0.02, 0.2))
        weather.down = self.chance.random() < 0.3
        await asyncio.sleep(self.chance.choice((0.01, 0.3, 2)))
        weather.down = False
        if self.chance.random() < 0.7:
            weather.clear()

    async def _delete(self) -> None:
        """Now and then a session is deleted, if it is not the last one."""
        if len(self.kept) == 1 or self.chance.random() < 0.7:
            return
        key = self.chance.choice(self.kept)
        while key not in self.judge.deleted:
            gateway = self.gateway
            with suppress(Gone, StoreDown, GatewayError):
                await gateway.ask(gateway.registry.delete(key, _CALLER.key_id))
            await asyncio.sleep(0.1)

    async def _begin_gateway(self) -> None:
        while True:
            self.gateway = Incarnation(self, len(self.gateways))
            self.gateways.append(self.gateway)
            try:
                await self.gateway.ask(self.gateway.start())
                return
            except StoreDown:
                await self.gateway.die()
                await asyncio.sleep(0.5)

    async def _new_session(self, name: str) -> SessionKey:
        chance = self.chance
        settings: dict[str, Any] = {
            "model": "simulated:x",
            "sessionId": name,
            "tools": ["ask_user"],
            "maxTurns": chance.choice((2, 6, 100)),
        }
        if chance.random() < 0.5:
            settings["approval"] = {"tools": [], "timeoutMs": chance.choice((0, 50, 900, 5_000))}
        if chance.random() < 0.2:
            settings["budget"] = {"maxTokens": chance.randrange(100, 1_000)}
        sent = CreateSessionBody.model_validate(settings)
        key = SessionKey(_TENANT, name)
        await self.gateway.ask(self.gateway.actions.create(_CALLER, sent, None))
        for tool, guarded in (("count", False), ("guarded", True)):
            await self.gateway.ask(self.gateway.actions.register(_CALLER, key, registration(tool, guarded), None))
        return key

    async def _settle(self, people: list[Person]) -> None:
        for person in people:
            while not await person.nothing_left():  # noqa: ASYNC110
                await asyncio.sleep(0.2)


def registration(name: str, guarded: bool) -> RegisterToolBody:
    """How a tool of this world is registered."""
    return RegisterToolBody.model_validate(
        {
            "name": name,
            "description": "",
            "parameters": _PARAMETERS,
            "callbackUrl": "https://tool.example/",
            "timeoutMs": 9_000,
            "requiresApproval": guarded,
            "secret": _SECRET,
        }
    )


class Person:
    """Somebody who prompts, or sees to what waits. One at most of a session's people prompts, so that there is an order."""

    def __init__(self, world: World, key: SessionKey, number: int) -> None:
        self.stopped = False
        self._world = world
        self._key = key
        self._chance = world.chance_for(f"person {key.session_id}", number)
        self._name = f"{key.session_id}-{number}"
        self._sent = 0

    async def live(self, *, prompts: bool) -> None:
        while not self.stopped:
            await asyncio.sleep(self._chance.choice((0, 0.01, 0.5, 3)))
            if prompts:
                await self._prompt()
            else:
                await self._meddle()

    async def nothing_left(self) -> bool:
        """See to what waits; whether the session has nothing more to do."""
        stored = await self._world.disk.load(self._key)
        if stored is None or all(request.status == "done" for request in stored.requests):
            return True
        for approval in stored.approvals:
            await self._decide(approval.approval_id)
        for question in stored.questions:
            await self._respond(question.ref)
        return False

    async def _meddle(self) -> None:
        stored = await self._world.disk.load(self._key)
        if stored is None:
            return
        chance = self._chance
        match chance.randrange(12):
            case 0:
                await self._once(
                    "abort", lambda now, key: now.abort(_CALLER, self._key, AbortBody.model_validate({}), key)
                )
            case 1:
                tool = registration(chance.choice(("count", "spare", "guarded")), chance.random() < 0.5)
                await self._once("tools", lambda now, key: now.register(_CALLER, self._key, tool, key))
            case 2:
                gateway = self._world.gateway
                await self._try(gateway, self._remove("spare", gateway))
            case 3:
                await self._mistake([approval.approval_id for approval in stored.approvals])
            case _:
                for approval in stored.approvals:
                    await self._decide(approval.approval_id)
                for question in stored.questions:
                    await self._respond(question.ref)

    async def _mistake(self, waiting: list[str]) -> None:
        """What is no decision decides nothing."""
        wrong: dict[str, Any] = self._chance.choice(({"digest": "0" * 64}, {"args": {"n": "no number"}}))
        for approval_id in [*waiting, "apr_of_nothing"]:
            sent = ApproveBody.model_validate({"approvalId": approval_id, **wrong})
            given = await self._once("approve", lambda now, key, sent=sent: now.approve(_CALLER, self._key, sent, key))
            if given is not None:
                self._world.judge.found(f"APP-3: {approval_id} was approved with {wrong}")

    async def _prompt(self) -> None:
        given = await self._once("prompt", lambda now, key: now.prompt(_CALLER, self._key, PromptBody(text="go"), key))
        if given is not None:
            await self._world.judge.accepted(self._key, body(given.body)["requestId"], again=given.replayed)

    async def _decide(self, approval_id: str) -> None:
        chance = self._chance
        if chance.random() < 0.5:
            edited = {"args": {"n": chance.randrange(9)}} if chance.random() < 0.3 else {}
            sent = ApproveBody.model_validate({"approvalId": approval_id, **edited})
            given = await self._once("approve", lambda now, key: now.approve(_CALLER, self._key, sent, key))
            status = "approved"
        else:
            reject = RejectBody.model_validate({"approvalId": approval_id})
            given = await self._once("reject", lambda now, key: now.reject(_CALLER, self._key, reject, key))
            status = "rejected"
        if given is not None:
            self._world.judge.decided(self._key.session_id, approval_id, status)

    async def _respond(self, ref: str) -> None:
        response = self._chance.choice(("left", "right", "elsewhere"))
        sent = RespondBody(ref=ref, response=response)
        given = await self._once("respond", lambda now, key: now.respond(_CALLER, self._key, sent, key))
        if given is not None:
            answers = self._world.judge.promises[self._key.session_id].answers
            if answers.setdefault(ref, response) != response:
                self._world.judge.found(f"ASK-1: {ref} was answered twice")

    async def _once(self, what: str, act: Callable[[Actions, str], Coroutine[Any, Any, Given]]) -> Given | None:
        """Send until it is answered, under one Idempotency-Key; None if it was refused."""
        self._sent += 1
        name = f"{self._name}-{self._sent}-{what}"
        while True:
            gateway = self._world.gateway
            try:
                return await gateway.ask(act(gateway.actions, name), self._chance.choice((None, None, 0.1)))
            except (Gone, StoreDown, Unavailable):
                pass
            except GatewayError as refusal:
                if refusal.code != "idempotency_in_progress":
                    return None
            await asyncio.sleep(self._chance.choice((0.01, 0.2, 1)))

    async def _try(self, gateway: Incarnation, request: Coroutine[Any, Any, object]) -> None:
        with suppress(Gone, StoreDown, GatewayError):
            await gateway.ask(request)

    async def _remove(self, name: str, gateway: Incarnation) -> None:
        session = await gateway.registry.find(self._key)
        await session.remove_tool(name, _CALLER.key_id)


class Reading:
    """A reader that comes back after its last event whenever its connection is lost, which it is often."""

    def __init__(self, world: World, key: SessionKey, number: int) -> None:
        self._world = world
        self._key = key
        self._chance = world.chance_for(f"reader {key.session_id}", number)
        self._promised = world.judge.promises[key.session_id]
        self._after = 0
        self._begin(0)

    async def read(self) -> None:
        while self._key not in self._world.judge.deleted:
            gateway = self._world.gateway
            with suppress(Gone, StoreDown, Unavailable, SessionNotFound):
                await gateway.ask(self._connection(gateway), self._chance.choice((0.1, 2, 30)), give_up=True)
            await asyncio.sleep(self._chance.choice((0.01, 0.3)))

    async def caught_up(self) -> None:
        while self._key not in self._world.judge.deleted and self._after < len(self._promised.frames):  # noqa: ASYNC110 - polling is free here
            await asyncio.sleep(0.1)

    async def _connection(self, gateway: Incarnation) -> None:
        log, session = await gateway.registry.log_of(self._key)
        reader = log.reader(max(self._after, log.first_seq - 1))
        if reader.seq > self._after:
            self._begin(reader.seq)  # as one that has been told that its cursor has expired
        try:
            while not gateway.over.done():
                page = await reader.take()
                self._take(page)
                if session is not None and page and page[-1].terminal:
                    session.mark_served(page[-1].seq)
                if not page:
                    if log.closed:
                        return
                    await reader.wait()
        except Trimmed:
            if self._world.replay_events is None:
                self._world.judge.found("SSE-7: events are missing in the log")
        finally:
            reader.leave()

    def _begin(self, after: int) -> None:
        self._after = after
        self._frames: list[Frame] = []
        self._promised.seen.append(self._frames)

    def _take(self, page: list[LoggedEvent]) -> None:
        """What came; a connection that was given up may still bring what another has brought already."""
        self._world.judge.shown(self._key.session_id, page)
        for event in page:
            if event.seq == self._after + 1:
                self._after = event.seq
                self._frames.append(Frame(str(event.cursor), event.name, event.data.decode()))


def run(seed: int) -> Report:
    """Live one world through. Raises Violation, which says the seed."""
    chance = random.Random(f"{seed} loop")  # noqa: S311
    with tempfile.TemporaryDirectory() as folder, _quietly():
        try:
            return simulate(chance, lambda loop: World(seed, loop=loop, folder=Path(folder)).live())
        except Stuck:
            raise Violation(f"world {seed}: everybody waits for ever") from None
        except Violation as violation:
            raise Violation(f"world {seed}: {violation}") from violation


@contextmanager
def _quietly() -> Generator[None]:
    """Faults are what a world is made of: the log would be about nothing else."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    try:
        yield
    finally:
        structlog.configure(**before)
