"""The interface of a language model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from cmdc_gateway.kernel.signals import ModelSignal
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.history import Message, TokenUsage


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The input of one model call. `model` is the name that the session uses, `provider:model`."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int | None = None
    options: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per token."""

    prompt: float
    completion: float


class ModelError(Exception):
    """A model call failed.

    `reason` is shown to readers: it contains no address and no credential. `transient` is true if the same call may
    succeed later, and `retry_after` is the delay in seconds that the provider asked for. `usage` and `cost_usd` are
    what the call is known to have consumed before it failed.
    """

    def __init__(
        self,
        reason: str,
        *,
        transient: bool = False,
        retry_after: float | None = None,
        usage: TokenUsage | None = None,
        cost_usd: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient
        self.retry_after = retry_after
        self.usage = usage
        self.cost_usd = cost_usd


class ModelProvider(Protocol):
    """Calls one model. `cmdc_gateway.testing.providers` tests an implementation."""

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelSignal]:
        """Call the model once, without retries. Yields chunks as they arrive, and ModelFinished last.

        A chunk with empty text reports progress that readers do not see. Closing the iterator cancels the call and
        releases its connection.

        Raises:
            ModelError: the call failed.
        """
        ...

    def price(self, model: str) -> Price | None:
        """The price of a token; None if it is unknown, or not loaded yet. Never blocks."""
        ...

    async def prepare(self) -> None:
        """Do slow work, such as imports, ahead of the first call. Idempotent."""
        ...
