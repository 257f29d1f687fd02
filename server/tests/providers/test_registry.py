"""Which models are available, and with which options."""

from __future__ import annotations

import pytest
from cmdc_gateway.errors import BadRequest, CreateFailed
from cmdc_gateway.providers.aliases import target_from_config
from cmdc_gateway.providers.options import OPTIONS, UnknownOption, check_options
from cmdc_gateway.providers.plugin import load_plugins
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.registry import ModelRegistry, UnknownModel
from cmdc_gateway.providers.scripted.provider import ScriptedProvider
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.providers.vendors import VENDORS
from pydantic import JsonValue

ALIAS = ModelTarget("openai/house", "http://127.0.0.1:1/v1", "none")


class RecordingPlugin:
    """Records the targets for which a provider is created."""

    def __init__(self) -> None:
        self.targets: list[ModelTarget] = []
        self.closed = False

    def unavailable(self) -> str | None:
        return None

    def create(self, target: ModelTarget) -> ModelProvider:
        self.targets.append(target)
        return ScriptedProvider()

    async def close(self) -> None:
        self.closed = True


def registry(environ: dict[str, str] | None = None, *, disabled: tuple[str, ...] = ()) -> ModelRegistry:
    return ModelRegistry(aliases={"house:small": ALIAS}, plugins=load_plugins(environ or {}, disabled=disabled))


# -- names --------------------------------------------------------------------------------------------------------------


def test_the_configuration_and_the_credentials_determine_the_available_models() -> None:
    assert registry().names() == ["house:small", "scripted:*"]
    assert registry(disabled=("scripted",)).names() == ["house:small"]
    assert registry({"OPENAI_API_KEY": "k", "GOOGLE_API_KEY": "k", "DEEPSEEK_API_KEY": ""}).names() == [
        "gemini:*",
        "house:small",
        "openai:*",
        "scripted:*",
    ]


def test_the_provider_of_a_model_is_created_once() -> None:
    openai, ollama = RecordingPlugin(), RecordingPlugin()
    models = ModelRegistry(aliases={"house:small": ALIAS}, plugins={"openai": openai, "ollama": ollama})

    for name in ("house:small", "openai:gpt-4o", "ollama:llama3:8b", "openai:gpt-4o"):
        assert models.find(name) is models.find(name)

    assert openai.targets == [ALIAS, ModelTarget("openai/gpt-4o")]
    assert ollama.targets == [ModelTarget("ollama_chat/llama3:8b")]


def test_all_scripted_models_share_a_provider() -> None:
    scripted = load_plugins({})["scripted"]

    assert scripted.create(ModelTarget("scripted/a")) is scripted.create(ModelTarget("scripted/b:c"))


@pytest.mark.parametrize("name", ["scripted:a", "scripted:b:c", "scripted:any name?", "scripted:" + "x" * 300])
def test_a_scripted_model_may_have_any_name(name: str) -> None:
    assert registry().find(name) is not None


def test_the_number_of_cached_providers_is_bounded() -> None:
    openai = RecordingPlugin()
    models = ModelRegistry(aliases={}, plugins={"openai": openai})

    for n in range(300):
        models.find(f"openai:m{n}")
    models.find("openai:m299")
    models.find("openai:m0")

    assert len(openai.targets) == 301


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "a model is named provider:model"),
        ("gpt-4o", "a model is named provider:model"),
        (":x", "a model is named provider:model"),
        ("openai:", "a model is named provider:model"),
        ("scripted:", "a model is named provider:model"),
        ("house:large", "this server has no provider 'house'"),
        ("nobody:x", "this server has no provider 'nobody'"),
        ("anthropic:claude", "ANTHROPIC_API_KEY is not set on the server"),
        ("azure:x", "AZURE_API_BASE is not set on the server"),
        ("bedrock:x", "the operator must configure each of its models in [models]"),
        ("openai:../../etc", "'../../etc' is not a valid model name"),
        ("openai:a//b", "'a//b' is not a valid model name"),
        ("openai:a b", "'a b' is not a valid model name"),
        ("openai:a?b", "'a?b' is not a valid model name"),
        ("openai:" + "x" * 300, f"'{'x' * 100}' is not a valid model name"),
    ],
)
def test_an_unknown_model_is_an_error_that_lists_the_available_models(name: str, reason: str) -> None:
    with pytest.raises(UnknownModel) as raised:
        registry({"OPENAI_API_KEY": "k"}).find(name)

    assert isinstance(raised.value, CreateFailed)
    available = "available models: house:small, openai:*, scripted:*"
    assert raised.value.message == f"the model {name!r} is not available: {reason}; {available}"


def test_an_operator_can_disable_the_scripted_model() -> None:
    with pytest.raises(UnknownModel, match="no provider 'scripted'"):
        registry(disabled=("scripted",)).find("scripted:a")


def test_an_alias_takes_precedence_over_a_hosted_model() -> None:
    openai = RecordingPlugin()

    ModelRegistry(aliases={"openai:gpt-4o": ALIAS}, plugins={"openai": openai}).find("openai:gpt-4o")

    assert openai.targets == [ALIAS]


