"""Retries of model calls (MODEL-retry).

Theory of operation
-------------------

`RetryingProvider` wraps every provider. It is the only place that retries: a provider sends one request for one call, and
the retries of its HTTP client or of litellm are turned off. It is also the only place that limits how long a model may
send nothing.

A call is in one of three states:

- Pending: a request was sent, and no signal with content has been passed on. Empty chunks do not count: they prove to the
  stall timer that a long tool call is arriving, and readers do not see them.
- Streaming: a signal has been passed on, so it may be committed and sent to readers.
- Over: finished, failed, or closed.

A transient failure of a *pending* call is retried after each of `delays` in turn: 408, 429 and 5xx, a connection that is
refused or lost, a timeout, a stall, and a stream that ends without a finish. A longer Retry-After takes precedence over
the delay, up to `max_delay`. Readers see nothing of it. When the delays are used up, the last failure is raised.

A *streaming* call is never retried. Its text is already in the log, and a second response would differ from the first:
readers would see the beginning twice, and a tool call that was passed on could run twice. The error is raised, not
transient any more, and the run ends with `agent_abort`. Permanent failures (other 4xx, an invalid response) are raised
immediately in either state, because a retry would fail again.

Usage: what a failed attempt has consumed is known from its ModelError. It is added up and reported exactly once (MTR-1),
in the ModelFinished of the attempt that succeeds, or in the ModelError that is raised in the end.

Stalls: one timer per attempt checks whether the current wait for a signal has lasted `stall_seconds`, and then cancels
the wait. The time that the consumer takes between two signals does not count.

Cancellation: an attempt is closed before the next one starts, before an error is raised, and when the consumer closes the
iterator or its task is cancelled. During a delay no attempt is open. Closing the provider's generator releases its
connection. A cancellation from outside is never mistaken for a stall: `_StallTimer` compares the task's cancellation
count.

Characters: each attempt has its own `CharacterAssembler`, so half a character never joins one of another attempt (EVT-6).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.characters import CharacterAssembler
from cmdc_gateway.providers.errors import CUT_OFF
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest, Price


class RetryingProvider:
    """Adds retries and a limit on silence to a provider.

    `delays`, `max_delay` and `stall_seconds` are in seconds.
    """

    def __init__(
        self,
        provider: ModelProvider,
        *,
        delays: Sequence[float] = (0.5, 1.0),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        max_delay: float = 30.0,
        stall_seconds: float = 120.0,
    ) -> None:
        self._provider = provider
        self._delays = tuple(delays)
        self._sleep = sleep
        self._max_delay = max_delay
        self._stall_seconds = stall_seconds

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        spent = _Spent()
        for delay in (*self._delays, None):
            streaming = False
            attempt = _Attempt(self._provider, request, self._stall_seconds)
            try:
                while (signals := await attempt.receive()) is not None:
                    for signal in signals:
                        streaming = True
                        if isinstance(signal, ModelFinished):
                            yield spent.included_in(signal)
                            return
                        yield signal
                # Providers raise this themselves. A defective one must not leave the run open.
                raise ModelError(CUT_OFF, transient=True)
            except ModelError as error:
                spent.add(error)
                if streaming or delay is None or not error.transient:
                    raise spent.failure(error, transient=error.transient and not streaming) from error
                pause = max(delay, min(error.retry_after or 0.0, self._max_delay))
            finally:
                await attempt.close()
            await self._sleep(pause)

    def price(self, model: str) -> Price | None:
        return self._provider.price(model)

    async def prepare(self) -> None:
        await self._provider.prepare()


@dataclass(slots=True)
class _Spent:
    """What the failed attempts of a call have consumed."""

    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0

    def add(self, error: ModelError) -> None:
        self.usage += error.usage or TokenUsage()
        self.cost_usd += error.cost_usd

    def included_in(self, finished: ModelFinished) -> ModelFinished:
        return replace(finished, usage=self.usage + finished.usage, cost_usd=self.cost_usd + finished.cost_usd)

    def failure(self, error: ModelError, *, transient: bool) -> ModelError:
        return ModelError(
            error.reason,
            transient=transient,
            retry_after=error.retry_after,
            usage=self.usage,
            cost_usd=self.cost_usd,
        )


class _Attempt:
    """One request to the provider. Its signals contain complete characters; a stall is a ModelError."""

    def __init__(self, provider: ModelProvider, request: ModelRequest, stall_seconds: float) -> None:
        self._provider = provider
        self._request = request
        self._chunks: AsyncIterator[ModelSignal] | None = None
        self._characters = CharacterAssembler()
        self._stall_seconds = stall_seconds
        self._timer = _StallTimer(stall_seconds)
        self._ended = False

    async def receive(self) -> tuple[ModelSignal, ...] | None:
        """The next signals, possibly none yet; None at the end.

        Not a generator, because one more generator per chunk is measurable.
        """
        if self._ended:
            return None
        if self._chunks is None:
            self._chunks = self._provider.stream(self._request)
        self._timer.start_wait()
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._ended = True
            return self._characters.flush()
        except asyncio.CancelledError:
            if not self._timer.take_back():
                raise
            raise ModelError(f"the model sent nothing for {self._stall_seconds:g} s", transient=True) from None
        finally:
            self._timer.end_wait()
        return self._characters.feed(chunk)

    async def close(self) -> None:
        """Cancel the request."""
        self._timer.close()
        # A provider may return a plain iterator; a generator releases its connection when it is closed.
        chunks = self._chunks
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


class _StallTimer:
    """Cancels the current task if it waits for a chunk too long.

    Like `asyncio.timeout`, but with one timer for all waits of an attempt: every chunk is a wait, and nearly all are
    short.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._since = 0.0
        self._task = asyncio.current_task()
        self._waiting: asyncio.Task[object] | None = None
        self._cancellations_before = 0
        self._expired = False
        self._timer = self._loop.call_later(seconds, self._check)

    def start_wait(self) -> None:
        self._since, self._waiting = self._loop.time(), self._task

    def end_wait(self) -> None:
        self._waiting = None

    def take_back(self) -> bool:
        """Revoke the cancellation of a stall. False if the task was cancelled from outside."""
        return self._expired and self._waiting is not None and self._waiting.uncancel() <= self._cancellations_before

    def close(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        waited = self._loop.time() - self._since if self._waiting is not None else 0.0
        if self._waiting is not None and waited >= self._seconds:
            self._cancellations_before, self._expired = self._waiting.cancelling(), True
            self._waiting.cancel()
        else:
            self._timer = self._loop.call_later(self._seconds - waited, self._check)
