"""Differences between implementations of the Chat Completions API.

A dialect holds all that is particular to one provider. To add a provider, add its dialect to `DIALECTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

Body = dict[str, Any]


def _unchanged(body: Body) -> Body:
    return body


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to call one provider.

    `base_url` is the provider's public endpoint, None if every installation has its own. `path` is appended to the base
    URL. `adapt` changes a request body in place and returns it.
    """

    base_url: str | None = None
    path: str = "/chat/completions"
    adapt: Callable[[Body], Body] = _unchanged


def _openai(body: Body) -> Body:
    # Reasoning models reject the old name.
    if "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
    return body


def _deepseek(body: Body) -> Body:
    effort = body.pop("reasoning_effort", None)
    if effort is not None:
        body["thinking"] = {"type": "disabled" if effort == "none" else "enabled"}
    if effort not in (None, "none"):
        # Thinking models require the reasoning of earlier messages, which is not stored. They accept a space.
        body["messages"] = [
            {**message, "reasoning_content": " "} if message["role"] == "assistant" else message
            for message in cast("list[Body]", body["messages"])
        ]
    return body


def _groq(body: Body) -> Body:
    # Structured output cannot be streamed.
    if "response_format" in body:
        body["stream"] = False
        del body["stream_options"]
    return body


STANDARD = Dialect()
"""An OpenAI-compatible server that an operator configured."""

DIALECTS: Mapping[str, Dialect] = {
    "deepseek": Dialect("https://api.deepseek.com", adapt=_deepseek),
    "groq": Dialect("https://api.groq.com/openai/v1", adapt=_groq),
    "hosted_vllm": STANDARD,
    "lm_studio": STANDARD,
    # Its base URL is configured without the version.
    "ollama_chat": Dialect(path="/v1/chat/completions"),
    "openai": Dialect("https://api.openai.com/v1", adapt=_openai),
    "openrouter": Dialect("https://openrouter.ai/api/v1"),
}
"""The dialects by the prefixes of their models in litellm's syntax."""