async def test_closing_the_registry_closes_the_plugins() -> None:
    openai = RecordingPlugin()

    await ModelRegistry(aliases={}, plugins={"openai": openai}).close()

    assert openai.closed


# -- credentials --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "target", "resolved"),
    [
        ("openai", ModelTarget("openai/m"), ModelTarget("openai/m", None, "env-key")),
        ("openai", ModelTarget("openai/m", None, "own-key"), ModelTarget("openai/m", None, "own-key")),
        ("ollama", ModelTarget("ollama_chat/m"), ModelTarget("ollama_chat/m", "http://env")),
        (
            "openai",
            ModelTarget("openai/m", "http://h/v1", "own-key"),
            ModelTarget("openai/m", "http://h/v1", "own-key"),
        ),
        # The provider's key does not go to a server of the operator's.
        ("openai", ModelTarget("openai/m", "http://h/v1"), ModelTarget("openai/m", "http://h/v1", "none")),
    ],
)
def test_a_target_is_completed_from_the_environment(vendor: str, target: ModelTarget, resolved: ModelTarget) -> None:
    environ = {"OPENAI_API_KEY": "env-key", "OLLAMA_API_BASE": "http://env"}

    assert VENDORS[vendor].resolve(target, environ) == resolved


# -- aliases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "api_base", "api_key_env", "target"),
    [
        ("house", "http://h/v1", None, ModelTarget("openai/house", "http://h/v1")),
        ("house", "http://h/v1", "HOUSE_KEY", ModelTarget("openai/house", "http://h/v1", "hk")),
        ("org/house-1b", "https://h/v1", None, ModelTarget("openai/org/house-1b", "https://h/v1")),
        ("openai/house", "http://h/v1", None, ModelTarget("openai/house", "http://h/v1")),
        ("openai:house", "http://h/v1", None, ModelTarget("openai/house", "http://h/v1")),
        ("llama3:8b", "http://h/v1", None, ModelTarget("openai/llama3:8b", "http://h/v1")),
        ("ollama:llama3:8b", "http://h", None, ModelTarget("ollama_chat/llama3:8b", "http://h")),
        ("hosted_vllm/org/m", "http://h/v1", None, ModelTarget("hosted_vllm/org/m", "http://h/v1")),
        ("deepseek:deepseek-chat", None, None, ModelTarget("deepseek/deepseek-chat")),
        ("deepseek/deepseek-chat", None, "HOUSE_KEY", ModelTarget("deepseek/deepseek-chat", None, "hk")),
        ("openai:gpt-4o", None, "HOUSE_KEY", ModelTarget("openai/gpt-4o", None, "hk")),
        ("bedrock/some.model-v1:0", None, None, ModelTarget("bedrock/some.model-v1:0")),
    ],
)
def test_an_alias_is_resolved_to_a_target(
    model: str, api_base: str | None, api_key_env: str | None, target: ModelTarget
) -> None:
    environ = {"HOUSE_KEY": "hk", "DEEPSEEK_API_KEY": "dk"}

    resolved = target_from_config("my:model", model=model, api_base=api_base, api_key_env=api_key_env, environ=environ)

    assert resolved == target


@pytest.mark.parametrize(
    ("name", "model", "api_base", "api_key_env", "reason"),
    [
        ("mymodel", "house", "http://h/v1", None, "must be named provider:model"),
        ("my:", "house", "http://h/v1", None, "must be named provider:model"),
        ("scripted:x", "house", "http://h/v1", None, "reserved for the scripted model"),
        ("my:model", "", "http://h/v1", None, "model is empty"),
        ("my:model", "house", "h/v1", None, "api_base must begin with"),
        ("my:model", "house", "file:///etc", None, "api_base must begin with"),
        ("my:model", "house", "http://h/v1", "NOT_SET", "NOT_SET is not set"),
        ("my:model", "house", None, None, "names no known provider"),
        ("my:model", "nobody/house", None, None, "names no known provider"),
        ("my:model", "scripted:x", None, None, "names no known provider"),
        ("my:model", "openai:gpt-4o", None, None, "OPENAI_API_KEY is not set"),
        ("my:model", "azure:dep", None, "HOUSE_KEY", "AZURE_API_BASE is not set"),
    ],
)
def test_an_invalid_alias_is_rejected(
    name: str, model: str, api_base: str | None, api_key_env: str | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        target_from_config(name, model=model, api_base=api_base, api_key_env=api_key_env, environ={"HOUSE_KEY": "hk"})


# -- options ------------------------------------------------------------------------------------------------------------


def test_options_within_their_ranges_are_accepted() -> None:
    registry().check_options(
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
def test_an_unknown_option_is_rejected_with_the_available_options(name: str) -> None:
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
def test_a_value_out_of_range_is_rejected_with_the_name_of_the_option(name: str, value: JsonValue) -> None:
    with pytest.raises(BadRequest, match=f"providerOpts.{name} must be ") as raised:
        check_options({name: value})

    assert raised.value.details[0][0] == f"providerOpts.{name}"
