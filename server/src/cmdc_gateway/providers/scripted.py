"""The scripted model inside the server: every event without a language model (PROTOCOL §10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal
from cmdc_gateway.providers.failures import CUT_OFF, is_transient, rejection
from cmdc_gateway.providers.provider import ModelError, ModelRequest, Price
from cmdc_gateway.providers.script import Tries, reply_for

# A long answer without delays must not keep everybody else waiting.
_BREATHER = 64


class ScriptedProvider:
    """Obeys the script in the last user message; without one, says that message back word by word."""

    def __init__(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._tries = Tries()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        reply = reply_for(request.messages)
        if (status := self._tries.failed_status(reply)) is not None:
            raise ModelError(rejection(status), transient=is_transient(status))
        # Tool requests are not known before a stream is complete: one that is cut has none.
        for number, chunk in enumerate(reply.shown if reply.cut else reply.chunks, start=1):
            if reply.delay:
                await self._sleep(reply.delay)
            elif number % _BREATHER == 0:
                await asyncio.sleep(0)
            yield chunk
        if reply.cut:
            raise ModelError(CUT_OFF, transient=not reply.shown, usage=reply.usage)
        yield ModelFinished(reply.usage)

    def price(self, model: str) -> Price | None:  # noqa: ARG002
        return None

    async def prepare(self) -> None:
        return
