"""A simulated world: sessions on one disk, gateways that are killed and restarted, clients, and faults."""

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
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.rows import SessionKey

from cmdc_testkit.simulation.auditor import Violation
from cmdc_testkit.simulation.environment import PRINCIPAL, TENANT, Environment, NoResponse, SimulatedGateway
from cmdc_testkit.simulation.loop import SimulatedLoop, Stuck, simulate
from cmdc_testkit.simulation.users import SimulatedReader, SimulatedUser, registration

# Without faults, and with users who decide, every run ends within this simulated time.
_SETTLE_SECONDS = 1_800.0
# One violation causes others.
_MAX_REPORTED = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in a world."""

    seed: int
    steps: int
    commits: int
    tool_calls: int
    prompts: int
    gateways: int
    digest: str


class World(Environment):
    """`run` simulates a world and audits it."""

    def __init__(self, seed: int, *, loop: SimulatedLoop, folder: Path) -> None:
        super().__init__(seed, loop=loop, folder=folder)
        self.keys: list[SessionKey] = []

    @property
    def kept(self) -> list[SessionKey]:
        """The sessions that were not deleted."""
        return [key for key in self.keys if key not in self.auditor.deleted]

    async def run(self) -> Report:
        """Inject faults for some minutes, then let everything come to rest."""
        await self._start_gateway()
        for number in range(self.random.randrange(1, 4)):
            self.keys.append(await self._create_session(f"s{number}"))
        readers = [SimulatedReader(self, key, n) for key in self.keys for n in range(2)]
        reading = [self.loop.create_task(reader.read()) for reader in readers]
        users = [SimulatedUser(self, key, n) for key in self.keys for n in range(3)]
        running = [self.loop.create_task(user.run(prompts=n % 3 == 0)) for n, user in enumerate(users)]
        await self._inject_faults(until=self.loop.time() + self.random.uniform(20, 120))
        self.store_faults.clear()
        # A gateway whose sessions were taken over may still run those that no other gateway has acquired.
        for gateway in self.gateways[:-1]:
            await self._kill_gateway(gateway)
        for user in users:
            user.stopped = True
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await asyncio.gather(*running)
                await self._settle(users)
                await asyncio.gather(*(reader.caught_up() for reader in readers))
        except TimeoutError:
            self._require()
            raise Violation(f"DUR-2: a run did not end: {[await self.disk.load(key) for key in self.keys]}") from None
        for reader in reading:
            reader.cancel()
        for key in self.kept:
            await self.auditor.finished(key)
        await self.auditor.finished_all(TENANT, self.keys)
        for gateway in self.gateways:
            await gateway.kill()
        self._require(*self.loop.unhandled)
        return self._report()

    def _require(self, *errors: str) -> None:
        if violations := [*self.auditor.violations, *errors]:
            raise Violation("; ".join(violations[:_MAX_REPORTED]))

    def _report(self) -> Report:
        return Report(
            self.seed,
            self.loop.steps,
            self.auditor.commits,
            self.auditor.calls,
            sum(len(promises.accepted) for promises in self.auditor.promises.values()),
            len(self.gateways),
            self.auditor.digest,
        )

    # -- faults --------------------------------------------------------------------------------------------------------

    async def _inject_faults(self, until: float) -> None:
        faults: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._kill,
            self._kill,
            self._stop,
            self._take_over_sessions,
            self._break_store,
            self._break_store,
            self._delete,
        ]
        while self.loop.time() < until:
            await asyncio.sleep(self.random.choice((0.01, 0.3, 2, 8, 20)))
            await self.random.choice(faults)()
            self._require()

    async def _kill(self) -> None:
        await self._kill_gateway(self.gateway)
        await asyncio.sleep(self.random.choice((0, 0.1, 3)))
        await self._start_gateway()

    async def _kill_gateway(self, gateway: SimulatedGateway) -> None:
        await gateway.kill()
        await self.disk.renew(gateway.owner, 0)

    async def _stop(self) -> None:
        """SIGTERM."""
        gateway = self.gateway
        registry = gateway.registry

        async def stop() -> None:
            await registry.drain(self.random.choice((0, 0.5, 10)))
            await registry.close()

        with suppress(NoResponse):
            await gateway.request(stop())
        await self._kill()

    async def _take_over_sessions(self) -> None:
        """Another gateway acquires the sessions without this one's knowledge."""
        await self.disk.renew(self.gateway.owner, 0)
        await self._start_gateway()

    async def _break_store(self) -> None:
        store = self.store_faults
        store.failing = self.random.choice((0, 0.02, 0.2))
        store.losing = self.random.choice((0, 0.02, 0.2))
        store.down = self.random.random() < 0.3
        await asyncio.sleep(self.random.choice((0.01, 0.3, 2)))
        store.down = False
        if self.random.random() < 0.7:
            store.clear()

    async def _delete(self) -> None:
        """Sometimes delete a session, unless it is the last one."""
        if len(self.kept) == 1 or self.random.random() < 0.7:
            return
        key = self.random.choice(self.kept)
        while key not in self.auditor.deleted:
            gateway = self.gateway
            with suppress(NoResponse, StoreUnavailable, GatewayError):
                await gateway.request(gateway.registry.delete(key, PRINCIPAL.key_id))
            await asyncio.sleep(0.1)

    async def _start_gateway(self) -> None:
        while True:
            self.gateway = SimulatedGateway(self, len(self.gateways))
            self.gateways.append(self.gateway)
            try:
                await self.gateway.request(self.gateway.start())
                return
            except StoreUnavailable:
                await self.gateway.kill()
                await asyncio.sleep(0.5)

    async def _create_session(self, name: str) -> SessionKey:
        rng = self.random
        settings: dict[str, Any] = {
            "model": "simulated:x",
            "sessionId": name,
            "tools": ["ask_user"],
            "maxTurns": rng.choice((2, 6, 100)),
        }
        if rng.random() < 0.5:
            settings["approval"] = {"tools": [], "timeoutMs": rng.choice((0, 50, 900, 5_000))}
        if rng.random() < 0.2:
            settings["budget"] = {"maxTokens": rng.randrange(100, 1_000)}
        sent = CreateSessionBody.model_validate(settings)
        key = SessionKey(TENANT, name)
        await self.gateway.request(self.gateway.actions.create(PRINCIPAL, sent, None))
        for tool, guarded in (("count", False), ("guarded", True)):
            await self.gateway.request(
                self.gateway.actions.register(PRINCIPAL, key, registration(tool, requires_approval=guarded), None)
            )
        return key

    async def _settle(self, users: list[SimulatedUser]) -> None:
        for user in users:
            while not await user.settle():  # noqa: ASYNC110
                await asyncio.sleep(0.2)


def run(seed: int) -> Report:
    """Simulate one world. Raises Violation, whose message names the seed."""
    rng = random.Random(f"{seed} loop")  # noqa: S311
    with tempfile.TemporaryDirectory() as folder, _without_logging():
        try:
            return simulate(rng, lambda loop: World(seed, loop=loop, folder=Path(folder)).run())
        except Stuck:
            raise Violation(f"world {seed}: nothing can happen any more") from None
        except Violation as violation:
            raise Violation(f"world {seed}: {violation}") from violation


@contextmanager
def _without_logging() -> Generator[None]:
    """Drop log messages, which would all be about injected faults."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    try:
        yield
    finally:
        structlog.configure(**before)
