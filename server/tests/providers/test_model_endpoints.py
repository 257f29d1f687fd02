"""Model endpoints and their failures, called directly and through litellm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol, cast

import pytest
from cmdc_gateway.kernel.signals import ModelFinished, TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.chat_completions.endpoints import find_endpoint
from cmdc_gateway.providers.chat_completions.pool import ConnectionPool
from cmdc_gateway.providers.chat_completions.provider import ChatCompletionsProvider
from cmdc_gateway.providers.litellm.provider import LitellmProvider
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.testing.providers import WEATHER, collect, request, script, text_in
from cmdc_testkit.models import HUGE, Fault, ScriptedModelServer, call_chunk, text_chunk

# litellm uses deprecated functions of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm")

KEY = "k3y-of-the-0perator-8f2c1d"


class CreateProvider(Protocol):
    """Creates the provider of a model."""

    def __call__(self, model: str, api_base: str, *, timeout: float = 60.0) -> ModelProvider: ...


@pytest.fixture(params=["chat_completions", "litellm"])
async def create_provider(request: pytest.FixtureRequest) -> AsyncIterator[CreateProvider]:
    """Both implementations that call a Chat Completions endpoint."""
    pool = ConnectionPool()

    def create(model: str, api_base: str, *, timeout: float = 60.0) -> ModelProvider:
        target = ModelTarget(f"openai/{model}", api_base, KEY)
        if request.param == "litellm":
            return LitellmProvider(target, timeout=timeout)
        endpoint = find_endpoint(target)
        assert endpoint is not None
        return ChatCompletionsProvider(target, endpoint, pool, timeout=timeout)

    yield create
    await pool.close()


@pytest.fixture
def provider(create_provider: CreateProvider, server: ScriptedModelServer) -> ModelProvider:
    return create_provider("some-model", server.base_url)


async def failure(provider: ModelProvider, model_request: ModelRequest | None = None) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await collect(provider, model_request or request("Hello"))
    return raised.value


# -- requests ------------------------------------------------------------------------------------------------------


async def test_the_request_contains_all_settings(provider: ModelProvider, server: ScriptedModelServer) -> None:
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

    await collect(provider, request("Hello", tools=[WEATHER], max_tokens=99, options=options))

    [received] = server.requests
    assert {name: received.body.get(name) for name in options} == options
    assert received.body["messages"] == [{"role": "user", "content": "Hello"}]
    assert [tool["function"]["name"] for tool in received.body["tools"]] == ["get_weather"]
    assert (received.body["max_tokens"], received.body["stream"]) == (99, True)
    assert received.body["stream_options"] == {"include_usage": True}
    assert received.body["model"] == "some-model"
    assert received.headers["authorization"] == f"Bearer {KEY}"


async def test_a_request_without_tools_has_no_options_for_tools(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    await collect(provider, request("Hello", options={"tool_choice": "none", "parallel_tool_calls": True}))

    assert {"tools", "tool_choice", "parallel_tool_calls"}.isdisjoint(server.requests[0].body)


# -- responses ----------------------------------------------------------------------------------------------------


async def test_fragments_of_tool_calls_are_assembled(provider: ModelProvider, server: ScriptedModelServer) -> None:
    server.raw_chunks = [
        call_chunk({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
        call_chunk({"index": 0, "function": {"arguments": '{"x"'}}),
        call_chunk({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}),
        call_chunk({"index": 0, "function": {"arguments": ": 1}"}}, finish="tool_calls"),
    ]

    *signals, finished = await collect(provider, request("Hello", tools=[WEATHER]))

    assert signals[0] == ToolRequested("f", {"x": 1})
    assert isinstance(signals[1], ToolRequested)
    assert (signals[1].name, signals[1].args, bool(signals[1].error)) == ("g", {}, True)
    assert isinstance(finished, ModelFinished)


async def test_fragments_of_a_tool_call_produce_empty_chunks(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    server.raw_chunks = [
        call_chunk({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}),
        call_chunk({"index": 0, "function": {"arguments": "}"}}, finish="tool_calls"),
    ]

    signals = [signal async for signal in provider.stream(request("Hello", tools=[WEATHER]))]

    assert signals[:3] == [TextArrived(""), TextArrived(""), ToolRequested("f", {})]


async def test_halves_of_a_character_are_joined_by_the_retrying_provider(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    model_request = request(script({"thinking": ["\ud83d", "\ude00"], "text": ["a\ud83d", "\ude00b", "\udc00"]}))

    signals = [signal async for signal in RetryingProvider(provider).stream(model_request)]

    assert signals[:-1] == [ThoughtArrived("😀"), TextArrived("a"), TextArrived("😀b"), TextArrived("\ufffd")]


async def test_missing_usage_is_estimated(provider: ModelProvider, server: ScriptedModelServer) -> None:
    server.usage = False

    *_, finished = await collect(provider, request("12345678"))

    assert finished == ModelFinished(TokenUsage(prompt_tokens=2, completion_tokens=5))


async def test_a_truncated_or_filtered_response_is_complete(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    for reason in ("length", "content_filter"):
        server.raw_chunks = [text_chunk("so far"), text_chunk("", finish=reason)]

        assert text_in(await collect(provider, request("Hello"))) == "so far"


async def test_the_cost_follows_from_the_price_and_the_usage(
    create_provider: CreateProvider, server: ScriptedModelServer
) -> None:
    known = create_provider("gpt-4o", server.base_url)
    model_request = request(script({"text": ["x"], "usage": {"promptTokens": 1000, "completionTokens": 100}}))

    *_, finished = await collect(known, model_request)

    price = known.price("any:name")
    assert price is not None
    assert isinstance(finished, ModelFinished)
    assert finished.cost_usd == pytest.approx(1000 * price.prompt + 100 * price.completion)


async def test_a_line_may_have_ten_mebibytes(provider: ModelProvider, server: ScriptedModelServer) -> None:
    server.fault = "huge_line"

    async with asyncio.timeout(20):
        signals = await collect(provider, request("Hello"))

    assert text_in(signals) == "x" * HUGE


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "transient", "reason"),
    [
        ("drop", False, "the connection to the model's provider was lost"),
        ("hang_up", True, "the connection to the model's provider was lost"),
        ("garbage", False, "the model's provider sent an invalid response"),
        ("not_a_stream", True, "the model's response was cut off"),
        ("error_chunk", False, "the model's provider failed: the engine died"),
    ],
)
async def test_a_faulty_response_fails_with_a_reason(
    provider: ModelProvider, server: ScriptedModelServer, fault: Fault, transient: bool, reason: str
) -> None:
    server.fault = fault

    error = await failure(provider)

    assert (error.reason, error.transient) == (reason, transient)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["silence", "stall"])
async def test_a_silent_provider_causes_a_timeout(
    create_provider: CreateProvider, server: ScriptedModelServer, fault: Fault
) -> None:
    server.fault = fault
    provider = create_provider("m", server.base_url, timeout=0.2)
    await provider.prepare()

    error = await failure(provider)

    assert (error.reason, error.transient) == ("the model's provider did not respond in time", True)
    assert len(server.requests) == 1


async def test_a_refused_connection_is_transient(create_provider: CreateProvider) -> None:
    async with ScriptedModelServer() as stopped:
        pass

    error = await failure(create_provider("m", stopped.base_url))

    assert (error.reason, error.transient) == ("the model's provider cannot be reached", True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 429, 500, 503])
async def test_an_error_status_is_not_retried_and_its_message_contains_no_secret(
    provider: ModelProvider,
    server: ScriptedModelServer,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    message = (
        f"quota: key {KEY} or sk-proj-abcdef123456, Bearer {KEY}, at {server.base_url}, see https://example.com/help"
    )
    server.refuse_with = (status, message)

    error = await failure(provider)

    assert len(server.requests) == 1
    assert error.transient == (status in (408, 429, 500, 503))
    assert str(status) in error.reason
    assert ("quota" in error.reason) == (status != 401)
    for secret in (KEY, "abcdef123456", "127.0.0.1", "example.com"):
        assert secret not in error.reason
    assert KEY not in caplog.text
    assert "127.0.0.1" not in caplog.text
    assert KEY not in "".join(capfd.readouterr())
    assert KEY not in repr(provider)
    assert KEY not in repr(error)


@pytest.mark.parametrize(("status", "message"), [(400, "rate limit of 429 tokens"), (400, "prompt with 429 in it")])
async def test_the_status_decides_and_not_the_message(
    provider: ModelProvider, server: ScriptedModelServer, status: int, message: str
) -> None:
    server.refuse_with = (status, message)

    error = await failure(provider)

    assert not error.transient
    assert f"status {status}" in error.reason


async def test_a_long_message_is_shortened(provider: ModelProvider, server: ScriptedModelServer) -> None:
    server.refuse_with = (400, "much too long " * 100_000)

    error = await failure(provider)

    assert len(error.reason) < 600


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("soon", None), (None, None)])
async def test_retry_after_is_parsed(
    provider: ModelProvider, server: ScriptedModelServer, header: str | None, seconds: float | None
) -> None:
    server.refuse_with, server.retry_after = (429, "slow down"), header

    assert (await failure(provider)).retry_after == seconds


async def test_only_the_retrying_provider_retries(provider: ModelProvider, server: ScriptedModelServer) -> None:
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    model_request = request(script({"fail": {"status": 500, "attempts": 2}, "text": ["at last"]}))
    signals = [signal async for signal in RetryingProvider(provider, sleep=sleep).stream(model_request)]

    assert text_in(signals) == "at last"
    assert (len(server.requests), delays) == (3, [0.5, 1.0])


# -- cancellation ---------------------------------------------------------------------------------------------------------


async def test_closing_the_iterator_closes_the_connection(provider: ModelProvider, server: ScriptedModelServer) -> None:
    model_request = request(script({"text": ["word "] * 1000, "delayMs": 20}))
    signals = cast("AsyncGenerator[object]", provider.stream(model_request))

    await anext(signals)
    await signals.aclose()

    async with asyncio.timeout(15):
        await server.requests[0].disconnected.wait()


@pytest.mark.parametrize("fault", ["silence", "stall"])
async def test_cancelling_a_waiting_call_closes_the_connection(
    provider: ModelProvider, server: ScriptedModelServer, fault: Fault
) -> None:
    server.fault = fault
    task = asyncio.create_task(collect(provider, request("Hello")))
    async with asyncio.timeout(20):
        received = await server.received()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with asyncio.timeout(15):
        await received.disconnected.wait()


async def test_a_stall_closes_the_connection_and_is_retried(
    provider: ModelProvider, server: ScriptedModelServer
) -> None:
    server.fault = "stall"
    retrying = RetryingProvider(provider, delays=(0.0,), stall_seconds=0.3)

    with pytest.raises(ModelError, match=r"sent nothing for 0\.3 s"):
        _ = [signal async for signal in retrying.stream(request("Hello"))]

    async with asyncio.timeout(15):
        await asyncio.gather(*(received.disconnected.wait() for received in server.requests))
    assert len(server.requests) == 2
