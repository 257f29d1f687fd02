"""The client: where everything begins."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from cmdc_client import operations
from cmdc_client._async.sessions import AsyncSessions
from cmdc_client._async.transport import AsyncTransport
from cmdc_client.config import Config
from cmdc_client.models import Capabilities, Health, TenantUsage


class AsyncClient:
    """A connection to a gateway, with the key of one tenant.

    It is a context manager, at whose end the connections are closed; so they are by `await client.aclose()`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        patience: float = 60.0,
        silence: float = 60.0,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        """Without `base_url` and `api_key`, the environment's `CMDC_BASE_URL` and `CMDC_API_KEY` are used.

        Times are seconds. `timeout` bounds each step of a request, `max_retries` is how often one is tried again after
        a fault; at 0, nothing is. `patience` is how long a lost stream tries to come back without getting one event
        further, and how long a request waits its turn under a rate limit; `silence` is after how long a stream without
        even a heartbeat counts as lost.
        An `http_client` that is handed in is used as it is, and not closed. Raises ValueError.
        """
        config = Config.given(
            base_url, api_key, timeout=timeout, max_retries=max_retries, patience=patience, silence=silence
        )
        self._transport = AsyncTransport(config, http_client)
        self.sessions = AsyncSessions(self._transport)

    @property
    def base_url(self) -> str:
        return self._transport.config.base_url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.base_url}>"

    async def capabilities(self) -> Capabilities:
        """What this server can do, and its limits."""
        return await self._transport.call(operations.get_capabilities())

    async def health(self) -> Health:
        """Whether the server is alive; needs no key."""
        return await self._transport.call(operations.healthz())

    async def usage(self) -> TenantUsage:
        """What this tenant used, and each of its keys."""
        return await self._transport.call(operations.get_usage())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
