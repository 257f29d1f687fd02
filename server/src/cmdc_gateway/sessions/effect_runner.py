"""What a session has under way: at most one model call, and some tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, cast

import structlog

from cmdc_gateway.errors import BudgetExceeded
from cmdc_gateway.kernel.budget import Spend
from cmdc_gateway.kernel.signals import (
    CHUNKS,
    BudgetRefused,
    ModelFailed,
    ModelFinished,
    Signal,
    ToolFinished,
)
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.history import TokenUsage, ToolCall
from cmdc_gateway.providers.chat import estimated_usage
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest
from cmdc_gateway.store.store import StoreUnavailable
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tenancy.meter import BudgetAccount, Meter, Reservation
from cmdc_gateway.tools.tool import Tool

Post = Callable[[Turn, Signal], Awaitable[None]]
TryPost = Callable[[Turn, Signal], bool]

# Held for an answer whose length nobody has bounded.
_PRESUMED_ANSWER_TOKENS = 4_096

_log = structlog.get_logger(__name__)


class EffectRunner:
    """Starts effects and tells the session what comes of them."""

    def __init__(self, post: Post, try_post: TryPost, meter: Meter) -> None:
        """`tell_now` tells without waiting, or tells nothing and returns False where there is no room."""
        self._post = post
        self._try_post = try_post
        self._meter = meter
        self._tasks: set[asyncio.Task[None]] = set()
        self._best_effort: set[asyncio.Task[None]] = set()
        self._reservation: Reservation | None = None
        self._asked: ModelRequest | None = None
        self._received_bytes = 0

    @property
    def used_so_far(self) -> TokenUsage:
        """What the model call that is under way has used, by estimate: it has not said so yet."""
        if self._asked is None or self._reservation is None:
            return TokenUsage()
        return estimated_usage(self._asked, self._received_bytes)

    def ask(
        self,
        turn: Turn,
        provider: ModelProvider,
        request: ModelRequest,
        caller: Principal,
        account: BudgetAccount | None,
    ) -> None:
        self._asked, self._received_bytes = request, 0
        self._start(self._ask(turn, provider, request, caller, account))

    def run(self, turn: Turn, call: ToolCall, tool: Tool | None) -> None:
        self._start(self._run(turn, call, tool))

    def spawn_best_effort(self, commit: Coroutine[Any, Any, None]) -> None:
        """Write something down that nobody waits for, and that may be lost."""

        async def quietly() -> None:
            with suppress(StoreUnavailable):
                await commit

        task = asyncio.get_running_loop().create_task(quietly())
        self._best_effort.add(task)
        task.add_done_callback(self._best_effort.discard)

    def stop(self) -> None:
        """End everything that is under way; what it would still tell is nobody's business."""
        for task in self._tasks:
            task.cancel()

    def model_call_ended(self) -> None:
        """The model call is over and counted: hold nothing for it any longer."""
        self._asked = None
        if self._reservation is not None:
            self._meter.release(self._reservation)
            self._reservation = None

    async def wait(self) -> None:
        """Return once nothing is under way any longer."""
        while pending := self._tasks | self._best_effort:
            await asyncio.wait(pending)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(
        self,
        turn: Turn,
        provider: ModelProvider,
        request: ModelRequest,
        caller: Principal,
        account: BudgetAccount | None,
    ) -> None:
        try:
            most = _most(request, provider) if self._meter.bounds(caller, account) else Spend()
            self._reservation = await self._meter.reserve(caller, account, most)
            stream = cast("AsyncGenerator[Signal]", provider.stream(request))
            async with aclosing(stream):
                async for signal in stream:
                    if isinstance(signal, CHUNKS):
                        self._received_bytes += _bytes(signal.text)
                        if self._try_post(turn, signal):
                            continue
                    await self._post(turn, signal)
                    if isinstance(signal, ModelFinished):
                        return
            raise ModelError("the model's answer was cut off")
        except BudgetExceeded as refusal:
            await self._post(turn, BudgetRefused(refusal.message))
        except ModelError as failure:
            usage = failure.usage or (
                estimated_usage(request, self._received_bytes) if self._received_bytes else TokenUsage()
            )
            await self._post(turn, ModelFailed(failure.reason, usage, failure.cost_usd))
        except Exception:  # noqa: BLE001 - a defect ends the run, and is told
            _log.exception("model_call_failed", request_id=turn.request_id)
            await self._post(turn, ModelFailed("the model call failed inside the server; its log says why"))

    async def _run(self, turn: Turn, call: ToolCall, tool: Tool | None) -> None:
        if tool is None:
            await self._post(turn, ToolFinished(call.id, "error", f"the tool {call.name!r} was removed"))
            return
        try:
            result = await tool.run(call)
        except Exception:  # noqa: BLE001 - a defect fails the call, and is told
            _log.exception("tool_failed", request_id=turn.request_id, call_id=call.id, tool=call.name)
            await self._post(turn, ToolFinished(call.id, "error", "the tool failed inside the server"))
        else:
            await self._post(turn, ToolFinished(call.id, result.status, result.result))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _most(request: ModelRequest, provider: ModelProvider) -> Spend:
    """What a call may come to."""
    prompt = estimated_usage(request, 0).prompt_tokens
    answer = request.max_tokens or _PRESUMED_ANSWER_TOKENS
    price = provider.price(request.model)
    return Spend(prompt + answer, prompt * price.prompt + answer * price.completion if price else 0.0)
