"""What a client is set up with: arguments first, then the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:4000"


@dataclass(frozen=True, slots=True)
class Config:
    """Where the server is, and how long to bear with it. Times are seconds.

    `timeout` bounds each step of a request: connecting, sending, and each wait for a part of the answer. `max_retries`
    is how often one request is tried again after a fault; at 0, nothing is tried again. `patience` is how long a lost
    stream tries to come back without getting one event further, and how long a request waits its turn under a rate
    limit. `silence` is after how long a stream without
    even a heartbeat counts as lost.
    """

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: float = 30.0
    max_retries: int = 4
    patience: float = 60.0
    silence: float = 60.0

    @classmethod
    def given(
        cls,
        base_url: str | None,
        api_key: str | None,
        *,
        timeout: float,
        max_retries: int,
        patience: float,
        silence: float,
        environ: Mapping[str, str] = os.environ,
    ) -> Config:
        """The arguments, with `CMDC_BASE_URL` and `CMDC_API_KEY` where they are None. Raises ValueError."""
        return cls(
            _checked_url(base_url or environ.get("CMDC_BASE_URL") or DEFAULT_URL),
            _checked_key(api_key or environ.get("CMDC_API_KEY") or None),
            timeout=timeout,
            max_retries=max_retries,
            patience=patience,
            silence=silence,
        )

    @property
    def credentials(self) -> dict[str, str]:
        return {"X-API-Key": self.api_key} if self.api_key is not None else {}

    @property
    def socket_url(self) -> str:
        """The base URL, for WebSockets."""
        return "ws" + self.base_url.removeprefix("http")


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("base_url must be an address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("base_url must hold neither credentials nor a query nor a fragment")
    return parts.geturl().rstrip("/")  # with its scheme in lower case


def _checked_key(key: str | None) -> str | None:
    if key is not None and not all("!" <= character <= "~" for character in key):
        raise ValueError("api_key holds characters that cannot be sent in a header")
    return key
