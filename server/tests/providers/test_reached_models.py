"""How models behave that are outside this server, and how they fail, whichever way they are reached (PROTOCOL §10)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol, cast

import pytest
from cmdc_gateway.kernel.signals import ModelFinished, TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.direct import DirectProvider
from cmdc_gateway.providers.endpoints import endpoint
from cmdc_gateway.providers.litellm import LitellmProvider
from cmdc_gateway.providers.pool import ConnectionPool
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.testing.providers import WEATHER, answer, request, said, script
from cmdc_testkit.models import HUGE, Fault, ScriptedModelServer, call_chunk, text_chunk

# litellm asks pydantic for what will be gone one day.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm")

KEY = "k3y-of-the-0perator-8f2c1d"


class Making(Protocol):
    """Makes the provider for a model."""

    def __call__(self, model: str, api_base: str, *, timeout: float = 60.0) -> ModelProvider: ...


@pytest.fixture(params=["direct", "litellm"])
async def making(request: pytest.FixtureRequest) -> AsyncIterator[Making]:
    """Both ways of reaching an endpoint that speaks OpenAI's chat format."""
    pool = ConnectionPool()

    def make(model: str, api_base: str, *, timeout: float = 60.0) -> ModelProvider:
        target = ModelTarget(f"openai/{model}", api_base, KEY)
        if request.param == "litellm":
            return LitellmProvider(target, timeout=timeout)
        place = endpoint(target)
        assert place is not None
        return DirectProvider(target, place, pool, timeout=timeout)

    yield make
    await pool.close()


@pytest.fixture
def provider(making: Making, server: ScriptedModelServer) -> ModelProvider:
    return making("some-model", server.base_url)


async def failure(provider: ModelProvider, asked: ModelRequest | None = None) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await answer(provider, asked or request("Hello"))
    return raised.value


# -- what is asked ------------------------------------------------------------------------------------------------------


async def test_the_request_says_what_was_asked_for(provider: ModelProvider, server: ScriptedModelServer) -> None:
    options: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "stop": ["\n\n"],
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "reasoning_effort": "low",
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "user": "u1",
        "verbosity": "low",
    }

    await answer(provider, request("Hello", tools=[WEATHER], max_tokens=99, options=options))

    [received] = server.requests
    assert {name: received.body.get(name) for name in options} == options
    assert received.body["messages"] == [{"role": "user", "content": "Hello"}]
    assert [tool["function"]["name"] for tool in received.body["tools"]] == ["get_weather"]
    assert (received.body["max_tokens"], received.body["stream"]) == (99, True)
    assert received.body["stream_options"] == {"include_usage": True}
    assert received.body["model"] == "some-model"
    assert received.headers["authorization"] == f"Bearer {KEY}"


