"""The hosted providers that are known by name, and what an operator has to set for each.

A provider is served when its credential is in the server's environment. Everybody else is reached by an alias in the
configuration, for which `target_from_config` finds the address and the credential.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cmdc_gateway.providers.target import ModelTarget

# A model's name may become part of an address: nothing in it may lead elsewhere.
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._:@+-]*"
_MODEL = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_LONGEST_NAME = 256
# Endpoints that ask for no key are still called with one by the client library.
_NO_KEY = "none"


@dataclass(frozen=True, slots=True)
class Hosted:
    """A provider: its prefix in litellm's syntax, the variables that may hold its key, and one that holds its address.

    One of `keys` must be set, and `base` where there is one.
    """

    prefix: str
    keys: tuple[str, ...] = ()
    base: str | None = None

    def missing(self, environ: Mapping[str, str]) -> str | None:
        """The variable that would have to be set for this provider to be served, if there is one."""
        if self.base is not None and not environ.get(self.base):
            return self.base
        return self.keys[0] if self.keys and self.key(environ) is None else None

    def key(self, environ: Mapping[str, str]) -> str | None:
        return next((environ[name] for name in self.keys if environ.get(name)), None)

    def target(self, model: str, environ: Mapping[str, str]) -> ModelTarget:
        base = environ[self.base] if self.base is not None else None
        return ModelTarget(f"{self.prefix}/{model}", api_base=base, api_key=self.key(environ))


HOSTED: Mapping[str, Hosted] = {
    "anthropic": Hosted("anthropic", ("ANTHROPIC_API_KEY",)),
    "azure": Hosted("azure", ("AZURE_API_KEY",), base="AZURE_API_BASE"),
    "azure_ai": Hosted("azure_ai", ("AZURE_AI_API_KEY",), base="AZURE_AI_API_BASE"),
    "cerebras": Hosted("cerebras", ("CEREBRAS_API_KEY",)),
    "cohere": Hosted("cohere_chat", ("COHERE_API_KEY", "CO_API_KEY")),
    "dashscope": Hosted("dashscope", ("DASHSCOPE_API_KEY",)),
    "deepinfra": Hosted("deepinfra", ("DEEPINFRA_API_KEY",)),
    "deepseek": Hosted("deepseek", ("DEEPSEEK_API_KEY",)),
    "fireworks_ai": Hosted("fireworks_ai", ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY")),
    "gemini": Hosted("gemini", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    "groq": Hosted("groq", ("GROQ_API_KEY",)),
    "minimax": Hosted("minimax", ("MINIMAX_API_KEY",)),
    "mistral": Hosted("mistral", ("MISTRAL_API_KEY",)),
    "moonshot": Hosted("moonshot", ("MOONSHOT_API_KEY",)),
    "nebius": Hosted("nebius", ("NEBIUS_API_KEY",)),
    "nvidia_nim": Hosted("nvidia_nim", ("NVIDIA_NIM_API_KEY",)),
    "ollama": Hosted("ollama_chat", base="OLLAMA_API_BASE"),
    "openai": Hosted("openai", ("OPENAI_API_KEY",)),
    "openrouter": Hosted("openrouter", ("OPENROUTER_API_KEY",)),
    "perplexity": Hosted("perplexity", ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY")),
    "sambanova": Hosted("sambanova", ("SAMBANOVA_API_KEY",)),
    "together_ai": Hosted("together_ai", ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY")),
    "xai": Hosted("xai", ("XAI_API_KEY",)),
    "zai": Hosted("zai", ("ZAI_API_KEY",)),
}

# Of litellm's other prefixes, those that an alias may name: they find their credentials in ways of their own.
_OTHER_PREFIXES = frozenset({"bedrock", "databricks", "hosted_vllm", "huggingface", "lm_studio", "ollama", "vertex_ai"})
_PREFIXES = {provider.prefix: provider for provider in HOSTED.values()}


def is_model_name(name: str) -> bool:
    """True for what can be the model in `provider:model`."""
    return len(name) <= _LONGEST_NAME and _MODEL.fullmatch(name) is not None


def target_from_config(
    name: str, *, model: str, api_base: str | None, api_key_env: str | None, environ: Mapping[str, str]
) -> ModelTarget:
    """Where the model is that the configuration calls `name`.

    `model` is written as `provider:model` or in litellm's syntax. With an `api_base` it may be the bare name that an
    OpenAI-compatible endpoint knows.

    Raises:
        ValueError: the entry cannot be served; the sentence names it and says why.
    """
    provider, colon, rest = name.partition(":")
    if not (colon and provider and is_model_name(rest)):
        raise ValueError(f"the model {name!r} must be named provider:model")
    if provider == "scripted":
        raise ValueError(f"the model {name!r}: names that begin with scripted: are the scripted model's")
    if not model:
        raise ValueError(f"the model {name!r}: model is empty")
    if api_base is not None and not re.match(r"https?://[^/\s]", api_base):
        raise ValueError(f"the model {name!r}: api_base must begin with http:// or https://")
    if api_key_env is not None and not environ.get(api_key_env):
        raise ValueError(f"the model {name!r}: {api_key_env} is not set in the server's environment")
    key = environ[api_key_env] if api_key_env is not None else None
    prefix, known_model = _with_prefix(model, has_address=api_base is not None)
    if prefix is None:
        offered = ", ".join(sorted(HOSTED))
        raise ValueError(f"the model {name!r}: {model!r} names no known provider and has no api_base; known: {offered}")
    if api_base is not None:
        return ModelTarget(f"{prefix}/{known_model}", api_base=api_base, api_key=key or _NO_KEY)
    hosted = _PREFIXES.get(prefix)
    if hosted is None:
        return ModelTarget(f"{prefix}/{known_model}", api_key=key)
    missing = hosted.missing(environ)
    if missing is not None and (key is None or missing == hosted.base):
        raise ValueError(f"the model {name!r}: {missing} is not set in the server's environment")
    target = hosted.target(known_model, environ)
    return ModelTarget(target.model, api_base=target.api_base, api_key=key or target.api_key)


def _with_prefix(model: str, *, has_address: bool) -> tuple[str | None, str]:
    """The provider that a model names, as litellm's prefix for it, and what remains of the name."""
    provider, colon, rest = model.partition(":")
    if colon and rest and provider in HOSTED:
        return HOSTED[provider].prefix, rest
    prefix, slash, rest = model.partition("/")
    if slash and rest and (prefix in _PREFIXES or prefix in _OTHER_PREFIXES):
        return prefix, rest
    return ("openai" if has_address else None), model
