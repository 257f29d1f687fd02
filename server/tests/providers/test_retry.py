"""Which failures are tried again, when, and what is counted (PROTOCOL §10, MTR-1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest
from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.provider import ModelError, ModelRequest, Price
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.testing.providers import until_failure

REQUEST = ModelRequest("some:model", ())
Step = ModelSignal | ModelError


class Playing:
    """A provider that plays one list of signals for each call, and raises the errors among them."""

    def __init__(self, *calls: Sequence[Step]) -> None:
        self._calls = list(calls)
        self.asked = 0
        self.closed = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        steps = self._calls[self.asked]
        self.asked += 1
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


class Slept(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def busy(*, after: float | None = None, usage: TokenUsage | None = None, cost: float = 0.0) -> ModelError:
    return ModelError("busy", transient=True, retry_after=after, usage=usage, cost_usd=cost)


FINISHED = ModelFinished(TokenUsage(5, 6), 0.5)


async def test_a_failure_that_passes_is_not_seen() -> None:
    slept, model = Slept(), Playing([busy()], [busy()], [TextArrived("hi"), FINISHED])

    signals = [signal async for signal in RetryingProvider(model, sleep=slept).stream(REQUEST)]

    assert signals == [TextArrived("hi"), FINISHED]
    assert (slept, model.asked, model.closed) == ([0.5, 1.0], 3, 3)


async def test_after_two_more_tries_it_fails() -> None:
    slept, model = Slept(), Playing([busy()], [busy()], [ModelError("still busy", transient=True)])

    with pytest.raises(ModelError, match="still busy"):
        _ = [signal async for signal in RetryingProvider(model, sleep=slept).stream(REQUEST)]

    assert slept == [0.5, 1.0]


async def test_a_failure_that_does_not_pass_is_told_at_once() -> None:
    slept, model = Slept(), Playing([ModelError("no such model")])

    with pytest.raises(ModelError, match="no such model"):
        _ = [signal async for signal in RetryingProvider(model, sleep=slept).stream(REQUEST)]

    assert (slept, model.asked) == ([], 1)


@pytest.mark.parametrize("shown", [TextArrived("half"), ThoughtArrived("hm"), ToolRequested("f", {})])
async def test_once_something_was_shown_nothing_is_tried_again(shown: ModelSignal) -> None:
    slept, model = Slept(), Playing([shown, busy(usage=TokenUsage(1, 1))])

    signals, failure = await until_failure(RetryingProvider(model, sleep=slept), REQUEST)

    assert (signals, slept) == ([shown], [])
    assert not failure.transient
    assert failure.usage == TokenUsage(1, 1)


async def test_a_sign_of_life_is_not_shown() -> None:
    model = Playing([TextArrived(""), ThoughtArrived(""), busy()], [TextArrived("hi"), FINISHED])

    signals = [signal async for signal in RetryingProvider(model, sleep=Slept()).stream(REQUEST)]

    assert signals == [TextArrived("hi"), FINISHED]


@pytest.mark.parametrize(("asked", "waited"), [(None, 0.5), (0.1, 0.5), (7.0, 7.0), (30.0, 30.0), (3600.0, 30.0)])
async def test_the_provider_may_ask_to_wait_up_to_a_limit(asked: float | None, waited: float) -> None:
    slept, model = Slept(), Playing([busy(after=asked)], [FINISHED])

    _ = [signal async for signal in RetryingProvider(model, sleep=slept).stream(REQUEST)]

    assert slept == [waited]


async def test_what_failed_tries_used_is_counted_once() -> None:
    model = Playing([busy(usage=TokenUsage(10, 1), cost=0.25)], [busy(usage=TokenUsage(20, 2))], [FINISHED])

    [finished] = [signal async for signal in RetryingProvider(model, sleep=Slept()).stream(REQUEST)]

    assert finished == ModelFinished(TokenUsage(35, 9), 0.75)


async def test_what_failed_tries_used_is_counted_when_all_fail() -> None:
    model = Playing(*([busy(usage=TokenUsage(1, 2), cost=0.5)] for _ in range(3)))

    with pytest.raises(ModelError) as raised:
        _ = [signal async for signal in RetryingProvider(model, sleep=Slept()).stream(REQUEST)]

    assert (raised.value.usage, raised.value.cost_usd) == (TokenUsage(3, 6), 1.5)


async def test_an_answer_without_a_finish_is_cut_off() -> None:
    with pytest.raises(ModelError, match="cut off"):
        _ = [signal async for signal in RetryingProvider(Playing([TextArrived("a")]), delays=()).stream(REQUEST)]


async def test_a_model_that_falls_silent_is_given_up() -> None:
    class Silent(Playing):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
            self.asked += 1
            try:
                yield TextArrived("one")
                await asyncio.Event().wait()
            finally:
                self.closed += 1

    model = Silent()
    with pytest.raises(ModelError, match=r"the model sent nothing for 0\.05 s") as raised:
        _ = [signal async for signal in RetryingProvider(model, stall_seconds=0.05).stream(REQUEST)]

    assert not raised.value.transient
    assert model.closed == 1


async def test_a_model_that_never_begins_is_asked_again() -> None:
    class Late(Playing):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
            self.asked += 1
            if self.asked == 1:
                await asyncio.Event().wait()
            yield FINISHED

    signals = [s async for s in RetryingProvider(Late(), sleep=Slept(), stall_seconds=0.05).stream(REQUEST)]

    assert signals == [FINISHED]


async def test_a_reader_that_leaves_closes_the_call() -> None:
    model = Playing([TextArrived("one"), TextArrived("two"), FINISHED])
    signals = RetryingProvider(model).stream(REQUEST)

    first = await anext(signals)
    await signals.aclose()

    assert (first, model.closed) == (TextArrived("one"), 1)


async def test_an_iterator_that_cannot_be_closed_will_do() -> None:
    class Plain:
        def __init__(self) -> None:
            self._left: list[ModelSignal] = [TextArrived("a"), FINISHED]

        def __aiter__(self) -> AsyncIterator[ModelSignal]:
            return self

        async def __anext__(self) -> ModelSignal:
            return self._left.pop(0)

    class Provider(Playing):
        def stream(self, request: ModelRequest) -> AsyncIterator[ModelSignal]:  # type: ignore[override]
            return Plain()

    assert [s async for s in RetryingProvider(Provider()).stream(REQUEST)] == [TextArrived("a"), FINISHED]


async def test_a_provider_that_fails_before_there_is_an_iterator_is_asked_again() -> None:
    class Plain(Playing):
        def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
            if self.asked == 0:
                self.asked = 1
                raise busy(usage=TokenUsage(1, 1))
            return super().stream(request)

    provider = Plain([], [TextArrived("hi"), ModelFinished(TokenUsage(2, 2))])

    signals = [signal async for signal in RetryingProvider(provider, sleep=Slept()).stream(REQUEST)]

    assert signals == [TextArrived("hi"), ModelFinished(TokenUsage(3, 3))]


async def test_price_and_preparation_are_the_providers() -> None:
    model = Playing()
    await RetryingProvider(model).prepare()

    assert (model.prepared, RetryingProvider(model).price("x")) == (True, Price(1.0, 2.0))
