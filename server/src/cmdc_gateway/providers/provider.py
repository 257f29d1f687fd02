"""What a language model is to the gateway."""

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
    """One model call: everything the model is told. `model` is the session's name for it, `provider:model`."""

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

    `transient`: the same call may succeed a moment later. `retry_after`: seconds the provider asked to wait.
    `usage` and `cost_usd`: what is known to have been used before it failed. The sentence is shown to readers: it
    holds no address and no credential.
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
    """A source of answers."""

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelSignal]:
        """Ask once. Yields text, thoughts and tool requests as they come, ModelFinished last.

        Raises ModelError. Closing the iterator stops the call and frees its connection.
        """
        ...

    def price(self, model: str) -> Price | None:
        """What a token costs, where it is known now. Never blocks."""
        ...

    async def prepare(self) -> None:
        """Do what the first call would wait for (imports, say). Harmless to repeat."""
        ...
