"""Provider plugins, found through the entry points of the group `cmdc_gateway.providers`.

An entry point's name is the provider in `provider:model`; its object creates a `ProviderPlugin` from a
`ProviderContext`, as a class with such a constructor does. The providers that come with the gateway are registered in
the same way, in its `pyproject.toml`. To add one, a package declares

    [project.entry-points."cmdc_gateway.providers"]
    acme = "cmdc_acme:AcmePlugin"

Operators then use `acme:large` as any other model, or give a model of it a name of their own in `[models]`, with
`model = "acme:large"` and, if needed, `api_base` and `api_key_env`. Entry points are loaded when the gateway starts, so
the module of a plugin should import expensive libraries in `ModelProvider.prepare`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from cmdc_gateway import extensions
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.target import ModelTarget


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """What a plugin is created with.

    `name` is the name of its entry point, `environ` the server's environment, which holds the credentials, and
    `timeout` the time in seconds that a connection may be silent.
    """

    name: str
    environ: Mapping[str, str]
    timeout: float = 600.0


class ProviderPlugin(Protocol):
    """Creates the providers of all models with one prefix. A gateway creates each plugin once."""

    def unavailable(self) -> str | None:
        """Why sessions cannot use `provider:model`, such as "ACME_API_KEY is not set on the server"; None if they can."""
        ...

    def create(self, target: ModelTarget) -> ModelProvider:
        """The provider of one model, without retries: the gateway adds those.

        `target.model` is `prefix/model`. `api_base` and `api_key` are None unless the operator configured them for this
        model; the plugin then uses its own.
        """
        ...

    async def close(self) -> None:
        """Close idle connections. They are opened again when a model is called."""
        ...


def load_plugins(
    environ: Mapping[str, str], *, timeout: float = 600.0, disabled: Collection[str] = ()
) -> dict[str, ProviderPlugin]:
    """The plugins of all installed packages by name, sorted, except those that are disabled."""
    plugins: dict[str, ProviderPlugin] = {}
    for name in provider_names():
        if name not in disabled:
            create = extensions.load("cmdc_gateway.providers", name)
            assert create is not None
            plugins[name] = create(ProviderContext(name, environ, timeout))
    return plugins


def provider_names() -> tuple[str, ...]:
    """The names of the installed providers, sorted. Imports none of them."""
    return extensions.names("cmdc_gateway.providers")
