"""Which models are reached directly: those whose endpoint speaks OpenAI's chat format itself, and its dialects of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from cmdc_gateway.providers.target import ModelTarget

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address for chat completions, and what it wants to hear differently."""

    url: str
    dialect: Dialect


class Dialect:
    """OpenAI's format as most others speak it. `base` is the address of a provider that has one for everybody."""

    base: str | None = None
    path = "/chat/completions"

    def spoken(self, body: Body) -> Body:
        """The request as this endpoint takes it."""
        return body


class OpenAI(Dialect):
    """The original."""

    base = "https://api.openai.com/v1"

    def spoken(self, body: Body) -> Body:
        # The old name is refused for models that think.
        if "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return body


class DeepSeek(Dialect):
    """Thinking is switched on and off, not measured."""

    base = "https://api.deepseek.com"

    def spoken(self, body: Body) -> Body:
        effort = body.pop("reasoning_effort", None)
        if effort is not None:
            body["thinking"] = {"type": "disabled" if effort == "none" else "enabled"}
        if effort not in (None, "none"):
            # It asks for its thoughts back with everything it said. They are not kept: a space is what it takes instead.
            messages = cast("list[Body]", body["messages"])
            body["messages"] = [
                {**message, "reasoning_content": " "} if message["role"] == "assistant" else message
                for message in messages
            ]
        return body


class Groq(Dialect):
    """It cannot stream what has to fit a format."""

    base = "https://api.groq.com/openai/v1"

    def spoken(self, body: Body) -> Body:
        if "response_format" in body:
            body["stream"] = False
            del body["stream_options"]
        return body


class OpenRouter(Dialect):
    """Everybody's models."""

    base = "https://openrouter.ai/api/v1"


class Ollama(Dialect):
    """Its address is given without the part under which it speaks OpenAI's format."""

    path = "/v1/chat/completions"


_DIALECTS: Mapping[str, Dialect] = {
    "deepseek": DeepSeek(),
    "groq": Groq(),
    "hosted_vllm": Dialect(),
    "lm_studio": Dialect(),
    "ollama_chat": Ollama(),
    "openai": OpenAI(),
    "openrouter": OpenRouter(),
}
_PLAIN = Dialect()

PREFIXES = frozenset(_DIALECTS)
"""The providers of whom some models are reached so, by litellm's names for them."""


def endpoint(target: ModelTarget) -> Endpoint | None:
    """Where the target speaks OpenAI's chat format; None if it does not, or says in another way where it is."""
    prefix, _, _ = target.model.partition("/")
    dialect = _DIALECTS.get(prefix)
    if dialect is None:
        return None
    if target.api_base is None:
        return Endpoint(dialect.base + dialect.path, dialect) if dialect.base is not None else None
    base = target.api_base.rstrip("/")
    if prefix == "openai":  # what anybody calls a server that speaks as OpenAI does
        dialect = _PLAIN
    return Endpoint(
        base.removesuffix("/v1") + dialect.path if prefix == "ollama_chat" else base + dialect.path, dialect
    )
