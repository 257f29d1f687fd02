"""The hosted providers that the gateway knows by name, and the environment variables that enable each.

To add one, add a line to `VENDORS` and an entry point to `pyproject.toml`. Any other endpoint can be used
through an alias in the configuration (`aliases.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cmdc_gateway.providers.target import ModelTarget

# litellm's client library requires a key even for endpoints that do not.
_NO_KEY = "none"


@dataclass(frozen=True, slots=True)
class Vendor:
    """A provider: its prefix in litellm's syntax, and the variables that hold its key and its base URL.

    One of `key_variables` must be set, and `base_variable` if there is one.
    """

    prefix: str
    key_variables: tuple[str, ...] = ()
    base_variable: str | None = None

    def missing_variable(self, environ: Mapping[str, str]) -> str | None:
        """The first variable that must be set to enable this provider; None if it is enabled."""
        if self.base_variable is not None and not environ.get(self.base_variable):
            return self.base_variable
        return self.key_variables[0] if self.key_variables and self.key(environ) is None else None

    def key(self, environ: Mapping[str, str]) -> str | None:
        """The provider's API key; None if no variable for it is set."""
        return next((environ[name] for name in self.key_variables if environ.get(name)), None)

    def resolve(self, target: ModelTarget, environ: Mapping[str, str]) -> ModelTarget:
        """The target with the base URL and the key that a call uses.

        The provider's own key is never sent to a base URL that the operator configured for this model.
        """
        if target.api_base is not None:
            return replace(target, api_key=target.api_key or _NO_KEY)
        base = environ.get(self.base_variable) if self.base_variable is not None else None
        return replace(target, api_base=base, api_key=target.api_key or self.key(environ))


VENDORS: Mapping[str, Vendor] = {
    "anthropic": Vendor("anthropic", ("ANTHROPIC_API_KEY",)),
    "azure": Vendor("azure", ("AZURE_API_KEY",), base_variable="AZURE_API_BASE"),
    "azure_ai": Vendor("azure_ai", ("AZURE_AI_API_KEY",), base_variable="AZURE_AI_API_BASE"),
    "cerebras": Vendor("cerebras", ("CEREBRAS_API_KEY",)),
    "cohere": Vendor("cohere_chat", ("COHERE_API_KEY", "CO_API_KEY")),
    "dashscope": Vendor("dashscope", ("DASHSCOPE_API_KEY",)),
    "deepinfra": Vendor("deepinfra", ("DEEPINFRA_API_KEY",)),
    "deepseek": Vendor("deepseek", ("DEEPSEEK_API_KEY",)),
    "fireworks_ai": Vendor("fireworks_ai", ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY")),
    "gemini": Vendor("gemini", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    "groq": Vendor("groq", ("GROQ_API_KEY",)),
    "minimax": Vendor("minimax", ("MINIMAX_API_KEY",)),
    "mistral": Vendor("mistral", ("MISTRAL_API_KEY",)),
    "moonshot": Vendor("moonshot", ("MOONSHOT_API_KEY",)),
    "nebius": Vendor("nebius", ("NEBIUS_API_KEY",)),
    "nvidia_nim": Vendor("nvidia_nim", ("NVIDIA_NIM_API_KEY",)),
    "ollama": Vendor("ollama_chat", base_variable="OLLAMA_API_BASE"),
    "openai": Vendor("openai", ("OPENAI_API_KEY",)),
    "openrouter": Vendor("openrouter", ("OPENROUTER_API_KEY",)),
    "perplexity": Vendor("perplexity", ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY")),
    "sambanova": Vendor("sambanova", ("SAMBANOVA_API_KEY",)),
    "together_ai": Vendor("together_ai", ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY")),
    "xai": Vendor("xai", ("XAI_API_KEY",)),
    "zai": Vendor("zai", ("ZAI_API_KEY",)),
}

VENDOR_OF_PREFIX: Mapping[str, str] = {vendor.prefix: name for name, vendor in VENDORS.items()}
"""The names of the vendors by their prefixes in litellm's syntax."""


def prefix_of(provider: str) -> str:
    """The prefix of a provider's models in a `ModelTarget`."""
    return VENDORS[provider].prefix if provider in VENDORS else provider
