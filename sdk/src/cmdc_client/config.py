"""The configuration of a client, from its arguments and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:4000"


@dataclass(frozen=True, slots=True)
class Config:
    """Where the server is, and the limits for requests and streams. Times are in seconds.

    `timeout` limits each step of a request: connecting, sending, and each read of the response. `max_retries` limits how
    often a request is retried after a failure. `reconnect_timeout` limits how long a lost stream is reconnected without
    receiving an event, and how long a request waits for a rate limit. `idle_timeout` is the time without any data,
    heartbeats included, after which a stream counts as lost.
    """

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: float = 30.0
    max_retries: int = 4
    reconnect_timeout: float = 60.0
    idle_timeout: float = 60.0

    @classmethod
    def resolve(
        cls,
        base_url: str | None,
        api_key: str | None,
        *,
        timeout: float,
        max_retries: int,
        reconnect_timeout: float,
        idle_timeout: float,
        environ: Mapping[str, str] = os.environ,
    ) -> Config:
        """Build the configuration; `CMDC_BASE_URL` and `CMDC_API_KEY` replace arguments that are None.

        Raises ValueError if the URL or the key is invalid. The message repeats neither of them.
        """
        return cls(
            _checked_url(base_url or environ.get("CMDC_BASE_URL") or DEFAULT_URL),
            _checked_key(api_key or environ.get("CMDC_API_KEY") or None),
            timeout=timeout,
            max_retries=max_retries,
            reconnect_timeout=reconnect_timeout,
            idle_timeout=idle_timeout,
        )

    @property
    def credentials(self) -> dict[str, str]:
        """The headers that authenticate a request."""
        return {"X-API-Key": self.api_key} if self.api_key is not None else {}

    @property
    def websocket_url(self) -> str:
        """The base URL with the scheme `ws` or `wss`."""
        return "ws" + self.base_url.removeprefix("http")


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("base_url must be a valid URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url must begin with http:// or https:// and contain a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("base_url must not contain credentials, a query or a fragment")
    return parts.geturl().rstrip("/")  # `geturl` lowercases the scheme, on which `websocket_url` relies


def _checked_key(key: str | None) -> str | None:
    if key is not None and not all("!" <= character <= "~" for character in key):
        raise ValueError("api_key contains characters that are not allowed in a header")
    return key
