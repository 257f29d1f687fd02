"""Aliases: models that the operator configured under a name of their own, `[models."provider:name"]`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cmdc_gateway.providers.plugin import provider_names
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.providers.vendors import VENDOR_OF_PREFIX, VENDORS, prefix_of

SCRIPTED = "scripted"

# A model's name may become part of a URL, so it must not be able to change the path.
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._:@+-]*"
_MODEL_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_MAX_NAME = 256


def is_model_name(name: str) -> bool:
    """Whether this can be the model in `provider:model`."""
    return len(name) <= _MAX_NAME and _MODEL_NAME.fullmatch(name) is not None


def provider_of(target: ModelTarget) -> str:
    """The name of the provider that creates the model of this target."""
    return VENDOR_OF_PREFIX.get(target.prefix, target.prefix)


def target_from_config(
    name: str, *, model: str, api_base: str | None, api_key_env: str | None, environ: Mapping[str, str]
) -> ModelTarget:
    """The model that the configuration calls `name`.

    `model` is `provider:model`, `prefix/model` in litellm's syntax, or, with an `api_base`, the bare name that an
    OpenAI-compatible endpoint knows.

    Raises:
        ValueError: the entry is invalid; the message names it and says why.
    """
    _check_name(name)
    if not model:
        raise ValueError(f"the model {name!r}: model is empty")
    if api_base is not None and not re.match(r"https?://[^/\s]", api_base):
        raise ValueError(f"the model {name!r}: api_base must begin with http:// or https://, not {api_base!r}")
    if api_key_env is not None and not environ.get(api_key_env):
        raise ValueError(f"the model {name!r}: {api_key_env} is not set in the server's environment")
    target = ModelTarget(
        _prefixed(model) or (f"openai/{model}" if api_base is not None else ""),
        api_base=api_base,
        api_key=environ[api_key_env] if api_key_env is not None else None,
    )
    _check_target(name, model, target, environ)
    return target


def _check_name(name: str) -> None:
    provider, colon, rest = name.partition(":")
    if not (colon and provider and is_model_name(rest)):
        raise ValueError(f"the model {name!r} must be named provider:model")
    if provider == SCRIPTED:
        raise ValueError(f"the model {name!r}: names that begin with scripted: are reserved for the scripted model")


def _prefixed(model: str) -> str | None:
    """The model as `prefix/model`; None if it names no provider."""
    provider, colon, rest = model.partition(":")
    if colon and rest and provider in _providers():
        return f"{prefix_of(provider)}/{rest}"
    prefix, slash, rest = model.partition("/")
    return model if slash and rest and (prefix in VENDOR_OF_PREFIX or prefix in _providers()) else None


def _providers() -> list[str]:
    """The providers that an alias can name: all but the scripted model."""
    return [name for name in provider_names() if name != SCRIPTED]


def _check_target(name: str, model: str, target: ModelTarget, environ: Mapping[str, str]) -> None:
    if not target.model:
        raise ValueError(
            f"the model {name!r}: {model!r} names no known provider and has no api_base; "
            f"known providers: {', '.join(_providers())}"
        )
    vendor = VENDORS.get(VENDOR_OF_PREFIX.get(target.prefix, ""))
    missing = vendor.missing_variable(environ) if vendor is not None and target.api_base is None else None
    if vendor is not None and missing is not None and (target.api_key is None or missing == vendor.base_variable):
        raise ValueError(f"the model {name!r}: {missing} is not set in the server's environment")
