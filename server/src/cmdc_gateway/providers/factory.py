"""Which way a model is reached: directly where it speaks OpenAI's chat format, by way of litellm where it does not."""

from __future__ import annotations

from cmdc_gateway.providers.direct import DirectProvider
from cmdc_gateway.providers.endpoints import endpoint
from cmdc_gateway.providers.pool import ConnectionPool
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.target import ModelTarget


class ProviderFactory:
    """Makes the provider for a target. `timeout` (seconds) is for a connection that sends nothing."""

    def __init__(self, *, timeout: float = 600.0) -> None:
        self._timeout = timeout
        self._pool = ConnectionPool()
        self._with_litellm = False

    def __call__(self, target: ModelTarget) -> ModelProvider:
        place = endpoint(target)
        if place is not None:
            return DirectProvider(target, place, self._pool, timeout=self._timeout)
        from cmdc_gateway.providers.litellm import LitellmProvider  # noqa: PLC0415 - most gateways need none of it

        self._with_litellm = True
        return LitellmProvider(target, timeout=self._timeout)

    async def close(self) -> None:
        """Close the connections that are kept open for the next call. They are made anew when one comes."""
        await self._pool.close()
        if self._with_litellm:
            from cmdc_gateway.providers.litellm import close_connections  # noqa: PLC0415

            await close_connections()
