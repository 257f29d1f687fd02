"""The contract test of a `ModelProvider`.

Subclass `ProviderContract` in a test module, and define a fixture `provider`: a provider without retries, whose model
follows scripts as the scripted model does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, cast
from uuid import uuid4

import pytest

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.history import Message, TokenUsage, ToolCall, assistant, system, tool_result, user
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest

WEATHER = ToolSpec(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def script(*replies: dict[str, Any], nonce: str | None = None) -> str:
    """A user message with a script. Without `nonce`, the nonce is random."""
    text = json.dumps({"nonce": uuid4().hex if nonce is None else nonce, "replies": replies}, indent=1)
    return f"Follow the script.\n\n```script\n{text}\n```\n"


def request(*messages: Message | str, tools: Sequence[ToolSpec] = (), **more: Any) -> ModelRequest:
    """A model call. A string is a user message."""
    history = tuple(user(message) if isinstance(message, str) else message for message in messages)
    return ModelRequest("scripted:contract", history, tuple(tools), **more)


async def collect(provider: ModelProvider, model_request: ModelRequest) -> list[ModelSignal]:
    """All signals of a call, except empty chunks."""
    signals = [signal async for signal in provider.stream(model_request)]
    return [signal for signal in signals if not (isinstance(signal, TextArrived | ThoughtArrived) and not signal.text)]


async def collect_until_error(
    provider: ModelProvider, model_request: ModelRequest
) -> tuple[list[ModelSignal], ModelError]:
    """The signals of a call that fails, and its error."""
    signals: list[ModelSignal] = []
    try:
        async for signal in provider.stream(model_request):
            signals.append(signal)  # noqa: PERF401 - kept although the call fails
    except ModelError as error:
        return signals, error
    raise AssertionError("the call did not fail")


def text_in(signals: Sequence[ModelSignal]) -> str:
    """The text of the response."""
    return "".join(signal.text for signal in signals if isinstance(signal, TextArrived))


class ProviderContract:
    """The tests. A subclass defines the fixture `provider`."""

    async def test_without_a_script_the_message_is_repeated_word_by_word(self, provider: ModelProvider) -> None:
        signals = await collect(provider, request("  What a\n\nfine   day \u2028 ☀️ "))

        assert text_in(signals) == "You said:   What a\n\nfine   day \u2028 ☀️ "
        assert len(signals) > 5
        assert signals[-1] == ModelFinished(TokenUsage(prompt_tokens=5, completion_tokens=len(signals) - 1))

    async def test_a_script_is_followed_in_order(self, provider: ModelProvider) -> None:
        model_request = script(
            {
                "thinking": ["Let me ", "see."],
                "text": ["Hel", "lo"],
                "toolCalls": [{"name": "get_weather", "args": {"city": "Oslo"}}],
                "usage": {"promptTokens": 7, "completionTokens": 3},
            }
        )

        signals = await collect(provider, request(model_request, tools=[WEATHER]))

        assert signals == [
            ThoughtArrived("Let me "),
            ThoughtArrived("see."),
            TextArrived("Hel"),
            TextArrived("lo"),
            ToolRequested("get_weather", {"city": "Oslo"}),
            ModelFinished(TokenUsage(prompt_tokens=7, completion_tokens=3)),
        ]

    async def test_any_text_arrives_unchanged(self, provider: ModelProvider) -> None:
        text = [
            " ",
            "\r",
            "\n",
            "a\u0301",
            "\u2028\u2029\u0085",
            "👩‍👩‍👧",
            "<s>",
            "</s>",
            "data: [DONE]\n\n",
            "\ufeff",
            "\t",
        ]

        signals = await collect(provider, request(script({"text": text})))

        assert text_in(signals) == "".join(text)

    async def test_a_chunk_may_repeat_any_number_of_times(self, provider: ModelProvider) -> None:
        signals = await collect(provider, request(script({"text": ["again "] * 300})))

        assert text_in(signals) == "again " * 300

    async def test_parallel_calls_keep_their_order_and_their_arguments(self, provider: ModelProvider) -> None:
        calls = [{"name": f"tool_{n % 7}", "args": {"n": n, "deep": {"list": [n, None, "ü\n"]}}} for n in range(1000)]

        *requests, finished = await collect(provider, request(script({"toolCalls": calls}), tools=[WEATHER]))

        assert requests == [ToolRequested(str(call["name"]), cast("dict[str, Any]", call["args"])) for call in calls]
        assert isinstance(finished, ModelFinished)

    async def test_a_call_to_an_unknown_tool_is_passed_on(self, provider: ModelProvider) -> None:
        signals = await collect(provider, request(script({"toolCalls": [{"name": "no_such_tool"}]})))

        assert signals[0] == ToolRequested("no_such_tool", {})

    async def test_each_step_gets_the_next_reply_and_then_done(self, provider: ModelProvider) -> None:
        model_request = user(
            script({"toolCalls": [{"name": "get_weather", "args": {"city": "Oslo"}}]}, {"text": ["Rain."]})
        )
        call = ToolCall("call_1", "get_weather", {"city": "Oslo"})
        so_far = (
            system("Be brief."),
            user("Hello"),
            assistant("You said: Hello"),
            model_request,
            assistant("", (call,)),
        )
        so_far += (tool_result(call, "It rains.", is_error=False),)

        second = await collect(provider, request(*so_far, tools=[WEATHER]))
        third = await collect(provider, request(*so_far, assistant("Rain."), tools=[WEATHER]))

        assert (text_in(second), text_in(third)) == ("Rain.", "done")

    async def test_a_transient_failure_is_marked_as_such_until_the_call_succeeds(self, provider: ModelProvider) -> None:
        model_request = request(script({"fail": {"status": 503, "attempts": 2}, "text": ["at last"]}))

        errors = [await _error(provider, model_request) for _ in range(2)]

        assert [(error.transient, error.usage or TokenUsage()) for error in errors] == [(True, TokenUsage())] * 2
        assert text_in(await collect(provider, model_request)) == "at last"

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
    async def test_these_statuses_are_transient(self, provider: ModelProvider, status: int) -> None:
        error = await _error(provider, request(script({"fail": {"status": status, "attempts": 0}})))

        assert error.transient
        assert str(status) in error.reason

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
    async def test_these_statuses_are_permanent(self, provider: ModelProvider, status: int) -> None:
        error = await _error(provider, request(script({"fail": {"status": status}})))

        assert not error.transient
        assert str(status) in error.reason

    async def test_a_cut_after_text_is_permanent_and_reports_usage(self, provider: ModelProvider) -> None:
        signals, error = await collect_until_error(provider, request(script({"text": ["so ", "far"], "cut": True})))

        assert text_in(signals) == "so far"
        assert not error.transient
        assert error.usage is not None
        assert error.usage.total_tokens > 0

    async def test_a_cut_before_any_text_is_transient(self, provider: ModelProvider) -> None:
        model_request = script({"toolCalls": [{"name": "get_weather", "args": {"city": "Oslo"}}], "cut": True})

        error = await _error(provider, request(model_request, tools=[WEATHER]))

        assert error.transient

    async def test_an_invalid_script_fails_with_a_reason(self, provider: ModelProvider) -> None:
        error = await _error(provider, request('```script\n{"replies": [{"text": "not a list"}]}\n```'))

        assert not error.transient
        assert "replies.0.text" in error.reason

    async def test_closing_the_iterator_stops_the_call(self, provider: ModelProvider) -> None:
        model_request = request(script({"text": ["word "] * 1000, "delayMs": 50}))

        async with asyncio.timeout(10):
            stream = cast("AsyncGenerator[ModelSignal]", provider.stream(model_request))
            async with aclosing(stream) as signals:
                first = await anext(signals)

        assert first == TextArrived("word ")
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def test_a_task_that_calls_a_model_can_be_cancelled(self, provider: ModelProvider) -> None:
        started = asyncio.Event()

        async def call() -> None:
            async for _ in provider.stream(request(script({"text": ["word "] * 1000, "delayMs": 50}))):
                started.set()

        async with asyncio.timeout(10):
            task = asyncio.create_task(call())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_concurrent_calls_do_not_mix(self, provider: ModelProvider) -> None:
        async def call(n: int) -> str:
            return text_in(await collect(provider, request(script({"text": [f"{n} "] * 20, "delayMs": 1}))))

        texts = await asyncio.gather(*(call(n) for n in range(20)))

        assert texts == [f"{n} " * 20 for n in range(20)]

    async def test_preparing_is_idempotent_and_the_scripted_model_has_no_price(self, provider: ModelProvider) -> None:
        await provider.prepare()
        await provider.prepare()

        assert provider.price("scripted:contract") is None


async def _error(provider: ModelProvider, model_request: ModelRequest) -> ModelError:
    _, error = await collect_until_error(provider, model_request)
    return error
