"""The scripted model as a provider of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal
from cmdc_gateway.providers.errors import CUT_OFF, is_transient, status_message
from cmdc_gateway.providers.plugin import ProviderContext
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest, Price
from cmdc_gateway.providers.scripted.script import AttemptCounter, reply_for
from cmdc_gateway.providers.target import ModelTarget

# How many chunks without a delay are sent before other tasks of the event loop run.
_CHUNKS_PER_TURN = 64


class ScriptedModels:
    """The plugin `scripted`. All its models share one count of failed attempts."""

    def __init__(self, context: ProviderContext) -> None:  # noqa: ARG002 - as every plugin
        self._provider = ScriptedProvider()

    def unavailable(self) -> str | None:
        return None

    def create(self, target: ModelTarget) -> ModelProvider:  # noqa: ARG002
        return self._provider

    async def close(self) -> None:
        return


class ScriptedProvider:
    """Follows the script in the last user message; without a script, repeats that message word by word."""

    def __init__(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._attempts = AttemptCounter()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        reply = reply_for(request.messages)
        if (status := self._attempts.failure_status(reply)) is not None:
            raise ModelError(status_message(status), transient=is_transient(status))
        # Tool calls are only known once a stream is complete, so one that is cut has none.
        for number, chunk in enumerate(reply.visible_chunks if reply.cut else reply.chunks, start=1):
            if reply.delay:
                await self._sleep(reply.delay)
            elif number % _CHUNKS_PER_TURN == 0:
                await asyncio.sleep(0)
            yield chunk
        if reply.cut:
            raise ModelError(CUT_OFF, transient=not reply.visible_chunks, usage=reply.usage)
        yield ModelFinished(reply.usage)

    def price(self, model: str) -> Price | None:  # noqa: ARG002
        return None

    async def prepare(self) -> None:
        return
