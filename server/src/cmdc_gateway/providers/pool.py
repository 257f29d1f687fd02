"""The one pool of connections to the models that are reached directly.

The HTTP client is loaded with the first of them: a gateway that has none need not carry it.
"""

from __future__ import annotations

import asyncio
import importlib
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import aiohttp

_CONNECT_SECONDS = 10.0
_KEPT_SECONDS = 30.0


class ConnectionPool:
    """Connections, kept for the next call. Of one event loop at a time; one that was closed can be used again."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, patience: float
    ) -> aiohttp.ClientResponse:
        """Send one request, and return when the head of its answer is there. Redirects are not followed.

        `patience` is how many seconds a connection may send nothing.
        """
        import aiohttp  # noqa: PLC0415

        return await self._opened().post(
            url,
            data=body,
            headers=headers,
            proxy=proxy_for(url),
            allow_redirects=False,  # what is sent is for nobody else
            timeout=aiohttp.ClientTimeout(sock_connect=min(patience, _CONNECT_SECONDS), sock_read=patience),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
            self._loop = loop
        return self._session


def load() -> None:
    """Do what the first call would wait for. Blocks."""
    importlib.import_module("aiohttp")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address: for https alone, and not where NO_PROXY says otherwise.

    A plain address is in the operator's own network, where a proxy has no business.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get("https")
