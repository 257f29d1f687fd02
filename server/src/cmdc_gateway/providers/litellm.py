"""Hosted and self-hosted language models, by way of litellm.

The only module that calls litellm; `litellm_failures.py` knows its exceptions. Importing it takes seconds and 180 MB,
so that happens once, in a thread, when the first model is prepared. Nothing is retried here: `Retrying` does that.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived, ThoughtArrived
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.chat import ToolFragments, chat_messages, estimated_usage, functions
from cmdc_gateway.providers.failures import CUT_OFF
from cmdc_gateway.providers.litellm_failures import model_error
from cmdc_gateway.providers.provider import ModelError, ModelRequest, Price
from cmdc_gateway.providers.target import ModelTarget

_CONNECT_SECONDS = 10.0
_WARM_UP = (
    b'data: {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": '
    b'[{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


class LitellmProvider:
    """One model, reached through litellm.

    `timeout` (seconds) is for a connection that sends nothing. Where a provider reports no usage, `estimated_usage`
    stands in. The cost is what litellm's own price list says, 0 for a model that is not in it.
    """

    def __init__(self, target: ModelTarget, *, timeout: float = 600.0) -> None:
        self._target = target
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))

    async def prepare(self) -> None:
        await asyncio.to_thread(_warm_up)

    def price(self, model: str) -> Price | None:  # noqa: ARG002
        return _price(self._target.model)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        if not _loaded():
            await self.prepare()
        answer = _Answer()
        try:
            response = await _litellm().acompletion(**self._call(request))
            try:
                async for chunk in response:
                    for signal in answer.take(chunk):
                        yield signal
            finally:
                await response.aclose()
            # litellm ends every stream with a finish of its own making; these say whether the provider sent one.
            if not (response.received_finish_reason or response.intermittent_finish_reason):
                raise ModelError(CUT_OFF, transient=True)
        except Exception as error:  # noqa: BLE001 - litellm raises plain exceptions, too
            failure = error if isinstance(error, ModelError) else model_error(error, self._secrets())
            usage, cost_usd = self._spent(request, answer) if answer.bytes_written else (None, 0.0)
            raise ModelError(
                failure.reason,
                transient=failure.transient and not answer.shown,
                retry_after=failure.retry_after,
                usage=usage,
                cost_usd=cost_usd,
            ) from None  # what litellm raises has the request in it, and with it the key
        for call in answer.fragments.requests():
            yield call
        yield ModelFinished(*self._spent(request, answer))

    def _call(self, request: ModelRequest) -> dict[str, Any]:
        call: dict[str, Any] = {
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
            # Nothing is known of a model at an address of the operator's: what was asked for is passed on to it. Of
            # hosted models litellm knows what they take, and an option they do not take is an error, never dropped.
            call |= {"api_base": self._target.api_base, "allowed_openai_params": list(request.options)}
        if self._target.api_key is not None:
            call["api_key"] = self._target.api_key
        if request.max_tokens is not None:
            call["max_tokens"] = request.max_tokens
        if request.tools:
            call["tools"] = functions(request.tools)
        else:  # most providers refuse to hear about the choice between no tools
            call.pop("tool_choice", None)
            call.pop("parallel_tool_calls", None)
        return call

    def _spent(self, request: ModelRequest, answer: _Answer) -> tuple[TokenUsage, float]:
        reported = answer.usage
        if reported is None:
            usage = estimated_usage(request, answer.bytes_written)
        else:
            usage = TokenUsage(reported.prompt_tokens, reported.completion_tokens)
        return usage, _cost_usd(self._target.model, usage, reported)

    def _secrets(self) -> tuple[str, ...]:
        return tuple(secret for secret in (self._target.api_key, self._target.api_base) if secret)


class _Answer:
    """What has come of a model's answer so far."""

    def __init__(self) -> None:
        self.fragments = ToolFragments()
        self.shown = False
        self.bytes_written = 0
        self.usage: Any = None

    def take(self, chunk: Any) -> Iterator[ModelSignal]:
        """Take in one of litellm's chunks; what readers see of it."""
        if (usage := getattr(chunk, "usage", None)) is not None and usage.total_tokens:
            self.usage = usage
        if not chunk.choices:
            return
        delta = chunk.choices[0].delta
        for text, signal in ((getattr(delta, "reasoning_content", None), ThoughtArrived), (delta.content, TextArrived)):
            if text:
                self.shown = True
                self.bytes_written += len(text.encode(errors="replace"))
                yield signal(text)
        for piece in delta.tool_calls or ():
            arguments = piece.function.arguments
            self.fragments.add(piece.index, piece.id, piece.function.name, arguments)
            self.bytes_written += len((arguments or "").encode(errors="replace"))
            # A long call takes its time, and whoever watches for silence is to see that it comes.
            yield TextArrived("")


async def close_connections() -> None:
    """Close the connections that litellm keeps open for the next call. They are made anew when one comes."""
    if _loaded():
        litellm = _litellm()
        await litellm.close_litellm_async_clients()
        litellm.in_memory_llm_clients_cache.flush_cache()


def _loaded() -> bool:
    return _litellm.cache_info().currsize > 0


@functools.cache
def _litellm() -> Any:
    # Read by litellm while it is imported: no price list from the network, no `.env` from the working directory.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    litellm: Any = importlib.import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True  # no advertisements on stdout
    litellm.disable_token_counter = True  # it may download a tokenizer; `estimated_usage` does without
    litellm.disable_aiohttp_transport = True  # its sessions outlive a call that is cancelled
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # a model may say the same word as often as it likes
    # What they log has prompts and keys in it, or addresses with keys in them.
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    for name in ("openai", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return litellm


@functools.cache
def _warm_up() -> None:
    """Make one call that leaves this process by no door: the first imports a second's worth of modules once more."""
    litellm, openai = _litellm(), importlib.import_module("openai")

    async def call() -> None:
        answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=_WARM_UP)
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as http:
            client = openai.AsyncOpenAI(api_key="none", base_url="http://localhost", http_client=http)
            tool = {"type": "function", "function": {"name": "x", "description": "", "parameters": {"type": "object"}}}
            messages = [{"role": "user", "content": ""}]
            response = await litellm.acompletion("openai/x", messages, client=client, tools=[tool], stream=True)
            async for _ in response:
                pass

    asyncio.run(call())


def _price(model: str) -> Price | None:
    entry = _price_entry(model)
    if entry is None:
        return None
    prompt, completion = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    return None if prompt is None or completion is None else Price(float(prompt), float(completion))


def _price_entry(model: str) -> dict[str, Any] | None:
    """What litellm's list has about a model. Its own look-up asks some providers over the network: not used."""
    if not _loaded():
        return None
    prices: dict[str, Any] = _litellm().model_cost
    provider, _, name = model.partition("/")
    if model in prices:
        return prices[model]
    entry = prices.get(name)
    return entry if entry is not None and entry.get("litellm_provider") == provider else None


def _cost_usd(model: str, usage: TokenUsage, reported: Any) -> float:
    price = _price(model)
    if price is None:
        return 0.0
    try:
        # Knows what our two prices do not: cached tokens, long contexts, priority.
        return float(sum(_litellm().cost_per_token(model=model, usage_object=reported))) if reported else 0.0
    except Exception:  # noqa: BLE001 - whatever it stumbles over, the two prices are known
        return usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion
