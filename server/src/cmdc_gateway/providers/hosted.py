"""The plugin of every provider in `vendors.py`, and of those that only an alias in the configuration can name.

An endpoint that implements OpenAI's Chat Completions API is called directly. Everything else goes through litellm, which
is imported when the first such model is called.
"""

from __future__ import annotations

from typing import Final

from cmdc_gateway.providers.chat_completions.endpoints import find_endpoint
from cmdc_gateway.providers.chat_completions.pool import ConnectionPool
from cmdc_gateway.providers.chat_completions.provider import ChatCompletionsProvider
from cmdc_gateway.providers.plugin import ProviderContext
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.providers.vendors import VENDORS, Vendor

ALIAS_ONLY: Final = frozenset({"bedrock", "databricks", "hosted_vllm", "huggingface", "lm_studio", "vertex_ai"})
"""Prefixes of litellm that need more than a key. Only an alias can name them; litellm reads their other settings."""


class HostedModels:
    """The models of one provider."""

    def __init__(self, context: ProviderContext) -> None:
        self._environ = context.environ
        self._timeout = context.timeout
        self._vendor = VENDORS.get(context.name) or Vendor(context.name)
        self._alias_only = context.name in ALIAS_ONLY
        self._pool = ConnectionPool()
        self._uses_litellm = False

    def unavailable(self) -> str | None:
        if self._alias_only:
            return "the operator must configure each of its models in [models]"
        variable = self._vendor.missing_variable(self._environ)
        return f"{variable} is not set on the server" if variable is not None else None

    def create(self, target: ModelTarget) -> ModelProvider:
        target = self._vendor.resolve(target, self._environ)
        endpoint = find_endpoint(target)
        if endpoint is not None:
            return ChatCompletionsProvider(target, endpoint, self._pool, timeout=self._timeout)
        from cmdc_gateway.providers.litellm.provider import LitellmProvider  # noqa: PLC0415 - imports httpx

        self._uses_litellm = True
        return LitellmProvider(target, timeout=self._timeout)

    async def close(self) -> None:
        await self._pool.close()
        if self._uses_litellm:
            from cmdc_gateway.providers.litellm.library import close_connections  # noqa: PLC0415

            await close_connections()
