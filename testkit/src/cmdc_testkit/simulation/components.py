"""What a simulated gateway uses: a slow store that fails, and a model and tools that behave at random."""

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
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import Durability, Lease
from cmdc_gateway.store.writes import Write
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.client import CallbackClient
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition
from cmdc_gateway.tools.tool import ToolResult
from pydantic import JsonValue

from cmdc_testkit.simulation.auditor import Auditor

_FOREVER = 10_000.0


@dataclass(slots=True)
class StoreFaults:
    """The probabilities that a call of the store fails, and that a commit succeeds although it reports a failure."""

    failing: float = 0.0
    losing: float = 0.0
    down: bool = False

    def clear(self) -> None:
        self.failing, self.losing, self.down = 0.0, 0.0, False


class SimulatedStore:
    """One gateway's connection to the disk that all gateways share. Once `cut`, nothing reaches the disk."""

    def __init__(self, disk: MemoryStore, auditor: Auditor, faults: StoreFaults, rng: random.Random) -> None:
        self.cut = False
        self._disk = disk
        self._auditor = auditor
        self._faults = faults
        self._random = rng
        self._turn = asyncio.Lock()  # asyncio locks are fair, so commits are carried out in order

    @property
    def durability(self) -> Durability:
        return "process"

    async def commit(self, writes: Sequence[Write], lease: Lease | None = None) -> None:
        async with self._turn:
            await self._delay()
            self._may_fail()
            await self._disk.commit(writes, lease)
            await self._auditor.committed(writes)
            lost = self._random.random() < self._faults.losing
        await self._delay()
        if lost or self.cut:
            raise StoreUnavailable("the connection to the store was lost")

    def __getattr__(self, name: str) -> Any:
        method = cast("Callable[..., Awaitable[Any]]", getattr(self._disk, name))

        async def guarded(*args: Any, **options: Any) -> Any:
            await self._delay()
            self._may_fail()
            result = await method(*args, **options)
            await self._delay()
            return result

        return guarded

    async def _delay(self) -> None:
        if self._random.random() < 0.5:
            await asyncio.sleep(self._random.choice((0, 0.001, 0.02, 0.3)))

    def _may_fail(self) -> None:
        if self.cut or self._faults.down or self._random.random() < self._faults.failing:
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
    """Streams thoughts and text, calls tools, and fails in every way that a model can."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:  # noqa: ARG002
        rng = self._random
        if rng.random() < 0.06:
            raise ModelError("the model is busy", transient=True)
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(rng.choice((0, 0, 0.01, 0.4)))
            self._may_fail()
            yield rng.choice((ThoughtArrived, TextArrived))(rng.choice(("a ", "bc ", "\r\n", "é")))
        if rng.random() < 0.02:
            await asyncio.sleep(_FOREVER)
        if rng.random() < 0.03:
            return  # the stream is cut off
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5))):
            yield self._tool_call()
        yield ModelFinished(TokenUsage(rng.randrange(1, 20), rng.randrange(20)))

    def price(self, model: str) -> Price | None:  # noqa: ARG002
        return None

    async def prepare(self) -> None: ...

    def _may_fail(self) -> None:
        match self._random.randrange(120):
            case 0:
                raise ModelError("the model failed", usage=TokenUsage(3, 1))
            case 1:
                raise ZeroDivisionError("a defect")
            case _:
                pass

    def _tool_call(self) -> ToolRequested:
        rng = self._random
        name = rng.choice(("count", "count", "guarded", "guarded", "ask_user", "spare", "unknown"))
        if name == "ask_user":
            options: dict[str, JsonValue] = {"options": ["left", "right"]} if rng.random() < 0.5 else {}
            return ToolRequested(name, {"question": "Which?", **options})
        if rng.random() < 0.05:
            return ToolRequested(name, {}, error="the arguments are not JSON")
        return ToolRequested(name, {"n": rng.choice((1, 2, 3, "three"))})


class SimulatedCallbacks(CallbackClient):
    """Tools that are slow, fail, or never respond. The auditor sees each call."""

    def __init__(self, auditor: Auditor, rng: random.Random) -> None:
        super().__init__(AddressPolicy())
        self._auditor = auditor
        self._random = rng

    async def call(self, definition: CallbackDefinition, call: ToolCall, session_id: str) -> ToolResult:
        self._auditor.called(session_id, call)
        await asyncio.sleep(self._random.choice((0, 0.001, 0.05, 1, 7)))
        match self._random.randrange(20):
            case 0:
                raise ZeroDivisionError("a defect")
            case 1:
                await asyncio.sleep(definition.timeout_ms / 1000)
                return ToolResult("error", "the tool timed out")
            case 2:
                return ToolResult("error", "no")
            case _:
                return ToolResult("ok", f"{call.args}")
