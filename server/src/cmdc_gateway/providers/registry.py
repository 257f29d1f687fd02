"""The models that sessions can use, by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from pydantic import JsonValue

from cmdc_gateway.errors import CreateFailed
from cmdc_gateway.providers.aliases import SCRIPTED, is_model_name, provider_of
from cmdc_gateway.providers.options import check_options
from cmdc_gateway.providers.plugin import ProviderPlugin
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.providers.vendors import prefix_of

# Clients choose the model names, so the cache must be bounded.
_CACHED_PROVIDERS = 256


class UnknownModel(CreateFailed):
    """No model of this name is available."""

    def __init__(self, name: str, reason: str, available: Sequence[str]) -> None:
        super().__init__(
            f"the model {name!r} is not available: {reason}; available models: {', '.join(available) or 'none'}"
        )
        self.name = name


class ModelRegistry:
    """Finds the provider of a model.

    `aliases` are the models that the operator configured by name; they take precedence over those of `plugins`. `retry`
    wraps every provider.
    """

    def __init__(
        self,
        *,
        aliases: Mapping[str, ModelTarget],
        plugins: Mapping[str, ProviderPlugin],
        retry: Callable[[ModelProvider], ModelProvider] = RetryingProvider,
    ) -> None:
        self._aliases = dict(aliases)
        self._plugins = plugins
        self._retry = retry
        self._providers: OrderedDict[str, ModelProvider] = OrderedDict()

    def find(self, name: str) -> ModelProvider:
        """The provider of a model. Raises `UnknownModel`."""
        if name in self._providers:
            self._providers.move_to_end(name)
            return self._providers[name]
        provider = self._providers[name] = self._retry(self._create(name))
        if len(self._providers) > _CACHED_PROVIDERS:
            self._providers.popitem(last=False)
        return provider

    def names(self) -> list[str]:
        """The available models: names, and patterns such as `openai:*`."""
        patterns = (f"{name}:*" for name, plugin in self._plugins.items() if plugin.unavailable() is None)
        return sorted({*self._aliases, *patterns})

    def check_options(self, options: Mapping[str, JsonValue]) -> None:
        """Validate the options for a model call. Raises `UnknownOption` or `BadRequest`."""
        check_options(options)

    async def close(self) -> None:
        """Close idle connections to models."""
        for plugin in self._plugins.values():
            await plugin.close()

    def _create(self, name: str) -> ModelProvider:
        if name in self._aliases:
            target = self._aliases[name]
            return self._plugins[provider_of(target)].create(target)
        provider, colon, model = name.partition(":")
        if not (colon and provider and model):
            raise self._unknown(name, "a model is named provider:model")
        plugin = self._plugins.get(provider)
        if plugin is None:
            raise self._unknown(name, f"this server has no provider {provider!r}")
        if (reason := plugin.unavailable()) is not None:
            raise self._unknown(name, reason)
        if provider != SCRIPTED and not is_model_name(model):
            raise self._unknown(name, f"{model[:100]!r} is not a valid model name")
        return plugin.create(ModelTarget(f"{prefix_of(provider)}/{model}"))

    def _unknown(self, name: str, reason: str) -> UnknownModel:
        return UnknownModel(name, reason, self.names())
