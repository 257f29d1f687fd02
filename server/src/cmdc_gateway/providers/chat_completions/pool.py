"""HTTP connections to model endpoints.

aiohttp is imported with the first request, because many gateways never send one.
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
_KEEP_ALIVE_SECONDS = 30.0


class ConnectionPool:
    """A pool of connections for one event loop at a time. It can be used again after `close`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, idle_timeout: float
    ) -> aiohttp.ClientResponse:
        """Send a request, and return once the response's headers have arrived.

        `idle_timeout` is how many seconds the connection may be silent. Redirects are not followed, because they would send
        the prompt and the key elsewhere.
        """
        import aiohttp  # noqa: PLC0415

        return await self._open_session().post(
            url,
            data=body,
            headers=headers,
            proxy=proxy_for(url),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(sock_connect=min(idle_timeout, _CONNECT_SECONDS), sock_read=idle_timeout),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
            self._loop = loop
        return self._session


def import_client() -> None:
    """Import the HTTP client ahead of the first request. Blocks."""
    importlib.import_module("aiohttp")


def proxy_for(url: str) -> str | None:
    """The proxy from the environment (`HTTPS_PROXY`, `NO_PROXY`) for an https URL; None for any other URL.

    Plain http is for servers in the operator's own network, which a proxy may not reach.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get("https")
