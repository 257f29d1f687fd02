"""A simulation: sessions on one disk, gateways that start and die, users, and fault injection."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from cmdc_gateway.errors import GatewayError
from cmdc_gateway.protocol.sessions import CreateSessionBody
from cmdc_gateway.store.store import SessionKey, StoreUnavailable

from cmdc_testkit.simulation.judge import Violation
from cmdc_testkit.simulation.loop import SimulatedLoop, Stuck, simulate
from cmdc_testkit.simulation.people import Person, Reading, registration
from cmdc_testkit.simulation.place import CALLER, TENANT, Gone, Incarnation, Place

# Without faults and with users who decide, everything ends within this simulated time.
_PATIENCE_SECONDS = 1_800.0
# Later violations are mostly consequences of the first.
_REPORTED = 5


@dataclass(frozen=True, slots=True)
class Report:
    """The statistics of a simulation."""

    seed: int
    steps: int
    commits: int
    tool_calls: int
    prompts: int
    gateways: int
    story: str


class World(Place):
    """A simulation; `live` runs and checks it."""

    def __init__(self, seed: int, *, loop: SimulatedLoop, folder: Path) -> None:
        super().__init__(seed, loop=loop, folder=folder)
        self.keys: list[SessionKey] = []

    @property
    def kept(self) -> list[SessionKey]:
        """The sessions that were not deleted."""
        return [key for key in self.keys if key not in self.judge.deleted]

    async def live(self) -> Report:
        """Run some minutes with faults, then without faults until everything has ended."""
        await self._begin_gateway()
        for number in range(self.chance.randrange(1, 4)):
            self.keys.append(await self._new_session(f"s{number}"))
        readers = [Reading(self, key, n) for key in self.keys for n in range(2)]
        reading = [self.loop.create_task(reader.read()) for reader in readers]
        people = [Person(self, key, n) for key in self.keys for n in range(3)]
        living = [self.loop.create_task(person.live(prompts=n % 3 == 0)) for n, person in enumerate(people)]
        await self._trouble(until=self.loop.time() + self.chance.uniform(20, 120))
        self.weather.clear()
        # Gateways that lost some leases may still own other sessions.
        for gateway in self.gateways[:-1]:
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
                f"DUR-2: something never ends: {[await self.disk.session(key) for key in self.keys]}"
            ) from None
        for reader in reading:
            reader.cancel()
        for key in self.kept:
            await self.judge.at_rest(key)
        await self.judge.all_counted(TENANT, self.keys)
        for gateway in self.gateways:
            await gateway.die()
        self._hold(*self.loop.unhandled)
        return self._report()

    def _hold(self, *violations: str) -> None:
        if broken := [*self.judge.broken, *violations]:
            raise Violation("; ".join(broken[:_REPORTED]))

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

    # -- fault injection -----------------------------------------------------------------------------------------------

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
        await self.disk.renew(gateway.owner, 0)

    async def _stop(self) -> None:
        """Stop the gateway as SIGTERM does, then start another."""
        gateway = self.gateway
        registry = gateway.registry

        async def stop() -> None:
            await registry.drain(self.chance.choice((0, 0.5, 10)))
            await registry.close()

        with suppress(Gone):
            await gateway.ask(stop())
        await self._kill()

    async def _take_over(self) -> None:
        """Let another gateway take over the sessions without the knowledge of this one."""
        await self.disk.renew(self.gateway.owner, 0)
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
        """Sometimes delete a session, but never the last one."""
        if len(self.kept) == 1 or self.chance.random() < 0.7:
            return
        key = self.chance.choice(self.kept)
        while key not in self.judge.deleted:
            gateway = self.gateway
            with suppress(Gone, StoreUnavailable, GatewayError):
                await gateway.ask(gateway.registry.delete(key, CALLER.key_id))
            await asyncio.sleep(0.1)

    async def _begin_gateway(self) -> None:
        while True:
            self.gateway = Incarnation(self, len(self.gateways))
            self.gateways.append(self.gateway)
            try:
                await self.gateway.ask(self.gateway.start())
                return
            except StoreUnavailable:
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
        key = SessionKey(TENANT, name)
        await self.gateway.ask(self.gateway.actions.create(CALLER, sent, None))
        for tool, guarded in (("count", False), ("guarded", True)):
            await self.gateway.ask(self.gateway.actions.register(CALLER, key, registration(tool, guarded), None))
        return key

    async def _settle(self, people: list[Person]) -> None:
        for person in people:
            while not await person.nothing_left():  # noqa: ASYNC110
                await asyncio.sleep(0.2)


def run(seed: int) -> Report:
    """Run the simulation of a seed. Raises Violation with the seed in its message."""
    chance = random.Random(f"{seed} loop")  # noqa: S311
    with tempfile.TemporaryDirectory() as folder, _quietly():
        try:
            return simulate(chance, lambda loop: World(seed, loop=loop, folder=Path(folder)).live())
        except Stuck:
            raise Violation(f"world {seed}: deadlock") from None
        except Violation as violation:
            raise Violation(f"world {seed}: {violation}") from violation


@contextmanager
def _quietly() -> Generator[None]:
    """Silence the log, which would report nothing but injected faults."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    try:
        yield
    finally:
        structlog.configure(**before)
