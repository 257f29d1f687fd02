"""A model that is asked again when a failure may pass (PROTOCOL §10, "Model failures, any provider").

The only place that retries, and the only one that watches for silence: the providers themselves send one request for
one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.failures import CUT_OFF
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest, Price
from cmdc_gateway.providers.text import WholeCharacters


class RetryingProvider:
    """Another provider, asked again after `delays` (seconds) when it fails for now and nothing has been shown.

    A provider that asks to wait longer is obeyed up to `longest_wait`. No chunk for `stall_seconds` is a failure. What
    failed tries have used is part of what is finally reported, so that it is counted exactly once (MTR-1). Text comes
    in whole characters (EVT-6).
    """

    def __init__(
        self,
        provider: ModelProvider,
        *,
        delays: Sequence[float] = (0.5, 1.0),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        longest_wait: float = 30.0,
        stall_seconds: float = 120.0,
    ) -> None:
        self._provider = provider
        self._delays = tuple(delays)
        self._sleep = sleep
        self._longest_wait = longest_wait
        self._stall_seconds = stall_seconds

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        usage, cost_usd = TokenUsage(), 0.0
        for delay in (*self._delays, None):
            shown = False
            call = _Call(self._provider, request, self._stall_seconds)
            try:
                while (signals := await call.more()) is not None:
                    for signal in signals:
                        shown = True
                        if isinstance(signal, ModelFinished):
                            yield replace(signal, usage=usage + signal.usage, cost_usd=cost_usd + signal.cost_usd)
                            return
                        yield signal
                # A provider is to fail rather than to end so; nobody waits for ever if one does.
                raise ModelError(CUT_OFF, transient=True)
            except ModelError as error:
                usage += error.usage or TokenUsage()
                cost_usd += error.cost_usd
                if shown or delay is None or not error.transient:
                    raise ModelError(
                        error.reason,
                        transient=error.transient and not shown,
                        retry_after=error.retry_after,
                        usage=usage,
                        cost_usd=cost_usd,
                    ) from error
                wait = max(delay, min(error.retry_after or 0.0, self._longest_wait))
            finally:
                await call.close()
            await self._sleep(wait)

    def price(self, model: str) -> Price | None:
        return self._provider.price(model)

    async def prepare(self) -> None:
        await self._provider.prepare()


class _Call:
    """The answer to one request, in whole characters; a failure, where nothing comes of it for too long."""

    def __init__(self, provider: ModelProvider, request: ModelRequest, stall_seconds: float) -> None:
        self._provider = provider
        self._request = request
        self._chunks: AsyncIterator[ModelSignal] | None = None
        self._characters = WholeCharacters()
        self._stall_seconds = stall_seconds
        self._silence = _Silence(stall_seconds)
        self._over = False

    async def more(self) -> tuple[ModelSignal, ...] | None:
        """What comes next, which may be nothing yet; None after the end. Not a generator: there is one already."""
        if self._over:
            return None
        if self._chunks is None:
            self._chunks = self._provider.stream(self._request)
        self._silence.begins()
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._over = True
            return self._characters.rest()
        except asyncio.CancelledError:
            if not self._silence.was_too_long():
                raise
            raise ModelError(f"the model sent nothing for {self._stall_seconds:g} s", transient=True) from None
        finally:
            self._silence.ends()
        return self._characters.take(chunk)

    async def close(self) -> None:
        """Stop asking."""
        self._silence.close()
        # What a provider gives back need only be an iterator; closing a generator frees its connection.
        chunks = self._chunks
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


class _Silence:
    """Cancels the task that waits for a chunk once it has waited too long.

    As `asyncio.timeout`, but with one timer for all the waits: there is one for every piece of text, and nearly all of
    them are short. All waits are of the task that made it.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._since = 0.0
        self._task = asyncio.current_task()
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._too_long = False
        self._timer = self._loop.call_later(seconds, self._look)

    def begins(self) -> None:
        """A wait begins."""
        self._since, self._waiting = self._loop.time(), self._task

    def ends(self) -> None:
        """It is over."""
        self._waiting = None

    def was_too_long(self) -> bool:
        """Whether it was this, and nobody else, that cancelled the task; takes its cancellation back."""
        return self._too_long and self._waiting is not None and self._waiting.uncancel() <= self._cancelling

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        waited = self._loop.time() - self._since if self._waiting is not None else 0.0
        if self._waiting is not None and waited >= self._seconds:
            self._cancelling, self._too_long = self._waiting.cancelling(), True
            self._waiting.cancel()
        else:
            self._timer = self._loop.call_later(self._seconds - waited, self._look)
