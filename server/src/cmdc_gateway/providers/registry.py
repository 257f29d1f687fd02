"""The models that this server serves, by the names that sessions know them by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from cmdc_gateway.errors import CreateFailed
from cmdc_gateway.providers.factory import ProviderFactory
from cmdc_gateway.providers.hosted import HOSTED, is_model_name
from cmdc_gateway.providers.options import check_options
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.providers.scripted import ScriptedProvider
from cmdc_gateway.providers.target import ModelTarget

SCRIPTED = "scripted"

# A hosted provider has any number of models, and a caller may make up more.
_REMEMBERED = 256


class UnknownModel(CreateFailed):
    """The server does not serve a model of this name."""

    def __init__(self, name: str, why: str, offered: list[str]) -> None:
        super().__init__(f"the model {name!r} is not served: {why}; offered: {', '.join(offered) or 'none'}")
        self.name = name


class ModelRegistry:
    """Which models are served, and the one provider for each.

    `aliases` are the names in the configuration. `environ` holds the credentials of the hosted providers; one without
    is not served. `scripted` says whether the scripted model is. `reach` makes the provider for a target, and `retry`
    surrounds every provider: both are there to be replaced.
    """

    def __init__(
        self,
        *,
        aliases: Mapping[str, ModelTarget],
        environ: Mapping[str, str],
        scripted: bool = True,
        factory: Callable[[ModelTarget], ModelProvider] | None = None,
        retry: Callable[[ModelProvider], ModelProvider] = RetryingProvider,
    ) -> None:
        self._aliases = dict(aliases)
        self._environ = environ
        self._factory = factory or ProviderFactory()
        self._retry = retry
        # One for all its names: it counts tries.
        self._scripted = retry(ScriptedProvider()) if scripted else None
        self._found: OrderedDict[str, ModelProvider] = OrderedDict()

    def find(self, name: str) -> ModelProvider:
        """The provider of a model. Raises `UnknownModel`."""
        if name in self._found:
            self._found.move_to_end(name)
            return self._found[name]
        provider, colon, model = name.partition(":")
        if name not in self._aliases:
            if not (colon and provider and model):
                raise self._unknown(name, "a model is named provider:model")
            if provider == SCRIPTED and self._scripted is not None:
                return self._scripted
        found = self._found[name] = self._retry(self._factory(self._target(name, provider, model)))
        if len(self._found) > _REMEMBERED:
            self._found.popitem(last=False)
        return found

    def names(self) -> list[str]:
        """What is offered: names, and patterns such as `openai:*`."""
        hosted = [f"{name}:*" for name, provider in HOSTED.items() if provider.missing(self._environ) is None]
        return [*([f"{SCRIPTED}:*"] if self._scripted else []), *sorted(self._aliases), *hosted]

    def check_options(self, options: Mapping[str, JsonValue]) -> None:
        """Refuse options for a model call that are not offered. Raises `UnknownOption`, `BadRequest`."""
        check_options(options)

    async def close(self) -> None:
        """Close the connections that are kept open for the next call."""
        if isinstance(self._factory, ProviderFactory):
            await self._factory.close()

    def _target(self, name: str, provider: str, model: str) -> ModelTarget:
        if name in self._aliases:
            return self._aliases[name]
        hosted = HOSTED.get(provider)
        if hosted is None:
            raise self._unknown(name, f"there is no provider {provider!r} here")
        if (variable := hosted.missing(self._environ)) is not None:
            raise self._unknown(name, f"{variable} is not set on the server")
        if not is_model_name(model):
            raise self._unknown(name, "this is not the name of a model")
        return hosted.target(model, self._environ)

    def _unknown(self, name: str, why: str) -> UnknownModel:
        return UnknownModel(name, why, self.names())
