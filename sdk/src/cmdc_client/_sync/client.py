# Generated from _async/client.py by derive_sync.py; edit that file instead.
"""The client, which is the entry point of the package."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from cmdc_client import operations
from cmdc_client._sync.sessions import Sessions
from cmdc_client._sync.transport import Transport
from cmdc_client.config import Config
from cmdc_client.models import Capabilities, Health, TenantUsage


class Client:
    """A client of one gateway, with one API key.

    Use it as a context manager, or call `client.close()`, to close its connections. `sessions` creates, finds
    and lists sessions. Every method that sends a request raises ApiError, ProtocolError or ConnectionFailed.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        reconnect_timeout: float = 60.0,
        idle_timeout: float = 60.0,
        http_client: httpx.Client | None = None,
    ) -> None:
        """Create a client. Times are in seconds.

        Args:
            base_url: The URL of the gateway. By default the environment variable `CMDC_BASE_URL`, or
                `http://127.0.0.1:4000`.
            api_key: The API key. By default the environment variable `CMDC_API_KEY`.
            timeout: The limit for each step of a request: connecting, sending, and each read of the response.
            max_retries: How often a request is retried after a failure; 0 disables retries.
            reconnect_timeout: How long a lost stream is reconnected without receiving an event, and how long a request
                waits for a rate limit.
            idle_timeout: The time without any data, heartbeats included, after which a stream counts as lost.
            http_client: Your own httpx client, for proxies or certificates. It is used as it is, and not closed.

        Raises:
            ValueError: The URL or the key is invalid.
        """
        config = Config.resolve(
            base_url,
            api_key,
            timeout=timeout,
            max_retries=max_retries,
            reconnect_timeout=reconnect_timeout,
            idle_timeout=idle_timeout,
        )
        self._transport = Transport(config, http_client)
        self.sessions = Sessions(self._transport)

    @property
    def base_url(self) -> str:
        """The URL of the gateway, without a trailing slash."""
        return self._transport.config.base_url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.base_url}>"

    def capabilities(self) -> Capabilities:
        """Get the features and the limits of the server."""
        return self._transport.send(operations.get_capabilities())

    def health(self) -> Health:
        """Get the health of the server. Needs no API key."""
        return self._transport.send(operations.healthz())

    def usage(self) -> TenantUsage:
        """Get the usage of the tenant, in total and per API key."""
        return self._transport.send(operations.get_usage())

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
