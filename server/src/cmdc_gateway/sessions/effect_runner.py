"""Runs the effects of a session: at most one model call at a time, and tool calls beside it."""

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
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tenancy.meter import BudgetAccount, Meter, Reservation
from cmdc_gateway.tools.tool import Tool

Post = Callable[[Turn, Signal], Awaitable[None]]
TryPost = Callable[[Turn, Signal], bool]

# Reserved for the output of a model call without max_tokens.
_DEFAULT_OUTPUT_TOKENS = 4_096

_log = structlog.get_logger(__name__)


class EffectRunner:
    """Starts effects as tasks and posts what comes of them as signals."""

    def __init__(self, post: Post, try_post: TryPost, meter: Meter) -> None:
        """`post` waits while the mailbox is full; `try_post` returns False instead."""
        self._post = post
        self._try_post = try_post
        self._meter = meter
        self._tasks: set[asyncio.Task[None]] = set()
        self._best_effort: set[asyncio.Task[None]] = set()
        self._reservation: Reservation | None = None
        self._request: ModelRequest | None = None
        self._received_bytes = 0

    @property
    def usage_so_far(self) -> TokenUsage:
        """The estimated usage of the model call in flight, whose provider has not reported any yet."""
        if self._request is None or self._reservation is None:
            return TokenUsage()
        return estimated_usage(self._request, self._received_bytes)

    def call_model(
        self,
        turn: Turn,
        provider: ModelProvider,
        request: ModelRequest,
        principal: Principal,
        account: BudgetAccount | None,
    ) -> None:
        """Start a model call, once the budgets of `principal` and the session's own `account` admit it."""
        self._request, self._received_bytes = request, 0
        self._start(self._call_model(turn, provider, request, principal, account))

    def run_tool(self, turn: Turn, call: ToolCall, tool: Tool | None) -> None:
        """Start a tool call; without a tool it fails, because the tool was removed."""
        self._start(self._run_tool(turn, call, tool))

    def spawn_best_effort(self, commit: Coroutine[Any, Any, None]) -> None:
        """Start a commit whose result nobody awaits and which may be lost."""

        async def commit_if_possible() -> None:
            with suppress(StoreUnavailable):
                await commit

        task = asyncio.get_running_loop().create_task(commit_if_possible())
        self._best_effort.add(task)
        task.add_done_callback(self._best_effort.discard)

    def stop(self) -> None:
        """Cancel the model call and all tool calls."""
        for task in self._tasks:
            task.cancel()

    def model_call_ended(self) -> None:
        """Release the reservation of the model call, whose usage has been counted."""
        self._request = None
        if self._reservation is not None:
            self._meter.release(self._reservation)
            self._reservation = None

    async def wait(self) -> None:
        """Return once all tasks have ended."""
        while pending := self._tasks | self._best_effort:
            await asyncio.wait(pending)

    def _start(self, effect: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(effect)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call_model(
        self,
        turn: Turn,
        provider: ModelProvider,
        request: ModelRequest,
        principal: Principal,
        account: BudgetAccount | None,
    ) -> None:
        try:
            bounded = self._meter.bounds(principal, account)
            estimate = _upper_estimate(request, provider) if bounded else Spend()
            self._reservation = await self._meter.reserve(principal, account, estimate)
            await self._stream(turn, provider, request)
        except BudgetExceeded as error:
            await self._post(turn, BudgetRefused(error.message))
        except ModelError as error:
            usage = error.usage or (
                estimated_usage(request, self._received_bytes) if self._received_bytes else TokenUsage()
            )
            await self._post(turn, ModelFailed(error.reason, usage, error.cost_usd))
        except Exception:  # noqa: BLE001 - a defect ends the run, not the session
            _log.exception("model_call_failed", request_id=turn.request_id)
            await self._post(turn, ModelFailed("the model call failed inside the server; see the server's log"))

    async def _stream(self, turn: Turn, provider: ModelProvider, request: ModelRequest) -> None:
        stream = cast("AsyncGenerator[Signal]", provider.stream(request))
        async with aclosing(stream):
            async for signal in stream:
                if isinstance(signal, CHUNKS):
                    self._received_bytes += _utf8_length(signal.text)
                    if self._try_post(turn, signal):
                        continue
                await self._post(turn, signal)
                if isinstance(signal, ModelFinished):
                    return
        raise ModelError("the model's answer was cut off")

    async def _run_tool(self, turn: Turn, call: ToolCall, tool: Tool | None) -> None:
        if tool is None:
            await self._post(turn, ToolFinished(call.id, "error", f"the tool {call.name!r} was removed"))
            return
        try:
            result = await tool.run(call)
        except Exception:  # noqa: BLE001 - a defect fails the call, not the run
            _log.exception("tool_failed", request_id=turn.request_id, call_id=call.id, tool=call.name)
            await self._post(turn, ToolFinished(call.id, "error", "the tool failed inside the server"))
        else:
            await self._post(turn, ToolFinished(call.id, result.status, result.result))


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _upper_estimate(request: ModelRequest, provider: ModelProvider) -> Spend:
    """An upper estimate of what the call may cost."""
    prompt = estimated_usage(request, 0).prompt_tokens
    output = request.max_tokens or _DEFAULT_OUTPUT_TOKENS
    price = provider.price(request.model)
    return Spend(prompt + output, prompt * price.prompt + output * price.completion if price else 0.0)
