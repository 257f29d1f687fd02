"""Which models are reached directly, where they are, and what each wants to hear differently."""

from __future__ import annotations

from typing import Any

import pytest
from cmdc_gateway.providers.direct import DirectProvider
from cmdc_gateway.providers.endpoints import endpoint
from cmdc_gateway.providers.factory import ProviderFactory
from cmdc_gateway.providers.litellm import LitellmProvider
from cmdc_gateway.providers.pool import proxy_for
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
def test_these_are_reached_directly(model: str, api_base: str | None, url: str) -> None:
    target = ModelTarget(model, api_base, "k")

    place = endpoint(target)

    assert place is not None
    assert place.url == url
    assert isinstance(ProviderFactory()(target), DirectProvider)


@pytest.mark.parametrize(
    ("model", "api_base"),
    [("anthropic/claude", None), ("mistral/m", "http://h/v1"), ("hosted_vllm/m", None), ("gemini/g", None)],
)
def test_these_are_reached_through_litellm(model: str, api_base: str | None) -> None:
    assert isinstance(ProviderFactory()(ModelTarget(model, api_base, "k")), LitellmProvider)


def spoken(model: str, api_base: str | None = None, **body: Any) -> dict[str, Any]:
    place = endpoint(ModelTarget(model, api_base))
    assert place is not None
    return place.dialect.spoken(body)


def test_openai_calls_the_bound_by_its_new_name_and_those_who_speak_as_it_does_by_the_old() -> None:
    assert spoken("openai/o3", max_tokens=9) == {"max_completion_tokens": 9}
    assert spoken("openai/house", "http://h/v1", max_tokens=9) == {"max_tokens": 9}


def test_deepseek_switches_thinking_on_and_off_and_gets_thoughts_back() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    assert spoken("deepseek/m", reasoning_effort="none", messages=messages) == {
        "thinking": {"type": "disabled"},
        "messages": messages,
    }
    assert spoken("deepseek/m", reasoning_effort="low", messages=messages) == {
        "thinking": {"type": "enabled"},
        "messages": [messages[0], {**messages[1], "reasoning_content": " "}],
    }
    assert spoken("deepseek/m", messages=messages) == {"messages": messages}


def test_groq_is_not_asked_to_stream_what_has_to_fit_a_format() -> None:
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

    assert spoken("groq/m", **asked) == asked
    assert spoken("groq/m", response_format={"type": "json_object"}, **asked) == {
        "response_format": {"type": "json_object"},
        "stream": False,
    }


def test_a_proxy_of_the_environment_is_for_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for("https://api.example.com/v1") is None

    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("https_proxy", "http://proxy:2")
    monkeypatch.setenv("no_proxy", "inside.example.com")

    assert proxy_for("https://api.example.com/v1") == "http://proxy:2"
    assert proxy_for("https://inside.example.com/v1") is None
    assert proxy_for("http://10.0.0.7:8000/v1") is None
