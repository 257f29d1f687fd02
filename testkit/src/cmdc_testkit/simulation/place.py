"""A place for gateways: the disk they share, the weather there, who judges, and the gateway that is asked just now."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, TypeVar

from cmdc_gateway.providers.registry import ModelRegistry
from cmdc_gateway.sessions.idempotency import Idempotency
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import SessionPolicy
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tenancy.meter import BudgetConfig, Meter
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.workspace import Workspace
from cmdc_gateway.web.actions import Actions

from cmdc_testkit.simulation.judge import Judge
from cmdc_testkit.simulation.loop import SimulatedLoop
from cmdc_testkit.simulation.parts import SimulatedCallbacks, SimulatedModel, SimulatedModels, SimulatedStore, Weather

T = TypeVar("T")

TENANT = "default"
CALLER = Principal(TENANT, "key1")

_BEGUN_MS = 1_800_000_000_000
_within: ContextVar[Incarnation | None] = ContextVar("within", default=None)


class Gone(Exception):
    """The gateway that was asked died before it answered, or the asker's patience did."""


class Place:
    """What is given in a world; `chance` has chosen some of it. `gateways` are all there ever were, the last is `gateway`."""

    def __init__(self, seed: int, *, loop: SimulatedLoop, folder: Path) -> None:
        self.seed = seed
        self.loop = loop
        self.disk = MemoryStore()
        self.judge = Judge(self.disk)
        self.weather = Weather()
        self.chance = self.chance_for("world", 0)
        model = SimulatedModel(self.chance_for("model", 0))
        catalog = ModelRegistry(aliases={}, plugins={"simulated": SimulatedModels(model)})
        self.offer = SessionPolicy(catalog, Workspace(folder))
        self.allowances = (
            {f"tenant:{TENANT}": BudgetConfig(max_tokens=self.chance.randrange(500, 5_000))}
            if self.chance.random() < 0.2
            else {}
        )
        self.queued_prompts = self.chance.choice((3, 100))
        self.replay_events = self.chance.choice((None, None, 40))
        self.gateway: Incarnation
        self.gateways: list[Incarnation] = []

    def chance_for(self, what: str, number: int) -> random.Random:
        """A chance of its own for everybody, so that one who asks more often does not change the others'."""
        return random.Random(f"{self.seed} {what} {number}")  # noqa: S311

    def clock(self) -> int:
        return _BEGUN_MS + int(self.loop.time() * 1000)


class Incarnation:
    """One gateway, from its start to its death. What it does, it does in tasks of its own, which die with it."""

    def __init__(self, place: Place, number: int) -> None:
        self.over: asyncio.Future[None] = place.loop.create_future()
        self.store = SimulatedStore(place.disk, place.judge, place.weather, place.chance_for("store", number))
        self.owner = f"gateway{number}"
        chance = place.chance_for("ids", number)
        services = Services(
            store=self.store,  # pyright: ignore[reportArgumentType] - it has the methods of the disk
            policy=place.offer,
            callbacks=SimulatedCallbacks(place.judge, place.chance_for("tools", number)),
            meter=Meter(place.allowances, clock=place.clock),
            clock=place.clock,
            new_id=lambda: f"{chance.getrandbits(64):016x}",
            owner=self.owner,
            queued_prompts=place.queued_prompts,
            parallel_tools=2,
            replay_events=place.replay_events,
        )
        self.registry = Registry(services)
        idempotency = Idempotency(self.store, place.clock)  # pyright: ignore[reportArgumentType]
        self.actions = Actions(self.registry, idempotency, Tickets(place.clock), AddressPolicy())
        self._loop = place.loop
        self._context = copy_context()
        self._context.run(_within.set, self)

    async def start(self) -> None:
        """Become the owner of what is on the disk. Raises StoreDown."""
        meter = self.registry.services.meter
        meter.load_usage(TENANT, await self.store.usage(TENANT))
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
