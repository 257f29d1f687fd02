"""Models whose endpoint speaks OpenAI's chat format, asked without a middleman.

A chunk costs about a thirtieth of what it costs through litellm. What they are asked and what comes of it is the same;
both keep `ProviderContract`. Nothing is retried here: `Retrying` does that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived, ThoughtArrived
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers import pool as connections
from cmdc_gateway.providers.chat import ToolFragments, chat_messages, estimated_usage, functions
from cmdc_gateway.providers.direct_failures import model_error, rejection_error, stream_error
from cmdc_gateway.providers.endpoints import PREFIXES, Endpoint
from cmdc_gateway.providers.failures import CUT_OFF, NOT_AN_ANSWER
from cmdc_gateway.providers.pool import ConnectionPool
from cmdc_gateway.providers.prices import PriceList, price_list
from cmdc_gateway.providers.provider import ModelError, ModelRequest, Price
from cmdc_gateway.providers.target import ModelTarget

if TYPE_CHECKING:
    import aiohttp

_COMPLAINT_BYTES = 64 * 1024
_LONGEST_LINE = 64 * 1024 * 1024
_DATA = b"data:"
_DONE = b"[DONE]"


class DirectProvider:
    """One model at an endpoint.

    `timeout` (seconds) is for a connection that sends nothing. Where a provider reports no usage, `estimated_usage`
    stands in. The cost is what the provider says, or what the price list does; 0 for a model that is not in it.
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
            self._prices = await asyncio.to_thread(_prepared)

    def price(self, model: str) -> Price | None:  # noqa: ARG002
        return self._prices.price(self._target.model) if self._prices is not None else None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelSignal]:
        if self._prices is None:
            await self.prepare()
        answer = _Answer(self._secrets())
        try:
            response = await self._ask(request)
            try:
                async for data in _events(response):
                    for signal in answer.take(data):
                        yield signal
            finally:
                response.release()  # closes the connection, too, unless the answer was read to its end
            if not answer.finished:
                raise ModelError(CUT_OFF, transient=True)
        except Exception as error:  # noqa: BLE001 - what is none of theirs is raised again
            failure = model_error(error)
            usage, cost_usd = self._spent(request, answer) if answer.bytes_written else (None, 0.0)
            raise ModelError(
                failure.reason,
                transient=failure.transient and not answer.shown,
                retry_after=failure.retry_after,
                usage=usage,
                cost_usd=cost_usd,
            ) from None  # the client's exceptions have the address in them
        for call in answer.fragments.requests():
            yield call
        yield ModelFinished(*self._spent(request, answer))

    async def _ask(self, request: ModelRequest) -> aiohttp.ClientResponse:
        """The answer, as soon as its headers are there. Raises ModelError for a refusal."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self._target.api_key is not None:
            headers["Authorization"] = f"Bearer {self._target.api_key}"
        body = dumps(self._endpoint.dialect.spoken(self._body(request)))
        response = await self._pool.post(self._endpoint.url, body, headers, patience=self._timeout)
        if not 200 <= response.status < 300:
            try:
                complaint = await response.content.read(_COMPLAINT_BYTES)
            finally:
                response.close()
            raise rejection_error(response.status, response.headers.get("retry-after"), complaint, self._secrets())
        return response

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        _, _, model = self._target.model.partition("/")
        body: dict[str, Any] = {
            **request.options,
            "model": model,
            "messages": chat_messages(request.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        if request.tools:
            body["tools"] = functions(request.tools)
        else:  # most providers refuse to hear about the choice between no tools
            body.pop("tool_choice", None)
            body.pop("parallel_tool_calls", None)
        return body

    def _spent(self, request: ModelRequest, answer: _Answer) -> tuple[TokenUsage, float]:
        reported = answer.usage
        usage = reported or estimated_usage(request, answer.bytes_written)
        if answer.cost_usd is not None:
            return usage, answer.cost_usd
        prices = self._prices
        return usage, prices.cost_usd(self._target.model, usage, answer.cached_tokens) if prices is not None else 0.0

    def _secrets(self) -> tuple[str, ...]:
        return tuple(secret for secret in (self._target.api_key, self._target.api_base) if secret)


class _Answer:
    """What has come of a model's answer so far."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self.fragments = ToolFragments()
        self.finished = False
        self.shown = False
        self.bytes_written = 0
        self.usage: TokenUsage | None = None
        self.cached_tokens = 0
        self.cost_usd: float | None = None
        self._secrets = secrets

    def take(self, data: bytes) -> list[ModelSignal]:
        """Take in the data of one event; what readers see of it."""
        if data == _DONE:
            self.finished = True
            return []
        try:
            return self._chunk(json.loads(data))
        except (AttributeError, TypeError, KeyError):
            raise ModelError(NOT_AN_ANSWER) from None

    def _chunk(self, chunk: dict[str, Any]) -> list[ModelSignal]:
        if error := chunk.get("error"):
            raise stream_error(error, self._secrets)
        usage = chunk.get("usage") or (chunk["x_groq"].get("usage") if "x_groq" in chunk else None)
        if usage:
            self._count(usage)
        choices = chunk.get("choices")
        if not choices:
            return []
        choice = choices[0]
        if choice.get("finish_reason"):
            self.finished = True
        return self._delta(choice.get("delta") or choice.get("message") or {})

    def _delta(self, delta: dict[str, Any]) -> list[ModelSignal]:
        signals: list[ModelSignal] = []
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            signals.append(ThoughtArrived(self._shown(thought)))
        if text := delta.get("content"):
            signals.append(TextArrived(self._shown(text)))
        for place, piece in enumerate(delta.get("tool_calls") or ()):
            function = piece.get("function") or {}
            arguments = function.get("arguments") or ""
            self.fragments.add(piece.get("index", place), piece.get("id"), function.get("name"), arguments)
            self._write(arguments)
            # A long call takes its time, and whoever watches for silence is to see that it comes.
            signals.append(TextArrived(""))
        return signals

    def _shown(self, text: str) -> str:
        self.shown = True
        self._write(text)
        return text

    def _write(self, text: str) -> None:
        self.bytes_written += len(text) if text.isascii() else len(text.encode(errors="replace"))

    def _count(self, usage: dict[str, Any]) -> None:
        read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        if read or written:
            self.usage = TokenUsage(read, written)
            details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
            self.cached_tokens = int(details.get("cached_tokens") or 0)
            cost = usage.get("cost")
            self.cost_usd = float(cost) if isinstance(cost, int | float) else None


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    """The data of each event; all of the body where it is one piece of JSON."""
    whole = response.content_type == "application/json"
    rest: list[bytes] = []  # of a line, or a body, that is not complete
    size = 0
    while received := await response.content.readany():
        lines = [received] if whole else received.split(b"\n")
        if len(lines) > 1:
            lines[0] = b"".join((*rest, lines[0]))
            rest, size = [], 0
        for line in lines[:-1]:
            if line.startswith(_DATA):
                yield line[len(_DATA) :].strip()
        rest.append(lines[-1])
        size += len(lines[-1])
        if size > _LONGEST_LINE:
            raise ModelError(NOT_AN_ANSWER)
    last = b"".join(rest)
    if whole or last.startswith(_DATA):
        yield last.removeprefix(_DATA).strip()


def _prepared() -> PriceList:
    connections.load()
    return price_list(PREFIXES)
