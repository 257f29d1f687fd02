"""What every `ModelProvider` promises, as tests to inherit.

Subclass `ProviderContract` in a test module and give it a fixture `provider`: a provider whose model obeys the scripts
of PROTOCOL §10, without anything round it that retries.
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
    """A user message that holds a script. Without a nonce it gets one of its own."""
    text = json.dumps({"nonce": uuid4().hex if nonce is None else nonce, "replies": replies}, indent=1)
    return f"Do as you are told.\n\n```script\n{text}\n```\n"


def request(*messages: Message | str, tools: Sequence[ToolSpec] = (), **more: Any) -> ModelRequest:
    """A model call; a string is a user's message."""
    told = tuple(user(message) if isinstance(message, str) else message for message in messages)
    return ModelRequest("scripted:contract", told, tuple(tools), **more)


async def answer(provider: ModelProvider, asked: ModelRequest) -> list[ModelSignal]:
    """All of an answer, but for signs of life."""
    signals = [signal async for signal in provider.stream(asked)]
    return [signal for signal in signals if not (isinstance(signal, TextArrived | ThoughtArrived) and not signal.text)]


async def until_failure(provider: ModelProvider, asked: ModelRequest) -> tuple[list[ModelSignal], ModelError]:
    """What comes of an answer before it fails, and how it fails."""
    signals: list[ModelSignal] = []
    try:
        async for signal in provider.stream(asked):
            signals.append(signal)  # noqa: PERF401 - it is wanted although the answer fails
    except ModelError as error:
        return signals, error
    raise AssertionError("the answer did not fail")


def said(signals: Sequence[ModelSignal]) -> str:
    """The answer text."""
    return "".join(signal.text for signal in signals if isinstance(signal, TextArrived))


