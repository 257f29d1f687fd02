"""Which models have a Chat Completions endpoint, its URL, and its dialect."""

from __future__ import annotations

from typing import Any

import pytest
from cmdc_gateway.providers.chat_completions.endpoints import find_endpoint
from cmdc_gateway.providers.chat_completions.pool import proxy_for
from cmdc_gateway.providers.chat_completions.provider import ChatCompletionsProvider
from cmdc_gateway.providers.hosted import HostedModels
from cmdc_gateway.providers.litellm.provider import LitellmProvider
from cmdc_gateway.providers.plugin import ProviderContext
from cmdc_gateway.providers.target import ModelTarget


@pytest.mark.parametrize(
    ("model", "api_base", "url"),
    [
        ("openai/gpt-4o", None, "https://api.openai.com/v1/chat/completions"),
        ("openai/house", "http://h:8000/v1", "http://h:8000/v1/chat/completions"),
        ("openai/house", "http://h:8000/v1/", "http://h:8000/v1/chat/completions"),
        ("deepseek/deepseek-chat", None, "https://api.deepseek.com/chat/completions"),
        ("groq/llama", None, "https://api.groq.com/openai/v1/chat/completions"),
        ("openrouter/org/model", None, "https://openrouter.ai/api/v1/chat/completions"),
        ("ollama_chat/llama3:8b", "http://h:11434", "http://h:11434/v1/chat/completions"),
        ("ollama_chat/llama3:8b", "http://h:11434/v1", "http://h:11434/v1/chat/completions"),
        ("hosted_vllm/org/m", "http://h/v1", "http://h/v1/chat/completions"),
    ],
)
def test_these_models_have_a_chat_completions_endpoint(model: str, api_base: str | None, url: str) -> None:
    target = ModelTarget(model, api_base, "k")

    endpoint = find_endpoint(target)

    assert endpoint is not None
    assert endpoint.url == url
    assert isinstance(hosted("openai").create(target), ChatCompletionsProvider)


@pytest.mark.parametrize(
    ("model", "api_base"),
    [("anthropic/claude", None), ("mistral/m", "http://h/v1"), ("hosted_vllm/m", None), ("gemini/g", None)],
)
def test_these_models_are_called_through_litellm(model: str, api_base: str | None) -> None:
    assert isinstance(hosted("anthropic").create(ModelTarget(model, api_base, "k")), LitellmProvider)


def hosted(name: str) -> HostedModels:
    return HostedModels(ProviderContext(name, {}))


def adapted(model: str, api_base: str | None = None, **body: Any) -> dict[str, Any]:
    endpoint = find_endpoint(ModelTarget(model, api_base))
    assert endpoint is not None
    return endpoint.dialect.adapt(body)


def test_openai_gets_max_completion_tokens_and_compatible_servers_get_max_tokens() -> None:
    assert adapted("openai/o3", max_tokens=9) == {"max_completion_tokens": 9}
    assert adapted("openai/house", "http://h/v1", max_tokens=9) == {"max_tokens": 9}


def test_deepseek_gets_a_switch_for_thinking_and_a_placeholder_for_reasoning() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    assert adapted("deepseek/m", reasoning_effort="none", messages=messages) == {
        "thinking": {"type": "disabled"},
        "messages": messages,
    }
    assert adapted("deepseek/m", reasoning_effort="low", messages=messages) == {
        "thinking": {"type": "enabled"},
        "messages": [messages[0], {**messages[1], "reasoning_content": " "}],
    }
    assert adapted("deepseek/m", messages=messages) == {"messages": messages}


def test_groq_does_not_stream_structured_output() -> None:
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

    assert adapted("groq/m", **body) == body
    assert adapted("groq/m", response_format={"type": "json_object"}, **body) == {
        "response_format": {"type": "json_object"},
        "stream": False,
    }


def test_a_proxy_is_used_for_https_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for("https://api.example.com/v1") is None

    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("https_proxy", "http://proxy:2")
    monkeypatch.setenv("no_proxy", "inside.example.com")

    assert proxy_for("https://api.example.com/v1") == "http://proxy:2"
    assert proxy_for("https://inside.example.com/v1") is None
    assert proxy_for("http://10.0.0.7:8000/v1") is None
