"""What surrounds a simulated gateway: a store that is slow and fails, a model and tools that do what chance says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import TokenUsage, ToolCall
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest, Price
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import Durability, Lease, StoreUnavailable, Write
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.client import CallbackClient
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition
from cmdc_gateway.tools.tool import ToolResult
from pydantic import JsonValue

from cmdc_testkit.simulation.judge import Judge

_FOREVER = 10_000.0


@dataclass(slots=True)
class Weather:
    """How likely a call of the store fails, or is carried out though its caller is told that it failed."""

    failing: float = 0.0
    losing: float = 0.0
    down: bool = False

    def clear(self) -> None:
        self.failing, self.losing, self.down = 0.0, 0.0, False


class SimulatedStore:
    """One gateway's way to the disk that all of them share. Once `cut`, nothing reaches the disk any more."""

    def __init__(self, disk: MemoryStore, judge: Judge, weather: Weather, chance: random.Random) -> None:
        self.cut = False
        self._disk = disk
        self._judge = judge
        self._weather = weather
        self._chance = chance
        self._turn = asyncio.Lock()  # fair: a commit that was called first is carried out first

    @property
    def durability(self) -> Durability:
        return "process"

    async def commit(self, writes: Sequence[Write], fence: Lease | None = None) -> None:
        async with self._turn:
            await self._take_time()
            self._may_fail()
            await self._disk.commit(writes, fence)
            await self._judge.committed(writes)
            lost = self._chance.random() < self._weather.losing
        await self._take_time()
        if lost or self.cut:
            raise StoreUnavailable("the connection to the store was lost")

    def __getattr__(self, name: str) -> Any:
        method = cast("Callable[..., Awaitable[Any]]", getattr(self._disk, name))

        async def guarded(*args: Any, **options: Any) -> Any:
            await self._take_time()
            self._may_fail()
            answer = await method(*args, **options)
            await self._take_time()
            return answer

        return guarded

    async def _take_time(self) -> None:
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.choice((0, 0.001, 0.02, 0.3)))

    def _may_fail(self) -> None:
        if self.cut or self._weather.down or self._chance.random() < self._weather.failing:
            raise StoreUnavailable("the disk is gone")


class SimulatedModels:
    """A provider plugin with one model for every name."""

    def __init__(self, model: ModelProvider) -> None:
        self._model = model

    def unavailable(self) -> str | None:
        return None

    def create(self, target: ModelTarget) -> ModelProvider:  # noqa: ARG002
        return self._model

    async def close(self) -> None: ...


class SimulatedModel:
    """Thinks, talks, asks for tools, and fails in every way a model can."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:  # noqa: ARG002
        chance = self._chance
        if chance.random() < 0.06:
            raise ModelError("the model is busy", transient=True)
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(chance.choice((0, 0, 0.01, 0.4)))
            self._may_fail()
            yield chance.choice((ThoughtArrived, TextArrived))(chance.choice(("a ", "bc ", "\r\n", "é")))
        if chance.random() < 0.02:
            await asyncio.sleep(_FOREVER)
        if chance.random() < 0.03:
            return  # the answer is cut off
        for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 5))):
            yield self._wish()
        yield ModelFinished(TokenUsage(chance.randrange(1, 20), chance.randrange(20)))

    def price(self, model: str) -> Price | None:  # noqa: ARG002
        return None

    async def prepare(self) -> None: ...

    def _may_fail(self) -> None:
        match self._chance.randrange(120):
            case 0:
                raise ModelError("the model fell over", usage=TokenUsage(3, 1))
            case 1:
                raise ZeroDivisionError("a defect")
            case _:
                pass

    def _wish(self) -> ToolRequested:
        chance = self._chance
        name = chance.choice(("count", "count", "guarded", "guarded", "ask_user", "spare", "nowhere"))
        if name == "ask_user":
            options: dict[str, JsonValue] = {"options": ["left", "right"]} if chance.random() < 0.5 else {}
            return ToolRequested(name, {"question": "Which?", **options})
        if chance.random() < 0.05:
            return ToolRequested(name, {}, error="the arguments are no JSON")
        return ToolRequested(name, {"n": chance.choice((1, 2, 3, "three"))})


class SimulatedCallbacks(CallbackClient):
    """Tools that are slow, fail, and never answer. Each call is shown to the judge."""

    def __init__(self, judge: Judge, chance: random.Random) -> None:
        super().__init__(AddressPolicy())
        self._judge = judge
        self._chance = chance

    async def call(self, definition: CallbackDefinition, call: ToolCall, session_id: str) -> ToolResult:
        self._judge.called(session_id, call)
        await asyncio.sleep(self._chance.choice((0, 0.001, 0.05, 1, 7)))
        match self._chance.randrange(20):
            case 0:
                raise ZeroDivisionError("a defect")
            case 1:
                await asyncio.sleep(definition.timeout_ms / 1000)
                return ToolResult("error", "it did not answer")
            case 2:
                return ToolResult("error", "no")
            case _:
                return ToolResult("ok", f"{call.args}")