async def test_without_tools_nothing_is_said_about_their_choice(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    await answer(provider, request("Hello", options={"tool_choice": "none", "parallel_tool_calls": True}))

    assert {"tools", "tool_choice", "parallel_tool_calls"}.isdisjoint(server.requests[0].body)


# -- what comes back ----------------------------------------------------------------------------------------------------


async def test_fragments_of_tool_calls_are_put_together(provider: ModelProvider, server: ScriptedModelServer) -> None:
    server.raw_chunks = [
        call_chunk({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
        call_chunk({"index": 0, "function": {"arguments": '{"x"'}}),
        call_chunk({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}),
        call_chunk({"index": 0, "function": {"arguments": ": 1}"}}, finish="tool_calls"),
    ]

    *signals, finished = await answer(provider, request("Hello", tools=[WEATHER]))

    assert signals[0] == ToolRequested("f", {"x": 1})
    assert isinstance(signals[1], ToolRequested)
    assert (signals[1].name, signals[1].args, bool(signals[1].error)) == ("g", {}, True)
    assert isinstance(finished, ModelFinished)


async def test_while_a_tool_call_is_written_there_are_signs_of_life(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    server.raw_chunks = [
        call_chunk({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}),
        call_chunk({"index": 0, "function": {"arguments": "}"}}, finish="tool_calls"),
    ]

    signals = [signal async for signal in provider.stream(request("Hello", tools=[WEATHER]))]

    assert signals[:3] == [TextArrived(""), TextArrived(""), ToolRequested("f", {})]


async def test_halves_of_a_character_come_as_they_were_sent_and_are_joined_above(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    asked = request(script({"thinking": ["\ud83d", "\ude00"], "text": ["a\ud83d", "\ude00b", "\udc00"]}))

    signals = [signal async for signal in RetryingProvider(provider).stream(asked)]

    assert signals[:-1] == [ThoughtArrived("😀"), TextArrived("a"), TextArrived("😀b"), TextArrived("\ufffd")]


async def test_without_usage_it_is_estimated(provider: ModelProvider, server: ScriptedModelServer) -> None:
    server.usage = False

    *_, finished = await answer(provider, request("12345678"))

    assert finished == ModelFinished(TokenUsage(prompt_tokens=2, completion_tokens=5))


async def test_an_answer_that_was_too_long_or_filtered_is_still_an_answer(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    for reason in ("length", "content_filter"):
        server.raw_chunks = [text_chunk("so far"), text_chunk("", finish=reason)]

        assert said(await answer(provider, request("Hello"))) == "so far"


async def test_a_known_model_has_a_price_and_costs_it(making: Making, server: ScriptedModelServer) -> None:
    known = making("gpt-4o", server.base_url)
    asked = request(script({"text": ["x"], "usage": {"promptTokens": 1000, "completionTokens": 100}}))

    *_, finished = await answer(known, asked)

    price = known.price("any:name")
    assert price is not None
    assert isinstance(finished, ModelFinished)
    assert finished.cost_usd == pytest.approx(1000 * price.prompt + 100 * price.completion)


async def test_a_line_of_ten_mebibytes_is_text_like_any_other(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    server.fault = "huge_line"

    async with asyncio.timeout(20):
        signals = await answer(provider, request("Hello"))

    assert said(signals) == "x" * HUGE


# -- how it fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "transient", "reason"),
    [
        ("drop", False, "the connection to the model's provider was lost"),
        ("hang_up", True, "the connection to the model's provider was lost"),
        ("garbage", False, "the model's provider sent something that is not an answer"),
        ("not_a_stream", True, "the model's answer was cut off"),
        ("error_chunk", False, "the model's provider failed: the engine died"),
    ],
)
async def test_a_provider_that_misbehaves_is_a_failure_with_a_reason(
    provider: ModelProvider, server: ScriptedModelServer, fault: Fault, transient: bool, reason: str
) -> None:
    server.fault = fault

    failed = await failure(provider)

    assert (failed.reason, failed.transient) == (reason, transient)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["silence", "stall"])
async def test_a_provider_that_sends_nothing_runs_into_the_timeout(
    making: Making, server: ScriptedModelServer, fault: Fault
) -> None:
    server.fault = fault
    provider = making("m", server.base_url, timeout=0.2)
    await provider.prepare()

    failed = await failure(provider)

    assert (failed.reason, failed.transient) == ("the model's provider did not answer in time", True)
    assert len(server.requests) == 1


async def test_a_refused_connection_may_pass(making: Making) -> None:
    async with ScriptedModelServer() as gone:
        pass

    failed = await failure(making("m", gone.base_url))

    assert (failed.reason, failed.transient) == ("the model's provider could not be reached", True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 429, 500, 503])
async def test_one_call_is_one_request_and_no_refusal_tells_a_secret(
    provider: ModelProvider,
    server: ScriptedModelServer,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    words = (
        f"quota: key {KEY} or sk-proj-abcdef123456, Bearer {KEY}, at {server.base_url}, see https://example.com/help"
    )
    server.refuse_with = (status, words)

    failed = await failure(provider)

    assert len(server.requests) == 1
    assert failed.transient == (status in (408, 429, 500, 503))
    assert str(status) in failed.reason
    assert ("quota" in failed.reason) == (status != 401)
    for secret in (KEY, "abcdef123456", "127.0.0.1", "example.com"):
        assert secret not in failed.reason
    assert KEY not in caplog.text
    assert "127.0.0.1" not in caplog.text
    assert KEY not in "".join(capfd.readouterr())
    assert KEY not in repr(provider)
    assert KEY not in repr(failed)


@pytest.mark.parametrize(("status", "words"), [(400, "rate limit of 429 tokens"), (400, "prompt with 429 in it")])
async def test_the_status_counts_and_not_the_words(
    provider: ModelProvider, server: ScriptedModelServer, status: int, words: str
) -> None:
    server.refuse_with = (status, words)

    failed = await failure(provider)

    assert not failed.transient
    assert f"status {status}" in failed.reason


async def test_a_long_complaint_is_shortened(provider: ModelProvider, server: ScriptedModelServer) -> None:
    server.refuse_with = (400, "much too long " * 100_000)

    failed = await failure(provider)

    assert len(failed.reason) < 600


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("soon", None), (None, None)])
async def test_how_long_to_wait_is_read(
    provider: ModelProvider, server: ScriptedModelServer, header: str | None, seconds: float | None
) -> None:
    server.refuse_with, server.retry_after = (429, "slow down"), header

    assert (await failure(provider)).retry_after == seconds


async def test_only_retrying_retries(provider: ModelProvider, server: ScriptedModelServer) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    asked = request(script({"fail": {"status": 500, "attempts": 2}, "text": ["at last"]}))
    signals = [signal async for signal in RetryingProvider(provider, sleep=sleep).stream(asked)]

    assert said(signals) == "at last"
    assert (len(server.requests), waits) == (3, [0.5, 1.0])


# -- leaving it ---------------------------------------------------------------------------------------------------------


async def test_closing_the_answer_closes_its_connection(provider: ModelProvider, server: ScriptedModelServer) -> None:
    asked = request(script({"text": ["word "] * 1000, "delayMs": 20}))
    signals = cast("AsyncGenerator[object]", provider.stream(asked))

    await anext(signals)
    await signals.aclose()

    async with asyncio.timeout(15):
        await server.requests[0].disconnected.wait()


@pytest.mark.parametrize("fault", ["silence", "stall"])
async def test_cancelling_a_call_that_waits_closes_its_connection(
    provider: ModelProvider, server: ScriptedModelServer, fault: Fault
) -> None:
    server.fault = fault
    task = asyncio.create_task(answer(provider, request("Hello")))
    async with asyncio.timeout(20):
        received = await server.received()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with asyncio.timeout(15):
        await received.disconnected.wait()


async def test_silence_closes_the_connection_and_is_asked_again(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    server.fault = "stall"
    patient = RetryingProvider(provider, delays=(0.0,), stall_seconds=0.3)

    with pytest.raises(ModelError, match=r"sent nothing for 0\.3 s"):
        _ = [signal async for signal in patient.stream(request("Hello"))]

    async with asyncio.timeout(15):
        await asyncio.gather(*(received.disconnected.wait() for received in server.requests))
    assert len(server.requests) == 2
