"""The provider of a model with a Chat Completions endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.chat import chat_messages, estimated_usage, function_tools
from cmdc_gateway.providers.chat_completions.dialects import DIALECTS
from cmdc_gateway.providers.chat_completions.endpoints import Endpoint
from cmdc_gateway.providers.chat_completions.errors import model_error, response_error
from cmdc_gateway.providers.chat_completions.pool import ConnectionPool, import_client
from cmdc_gateway.providers.chat_completions.stream import Completion, event_data
from cmdc_gateway.providers.errors import CUT_OFF
from cmdc_gateway.providers.prices import PriceList, price_list
from cmdc_gateway.providers.provider import ModelError, ModelRequest, Price
from cmdc_gateway.providers.target import ModelTarget

if TYPE_CHECKING:
    import aiohttp

_MAX_ERROR_BYTES = 64 * 1024


class ChatCompletionsProvider:
    """One model at one endpoint.

    `timeout` is how many seconds the connection may be silent. If the provider reports no usage, `estimated_usage` is
    used. The cost is the one that the provider reports, else the one by the price list, 0 for a model without a price.
    """

    def __init__(
        self, target: ModelTarget, endpoint: Endpoint, pool: ConnectionPool, *, timeout: float = 600.0
    ) -> None:
        self._target = target
        self._endpoint = endpoint
        self._pool = pool
        self._timeout = timeout
        self._prices: PriceList | None = None

    async def prepare(self) -> None:
        if self._prices is None:
            self._prices = await asyncio.to_thread(_load_prices)

    def price(self, model: str) -> Price | None:  # noqa: ARG002
        return self._prices.price(self._target.model) if self._prices is not None else None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        if self._prices is None:
            await self.prepare()
        completion = Completion(self._target.secrets)
        try:
            response = await self._send(request)
            try:
                async for data in event_data(response):
                    for signal in completion.feed(data):
                        yield signal
            finally:
                response.release()  # also closes the connection, unless the body was read to its end
            if not completion.finished:
                raise ModelError(CUT_OFF, transient=True)
        except Exception as error:  # noqa: BLE001 - `model_error` re-raises what it does not know
            # Without its cause: the client's exceptions contain the URL.
            raise self._failure(model_error(error), request, completion) from None
        for call in completion.tool_calls.requests():
            yield call
        yield ModelFinished(*self._spent(request, completion))

    async def _send(self, request: ModelRequest) -> aiohttp.ClientResponse:
        """The response, once its headers have arrived. Raises ModelError for an error status."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self._target.api_key is not None:
            headers["Authorization"] = f"Bearer {self._target.api_key}"
        body = dumps(self._endpoint.dialect.adapt(self._body(request)))
        response = await self._pool.post(self._endpoint.url, body, headers, idle_timeout=self._timeout)
        if not 200 <= response.status < 300:
            try:
                content = await response.content.read(_MAX_ERROR_BYTES)
            finally:
                response.close()
            retry_after = response.headers.get("retry-after")
            raise response_error(response.status, retry_after, content, self._target.secrets)
        return response

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            **request.options,
            "model": self._target.name,
            "messages": chat_messages(request.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        if request.tools:
            body["tools"] = function_tools(request.tools)
        else:  # most providers reject these options in a request without tools
            body.pop("tool_choice", None)
            body.pop("parallel_tool_calls", None)
        return body

    def _failure(self, error: ModelError, request: ModelRequest, completion: Completion) -> ModelError:
        """The error with what the call has consumed. A call whose output readers have seen is not repeated."""
        usage, cost_usd = self._spent(request, completion) if completion.output_bytes else (None, 0.0)
        return ModelError(
            error.reason,
            transient=error.transient and not completion.has_output,
            retry_after=error.retry_after,
            usage=usage,
            cost_usd=cost_usd,
        )

    def _spent(self, request: ModelRequest, completion: Completion) -> tuple[TokenUsage, float]:
        usage = completion.usage or estimated_usage(request, completion.output_bytes)
        if completion.cost_usd is not None:
            return usage, completion.cost_usd
        if self._prices is None:
            return usage, 0.0
        return usage, self._prices.cost_usd(self._target.model, usage, completion.cached_tokens)


def _load_prices() -> PriceList:
    import_client()
    return price_list(frozenset(DIALECTS))
