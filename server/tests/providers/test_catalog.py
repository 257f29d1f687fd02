"""Which models are served, and with which options."""

from __future__ import annotations

from typing import Any

import pytest
from cmdc_gateway.errors import BadRequest, CreateFailed
from cmdc_gateway.providers.hosted import target_from_config
from cmdc_gateway.providers.options import OPTIONS, UnknownOption, check_options
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.registry import ModelRegistry, UnknownModel
from cmdc_gateway.providers.scripted import ScriptedProvider
from cmdc_gateway.providers.target import ModelTarget
from pydantic import JsonValue

HOUSE = ModelTarget("openai/house", "http://127.0.0.1:1/v1", "none")


class Reached:
    """Remembers the targets for which a provider was made."""

    def __init__(self) -> None:
        self.targets: list[ModelTarget] = []

    def __call__(self, target: ModelTarget) -> ModelProvider:
        self.targets.append(target)
        return ScriptedProvider()


def catalog(environ: dict[str, str] | None = None, **more: Any) -> ModelRegistry:
    return ModelRegistry(aliases={"house:small": HOUSE}, environ=environ or {}, **more)


# -- names --------------------------------------------------------------------------------------------------------------


def test_what_is_offered_depends_on_the_configuration_and_the_credentials() -> None:
    assert catalog().names() == ["scripted:*", "house:small"]
    assert catalog(scripted=False).names() == ["house:small"]
    assert catalog({"OPENAI_API_KEY": "k", "GOOGLE_API_KEY": "k", "DEEPSEEK_API_KEY": ""}).names() == [
        "scripted:*",
        "house:small",
        "gemini:*",
        "openai:*",
    ]


def test_a_model_is_found_once() -> None:
    reached = Reached()
    models = catalog({"OPENAI_API_KEY": "k1", "OLLAMA_API_BASE": "http://127.0.0.1:11434"}, factory=reached)

    for name in ("house:small", "openai:gpt-4o", "ollama:llama3:8b", "openai:gpt-4o"):
        assert models.find(name) is models.find(name)

    assert reached.targets == [
        HOUSE,
        ModelTarget("openai/gpt-4o", api_key="k1"),
        ModelTarget("ollama_chat/llama3:8b", api_base="http://127.0.0.1:11434"),
    ]


def test_the_scripted_model_is_one_whatever_it_is_called() -> None:
    models = catalog()

    assert models.find("scripted:a") is models.find("scripted:b:c")


def test_only_so_many_models_are_remembered() -> None:
    reached = Reached()
    models = catalog({"OPENAI_API_KEY": "k"}, factory=reached)

    for n in range(300):
        models.find(f"openai:m{n}")
    models.find("openai:m299")
    models.find("openai:m0")

    assert len(reached.targets) == 301


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "provider:model"),
        ("gpt-4o", "provider:model"),
        (":x", "provider:model"),
        ("openai:", "provider:model"),
        ("scripted:", "provider:model"),
        ("house:large", "no provider 'house'"),
        ("nobody:x", "no provider 'nobody'"),
        ("anthropic:claude", "ANTHROPIC_API_KEY is not set on the server"),
        ("azure:x", "AZURE_API_BASE is not set on the server"),
        ("openai:../../etc", "not the name of a model"),
        ("openai:a//b", "not the name of a model"),
        ("openai:a b", "not the name of a model"),
        ("openai:a?b", "not the name of a model"),
        ("openai:" + "x" * 300, "not the name of a model"),
    ],
)
def test_an_unknown_model_is_refused_with_what_is_offered(name: str, why: str) -> None:
    with pytest.raises(UnknownModel) as raised:
        catalog({"OPENAI_API_KEY": "k"}).find(name)

    assert isinstance(raised.value, CreateFailed)
    assert why in raised.value.message
    assert raised.value.message.endswith("; offered: scripted:*, house:small, openai:*")


def test_an_operator_can_leave_the_scripted_model_out() -> None:
    with pytest.raises(UnknownModel, match="no provider 'scripted'"):
        catalog(scripted=False).find("scripted:a")


def test_an_alias_hides_a_hosted_model_of_its_name() -> None:
    reached = Reached()
    models = ModelRegistry(aliases={"openai:gpt-4o": HOUSE}, environ={"OPENAI_API_KEY": "k"}, factory=reached)

    models.find("openai:gpt-4o")

    assert reached.targets == [HOUSE]


