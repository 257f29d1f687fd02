"""What simulated gateways share: the disk, the faults of the store, the auditor; and the gateways themselves."""

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

from cmdc_testkit.simulation.auditor import Auditor
from cmdc_testkit.simulation.components import (
    SimulatedCallbacks,
    SimulatedModel,
    SimulatedModels,
    SimulatedStore,
    StoreFaults,
)
from cmdc_testkit.simulation.loop import SimulatedLoop

T = TypeVar("T")

TENANT = "default"
PRINCIPAL = Principal(TENANT, "key1")

_START_MS = 1_800_000_000_000
_within: ContextVar[SimulatedGateway | None] = ContextVar("within", default=None)


class NoResponse(Exception):
    """The gateway was killed before it responded, or the client stopped waiting."""


class Environment:
    """The fixed part of a simulation, some of it chosen at random. `gateways` lists every gateway; `gateway` is the latest."""

    def __init__(self, seed: int, *, loop: SimulatedLoop, folder: Path) -> None:
        self.seed = seed
        self.loop = loop
        self.disk = MemoryStore()
        self.auditor = Auditor(self.disk)
        self.store_faults = StoreFaults()
        self.random = self.random_for("world", 0)
        model = SimulatedModel(self.random_for("model", 0))
        models = ModelRegistry(aliases={}, plugins={"simulated": SimulatedModels(model)})
        self.policy = SessionPolicy(models, Workspace(folder))
        self.budgets = (
            {f"tenant:{TENANT}": BudgetConfig(max_tokens=self.random.randrange(500, 5_000))}
            if self.random.random() < 0.2
            else {}
        )
        self.queued_prompts = self.random.choice((3, 100))
        self.replay_events = self.random.choice((None, None, 40))
        self.gateway: SimulatedGateway
        self.gateways: list[SimulatedGateway] = []

    def random_for(self, name: str, number: int) -> random.Random:
        """A separate generator for each component, so that one that draws more often does not change the others."""
        return random.Random(f"{self.seed} {name} {number}")  # noqa: S311

    def clock(self) -> int:
        return _START_MS + int(self.loop.time() * 1000)


class SimulatedGateway:
    """One gateway from its start until it is killed. It acts in its own tasks, which end with it."""

    def __init__(self, environment: Environment, number: int) -> None:
        self.killed: asyncio.Future[None] = environment.loop.create_future()
        self.store = SimulatedStore(
            environment.disk, environment.auditor, environment.store_faults, environment.random_for("store", number)
        )
        self.owner = f"gateway{number}"
        rng = environment.random_for("ids", number)
        services = Services(
            store=self.store,  # pyright: ignore[reportArgumentType] - it has the methods of the disk
            policy=environment.policy,
            callbacks=SimulatedCallbacks(environment.auditor, environment.random_for("tools", number)),
            meter=Meter(environment.budgets, clock=environment.clock),
            clock=environment.clock,
            new_id=lambda: f"{rng.getrandbits(64):016x}",
            owner=self.owner,
            queued_prompts=environment.queued_prompts,
            parallel_tools=2,
            replay_events=environment.replay_events,
        )
        self.registry = Registry(services)
        idempotency = Idempotency(self.store, environment.clock)  # pyright: ignore[reportArgumentType]
        self.actions = Actions(self.registry, idempotency, Tickets(environment.clock), AddressPolicy())
        self._loop = environment.loop
        self._context = copy_context()
        self._context.run(_within.set, self)

    async def start(self) -> None:
        """Start on what is stored. Raises StoreUnavailable."""
        meter = self.registry.services.meter
        meter.load_usage(TENANT, await self.store.usage(TENANT))
        await self.registry.start()

    async def request(
        self, request: Coroutine[Any, Any, T], within: float | None = None, *, canceled: bool = False
    ) -> T:
        """Have the gateway handle a request. Raises NoResponse, and the errors of the request.

        After `within` seconds the client stops waiting; the gateway continues, unless the request is to be `canceled`.
        """
        if self.killed.done():
            request.close()
            raise NoResponse
        task = self._loop.create_task(request, context=self._context)
        await asyncio.wait([task, self.killed], timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if self.killed.done() or not task.done():
            task.add_done_callback(_retrieve)  # no client receives the response
            if canceled:
                task.cancel()
            raise NoResponse
        return task.result()

    async def kill(self) -> None:
        """`kill -9`: nothing that it does from now on has an effect."""
        self.store.cut = True
        if not self.killed.done():
            self.killed.set_result(None)
        while tasks := [task for task in self._loop.tasks() if task.context.get(_within) is self]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