class ProviderContract:
    """The tests. A subclass has a fixture `provider`."""

    async def test_without_a_script_it_says_the_message_back_word_by_word(self, provider: ModelProvider) -> None:
        signals = await answer(provider, request("  What a\n\nfine   day \u2028 ☀️ "))

        assert said(signals) == "You said:   What a\n\nfine   day \u2028 ☀️ "
        assert len(signals) > 5
        assert signals[-1] == ModelFinished(TokenUsage(prompt_tokens=5, completion_tokens=len(signals) - 1))

    async def test_a_script_is_obeyed_in_order(self, provider: ModelProvider) -> None:
        asked = script(
            {
                "thinking": ["Let me ", "see."],
                "text": ["Hel", "lo"],
                "toolCalls": [{"name": "get_weather", "args": {"city": "Oslo"}}],
                "usage": {"promptTokens": 7, "completionTokens": 3},
            }
        )

        signals = await answer(provider, request(asked, tools=[WEATHER]))

        assert signals == [
            ThoughtArrived("Let me "),
            ThoughtArrived("see."),
            TextArrived("Hel"),
            TextArrived("lo"),
            ToolRequested("get_weather", {"city": "Oslo"}),
            ModelFinished(TokenUsage(prompt_tokens=7, completion_tokens=3)),
        ]

    async def test_any_text_arrives_as_the_model_gave_it(self, provider: ModelProvider) -> None:
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

        signals = await answer(provider, request(script({"text": text})))

        assert said(signals) == "".join(text)

    async def test_the_same_chunk_may_come_any_number_of_times(self, provider: ModelProvider) -> None:
        signals = await answer(provider, request(script({"text": ["again "] * 300})))

        assert said(signals) == "again " * 300

    async def test_parallel_calls_keep_their_order_and_their_arguments(self, provider: ModelProvider) -> None:
        calls = [{"name": f"tool_{n % 7}", "args": {"n": n, "deep": {"list": [n, None, "ü\n"]}}} for n in range(1000)]

        *requests, finished = await answer(provider, request(script({"toolCalls": calls}), tools=[WEATHER]))

        assert requests == [ToolRequested(str(call["name"]), cast("dict[str, Any]", call["args"])) for call in calls]
        assert isinstance(finished, ModelFinished)

    async def test_a_call_to_a_tool_that_was_not_offered_is_passed_on(self, provider: ModelProvider) -> None:
        signals = await answer(provider, request(script({"toolCalls": [{"name": "no_such_tool"}]})))

        assert signals[0] == ToolRequested("no_such_tool", {})

    async def test_each_step_gets_the_next_reply_and_then_done(self, provider: ModelProvider) -> None:
        asked = user(script({"toolCalls": [{"name": "get_weather", "args": {"city": "Oslo"}}]}, {"text": ["Rain."]}))
        call = ToolCall("call_1", "get_weather", {"city": "Oslo"})
        so_far = (system("Be brief."), user("Hello"), assistant("You said: Hello"), asked, assistant("", (call,)))
        so_far += (tool_result(call, "It rains.", is_error=False),)

        second = await answer(provider, request(*so_far, tools=[WEATHER]))
        third = await answer(provider, request(*so_far, assistant("Rain."), tools=[WEATHER]))

        assert (said(second), said(third)) == ("Rain.", "done")

    async def test_a_failure_that_may_pass_says_so_until_it_has_passed(self, provider: ModelProvider) -> None:
        asked = request(script({"fail": {"status": 503, "attempts": 2}, "text": ["at last"]}))

        failures = [await _failure(provider, asked) for _ in range(2)]

        assert [(failure.transient, failure.usage or TokenUsage()) for failure in failures] == [
            (True, TokenUsage())
        ] * 2
        assert said(await answer(provider, asked)) == "at last"

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
    async def test_these_failures_may_pass(self, provider: ModelProvider, status: int) -> None:
        failure = await _failure(provider, request(script({"fail": {"status": status, "attempts": 0}})))

        assert failure.transient
        assert str(status) in failure.reason

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
    async def test_these_failures_do_not_pass(self, provider: ModelProvider, status: int) -> None:
        failure = await _failure(provider, request(script({"fail": {"status": status}})))

        assert not failure.transient
        assert str(status) in failure.reason

    async def test_a_cut_after_text_is_final_and_what_was_used_is_known(self, provider: ModelProvider) -> None:
        signals, failure = await until_failure(provider, request(script({"text": ["so ", "far"], "cut": True})))

        assert said(signals) == "so far"
        assert not failure.transient
        assert failure.usage is not None
        assert failure.usage.total_tokens > 0

    async def test_a_cut_before_anything_was_shown_may_pass(self, provider: ModelProvider) -> None:
        asked = script({"toolCalls": [{"name": "get_weather", "args": {"city": "Oslo"}}], "cut": True})

        failure = await _failure(provider, request(asked, tools=[WEATHER]))

        assert failure.transient

    async def test_a_script_that_cannot_be_read_is_a_failure_with_a_reason(self, provider: ModelProvider) -> None:
        failure = await _failure(provider, request('```script\n{"replies": [{"text": "not a list"}]}\n```'))

        assert not failure.transient
        assert "replies.0.text" in failure.reason

    async def test_closing_the_answer_stops_the_call(self, provider: ModelProvider) -> None:
        asked = request(script({"text": ["word "] * 1000, "delayMs": 50}))

        async with asyncio.timeout(10):
            stream = cast("AsyncGenerator[ModelSignal]", provider.stream(asked))
            async with aclosing(stream) as signals:
                first = await anext(signals)

        assert first == TextArrived("word ")
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def test_a_task_that_asks_can_be_cancelled(self, provider: ModelProvider) -> None:
        began = asyncio.Event()

        async def ask() -> None:
            async for _ in provider.stream(request(script({"text": ["word "] * 1000, "delayMs": 50}))):
                began.set()

        async with asyncio.timeout(10):
            task = asyncio.create_task(ask())
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_many_calls_at_once_do_not_mix(self, provider: ModelProvider) -> None:
        async def ask(n: int) -> str:
            return said(await answer(provider, request(script({"text": [f"{n} "] * 20, "delayMs": 1}))))

        answers = await asyncio.gather(*(ask(n) for n in range(20)))

        assert answers == [f"{n} " * 20 for n in range(20)]

    async def test_preparing_it_again_and_asking_for_a_price_do_no_harm(self, provider: ModelProvider) -> None:
        await provider.prepare()
        await provider.prepare()

        assert provider.price("scripted:contract") is None


async def _failure(provider: ModelProvider, asked: ModelRequest) -> ModelError:
    _, failure = await until_failure(provider, asked)
    return failure
