"""The provider of a model that is called through litellm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived, ThoughtArrived
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.chat import ToolCallAssembler, chat_messages, estimated_usage, function_tools
from cmdc_gateway.providers.errors import CUT_OFF
from cmdc_gateway.providers.litellm import library, prices
from cmdc_gateway.providers.litellm.errors import model_error
from cmdc_gateway.providers.provider import ModelError, ModelRequest, Price
from cmdc_gateway.providers.target import ModelTarget

_CONNECT_SECONDS = 10.0


class LitellmProvider:
    """One model, called through litellm.

    `timeout` is how many seconds the connection may be silent. If the provider reports no usage, `estimated_usage` is
    used. The cost is computed with litellm's price list, and is 0 for a model without a price.
    """

    def __init__(self, target: ModelTarget, *, timeout: float = 600.0) -> None:
        self._target = target
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))

    async def prepare(self) -> None:
        await asyncio.to_thread(library.warm_up)

    def price(self, model: str) -> Price | None:  # noqa: ARG002
        return prices.price(self._target.model)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        if not library.is_loaded():
            await self.prepare()
        completion = _Completion()
        try:
            response = await library.load().acompletion(**self._arguments(request))
            try:
                async for chunk in response:
                    for signal in completion.feed(chunk):
                        yield signal
            finally:
                await response.aclose()
            # litellm adds a finish to every stream; these say whether the provider sent one.
            if not (response.received_finish_reason or response.intermittent_finish_reason):
                raise ModelError(CUT_OFF, transient=True)
        except Exception as error:  # noqa: BLE001 - litellm also raises plain exceptions
            failure = error if isinstance(error, ModelError) else model_error(error, self._target.secrets)
            # Without its cause: litellm's exceptions contain the request, and with it the key.
            raise self._failure(failure, request, completion) from None
        for call in completion.tool_calls.requests():
            yield call
        yield ModelFinished(*self._spent(request, completion))

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            **request.options,
            "model": self._target.model,
            "messages": chat_messages(request.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "timeout": self._timeout,
            "max_retries": 0,
            "num_retries": 0,
        }
        if self._target.api_base is not None:
            # litellm knows which options a hosted model accepts, and raises an error for others. It knows nothing about
            # a model at a base URL of the operator's, so every option is passed on.
            arguments |= {"api_base": self._target.api_base, "allowed_openai_params": list(request.options)}
        if self._target.api_key is not None:
            arguments["api_key"] = self._target.api_key
        if request.max_tokens is not None:
            arguments["max_tokens"] = request.max_tokens
        if request.tools:
            arguments["tools"] = function_tools(request.tools)
        else:  # most providers reject these options in a request without tools
            arguments.pop("tool_choice", None)
            arguments.pop("parallel_tool_calls", None)
        return arguments

    def _failure(self, error: ModelError, request: ModelRequest, completion: _Completion) -> ModelError:
        """The error with what the call has consumed. A call whose output readers have seen is not repeated."""
        usage, cost_usd = self._spent(request, completion) if completion.output_bytes else (None, 0.0)
        return ModelError(
            error.reason,
            transient=error.transient and not completion.has_output,
            retry_after=error.retry_after,
            usage=usage,
            cost_usd=cost_usd,
        )

    def _spent(self, request: ModelRequest, completion: _Completion) -> tuple[TokenUsage, float]:
        reported = completion.usage
        if reported is None:
            usage = estimated_usage(request, completion.output_bytes)
        else:
            usage = TokenUsage(reported.prompt_tokens, reported.completion_tokens)
        return usage, prices.cost_usd(self._target.model, usage, reported)


class _Completion:
    """What has arrived of one completion. `has_output` is whether readers have seen any of it."""

    def __init__(self) -> None:
        self.tool_calls = ToolCallAssembler()
        self.has_output = False
        self.output_bytes = 0
        self.usage: Any = None

    def feed(self, chunk: Any) -> Iterator[ModelSignal]:
        """The chunks in one of litellm's chunks."""
        if (usage := getattr(chunk, "usage", None)) is not None and usage.total_tokens:
            self.usage = usage
        if not chunk.choices:
            return
        delta = chunk.choices[0].delta
        for text, signal in ((getattr(delta, "reasoning_content", None), ThoughtArrived), (delta.content, TextArrived)):
            if text:
                self.has_output = True
                self.output_bytes += len(text.encode(errors="replace"))
                yield signal(text)
        for fragment in delta.tool_calls or ():
            arguments = fragment.function.arguments
            self.tool_calls.add(fragment.index, fragment.id, fragment.function.name, arguments)
            self.output_bytes += len((arguments or "").encode(errors="replace"))
            # Arguments are not shown until they are complete. An empty chunk tells the stall timer that they arrive.
            yield TextArrived("")
