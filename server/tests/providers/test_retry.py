"""Which failures are retried, when, and what is counted (MODEL-retry, MTR-1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest
from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.provider import ModelError, ModelRequest, Price
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.testing.providers import collect_until_error

REQUEST = ModelRequest("some:model", ())
Step = ModelSignal | ModelError


class PlaybackProvider:
    """A provider that plays back one list of signals per call, and raises the errors among them."""

    def __init__(self, *steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        self.calls = 0
        self.closed = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        steps = self._steps[self.calls]
        self.calls += 1
        try:
            for step in steps:
                if isinstance(step, ModelError):
                    raise step
                yield step
        finally:
            self.closed += 1

    def price(self, model: str) -> Price | None:
        return Price(1.0, 2.0)

    async def prepare(self) -> None:
        self.prepared = True


class RecordingSleep(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def unavailable(*, after: float | None = None, usage: TokenUsage | None = None, cost: float = 0.0) -> ModelError:
    return ModelError("unavailable", transient=True, retry_after=after, usage=usage, cost_usd=cost)


FINISHED = ModelFinished(TokenUsage(5, 6), 0.5)


async def test_a_transient_failure_is_not_visible() -> None:
    delays, model = RecordingSleep(), PlaybackProvider([unavailable()], [unavailable()], [TextArrived("hi"), FINISHED])

    signals = [signal async for signal in RetryingProvider(model, sleep=delays).stream(REQUEST)]

    assert signals == [TextArrived("hi"), FINISHED]
    assert (delays, model.calls, model.closed) == ([0.5, 1.0], 3, 3)


async def test_a_call_fails_after_two_retries() -> None:
    delays, model = (
        RecordingSleep(),
        PlaybackProvider([unavailable()], [unavailable()], [ModelError("still unavailable", transient=True)]),
    )

    with pytest.raises(ModelError, match="still unavailable"):
        _ = [signal async for signal in RetryingProvider(model, sleep=delays).stream(REQUEST)]

    assert delays == [0.5, 1.0]


async def test_a_permanent_failure_is_raised_without_a_retry() -> None:
    delays, model = RecordingSleep(), PlaybackProvider([ModelError("no such model")])

    with pytest.raises(ModelError, match="no such model"):
        _ = [signal async for signal in RetryingProvider(model, sleep=delays).stream(REQUEST)]

    assert (delays, model.calls) == ([], 1)


@pytest.mark.parametrize("signal", [TextArrived("half"), ThoughtArrived("hm"), ToolRequested("f", {})])
async def test_a_call_is_not_retried_once_a_signal_was_passed_on(signal: ModelSignal) -> None:
    delays, model = RecordingSleep(), PlaybackProvider([signal, unavailable(usage=TokenUsage(1, 1))])

    signals, error = await collect_until_error(RetryingProvider(model, sleep=delays), REQUEST)

    assert (signals, delays) == ([signal], [])
    assert not error.transient
    assert error.usage == TokenUsage(1, 1)


async def test_an_empty_chunk_does_not_prevent_a_retry() -> None:
    model = PlaybackProvider([TextArrived(""), ThoughtArrived(""), unavailable()], [TextArrived("hi"), FINISHED])

    signals = [signal async for signal in RetryingProvider(model, sleep=RecordingSleep()).stream(REQUEST)]

    assert signals == [TextArrived("hi"), FINISHED]


@pytest.mark.parametrize(("retry_after", "delay"), [(None, 0.5), (0.1, 0.5), (7.0, 7.0), (30.0, 30.0), (3600.0, 30.0)])
async def test_retry_after_is_respected_up_to_a_limit(retry_after: float | None, delay: float) -> None:
    delays, model = RecordingSleep(), PlaybackProvider([unavailable(after=retry_after)], [FINISHED])

    _ = [signal async for signal in RetryingProvider(model, sleep=delays).stream(REQUEST)]

    assert delays == [delay]


async def test_the_usage_of_failed_attempts_is_counted_once() -> None:
    model = PlaybackProvider(
        [unavailable(usage=TokenUsage(10, 1), cost=0.25)], [unavailable(usage=TokenUsage(20, 2))], [FINISHED]
    )

    [finished] = [signal async for signal in RetryingProvider(model, sleep=RecordingSleep()).stream(REQUEST)]

    assert finished == ModelFinished(TokenUsage(35, 9), 0.75)


async def test_the_usage_of_failed_attempts_is_counted_if_all_fail() -> None:
    model = PlaybackProvider(*([unavailable(usage=TokenUsage(1, 2), cost=0.5)] for _ in range(3)))

    with pytest.raises(ModelError) as raised:
        _ = [signal async for signal in RetryingProvider(model, sleep=RecordingSleep()).stream(REQUEST)]

    assert (raised.value.usage, raised.value.cost_usd) == (TokenUsage(3, 6), 1.5)


async def test_a_stream_without_a_finish_is_cut_off() -> None:
    with pytest.raises(ModelError, match="cut off"):
        _ = [
            signal async for signal in RetryingProvider(PlaybackProvider([TextArrived("a")]), delays=()).stream(REQUEST)
        ]


async def test_a_stall_after_text_ends_the_call() -> None:
    class Stalling(PlaybackProvider):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
            self.calls += 1
            try:
                yield TextArrived("one")
                await asyncio.Event().wait()
            finally:
                self.closed += 1

    model = Stalling()
    with pytest.raises(ModelError, match=r"the model sent nothing for 0\.05 s") as raised:
        _ = [signal async for signal in RetryingProvider(model, stall_seconds=0.05).stream(REQUEST)]

    assert not raised.value.transient
    assert model.closed == 1


async def test_a_stall_before_text_is_retried() -> None:
    class Late(PlaybackProvider):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
            self.calls += 1
            if self.calls == 1:
                await asyncio.Event().wait()
            yield FINISHED

    signals = [s async for s in RetryingProvider(Late(), sleep=RecordingSleep(), stall_seconds=0.05).stream(REQUEST)]

    assert signals == [FINISHED]


async def test_closing_the_iterator_closes_the_call() -> None:
    model = PlaybackProvider([TextArrived("one"), TextArrived("two"), FINISHED])
    signals = RetryingProvider(model).stream(REQUEST)

    first = await anext(signals)
    await signals.aclose()

    assert (first, model.closed) == (TextArrived("one"), 1)


async def test_a_provider_may_return_a_plain_iterator() -> None:
    class Plain:
        def __init__(self) -> None:
            self._remaining: list[ModelSignal] = [TextArrived("a"), FINISHED]

        def __aiter__(self) -> AsyncIterator[ModelSignal]:
            return self

        async def __anext__(self) -> ModelSignal:
            return self._remaining.pop(0)

    class Provider(PlaybackProvider):
        def stream(self, request: ModelRequest) -> AsyncIterator[ModelSignal]:  # type: ignore[override]
            return Plain()

    assert [s async for s in RetryingProvider(Provider()).stream(REQUEST)] == [TextArrived("a"), FINISHED]


async def test_a_provider_that_raises_instead_of_returning_an_iterator_is_retried() -> None:
    class Plain(PlaybackProvider):
        def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
            if self.calls == 0:
                self.calls = 1
                raise unavailable(usage=TokenUsage(1, 1))
            return super().stream(request)

    provider = Plain([], [TextArrived("hi"), ModelFinished(TokenUsage(2, 2))])

    signals = [signal async for signal in RetryingProvider(provider, sleep=RecordingSleep()).stream(REQUEST)]

    assert signals == [TextArrived("hi"), ModelFinished(TokenUsage(3, 3))]


async def test_price_and_preparation_are_delegated() -> None:
    model = PlaybackProvider()
    await RetryingProvider(model).prepare()

    assert (model.prepared, RetryingProvider(model).price("x")) == (True, Price(1.0, 2.0))