# -- aliases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "api_base", "api_key_env", "target"),
    [
        ("house", "http://h/v1", None, ModelTarget("openai/house", "http://h/v1", "none")),
        ("house", "http://h/v1", "HOUSE_KEY", ModelTarget("openai/house", "http://h/v1", "hk")),
        ("org/house-1b", "https://h/v1", None, ModelTarget("openai/org/house-1b", "https://h/v1", "none")),
        ("openai/house", "http://h/v1", None, ModelTarget("openai/house", "http://h/v1", "none")),
        ("openai:house", "http://h/v1", None, ModelTarget("openai/house", "http://h/v1", "none")),
        ("llama3:8b", "http://h/v1", None, ModelTarget("openai/llama3:8b", "http://h/v1", "none")),
        ("ollama:llama3:8b", "http://h", None, ModelTarget("ollama_chat/llama3:8b", "http://h", "none")),
        ("hosted_vllm/org/m", "http://h/v1", None, ModelTarget("hosted_vllm/org/m", "http://h/v1", "none")),
        ("deepseek:deepseek-chat", None, None, ModelTarget("deepseek/deepseek-chat", None, "dk")),
        ("deepseek/deepseek-chat", None, "HOUSE_KEY", ModelTarget("deepseek/deepseek-chat", None, "hk")),
        ("openai:gpt-4o", None, "HOUSE_KEY", ModelTarget("openai/gpt-4o", None, "hk")),
        ("bedrock/some.model-v1:0", None, None, ModelTarget("bedrock/some.model-v1:0")),
    ],
)
def test_an_alias_is_where_the_operator_says(
    model: str, api_base: str | None, api_key_env: str | None, target: ModelTarget
) -> None:
    environ = {"HOUSE_KEY": "hk", "DEEPSEEK_API_KEY": "dk"}

    found = target_from_config("my:model", model=model, api_base=api_base, api_key_env=api_key_env, environ=environ)

    assert found == target


@pytest.mark.parametrize(
    ("name", "model", "api_base", "api_key_env", "complaint"),
    [
        ("mymodel", "house", "http://h/v1", None, "must be named provider:model"),
        ("my:", "house", "http://h/v1", None, "must be named provider:model"),
        ("scripted:x", "house", "http://h/v1", None, "scripted"),
        ("my:model", "", "http://h/v1", None, "model is empty"),
        ("my:model", "house", "h/v1", None, "api_base must begin with"),
        ("my:model", "house", "file:///etc", None, "api_base must begin with"),
        ("my:model", "house", "http://h/v1", "NOT_SET", "NOT_SET is not set"),
        ("my:model", "house", None, None, "names no known provider"),
        ("my:model", "nobody/house", None, None, "names no known provider"),
        ("my:model", "openai:gpt-4o", None, None, "OPENAI_API_KEY is not set"),
        ("my:model", "azure:dep", None, "HOUSE_KEY", "AZURE_API_BASE is not set"),
    ],
)
def test_an_alias_that_cannot_be_served_is_refused(
    name: str, model: str, api_base: str | None, api_key_env: str | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        target_from_config(name, model=model, api_base=api_base, api_key_env=api_key_env, environ={"HOUSE_KEY": "hk"})


# -- options ------------------------------------------------------------------------------------------------------------


def test_options_within_their_ranges_are_let_through() -> None:
    catalog().check_options(
        {
            "temperature": 0,
            "top_p": 1.0,
            "top_k": 40,
            "seed": -1,
            "stop": "END",
            "presence_penalty": -2,
            "frequency_penalty": 2,
            "reasoning_effort": "high",
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": True,
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
            "user": "u",
            "verbosity": "low",
        }
    )


@pytest.mark.parametrize(
    "name",
    [
        "api_base",
        "api_key",
        "base_url",
        "headers",
        "extra_headers",
        "model",
        "messages",
        "n",
        "thinking",
        "Temperature",
        "",
    ],
)
def test_an_option_that_is_not_offered_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnknownOption) as raised:
        check_options({name: "x"})

    assert isinstance(raised.value, CreateFailed)
    assert "operator" in raised.value.message
    assert all(option in raised.value.message for option in OPTIONS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", None),
        ("top_p", -0.1),
        ("top_k", 0),
        ("top_k", 1.5),
        ("seed", 2**63),
        ("seed", False),
        ("stop", []),
        ("stop", ""),
        ("stop", ["a"] * 5),
        ("stop", [1]),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("reasoning_effort", "huge"),
        ("reasoning_effort", ["low"]),
        ("tool_choice", "any"),
        ("tool_choice", {"type": "function", "function": {}}),
        ("tool_choice", {"type": "function", "function": {"name": "f", "x": 1}}),
        ("parallel_tool_calls", 1),
        ("response_format", "json"),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "text", "x": 1}),
        ("user", 7),
        ("verbosity", "loud"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(name: str, value: JsonValue) -> None:
    with pytest.raises(BadRequest, match=f"providerOpts.{name} must be ") as raised:
        check_options({name: value})

    assert raised.value.details[0][0] == f"providerOpts.{name}"
