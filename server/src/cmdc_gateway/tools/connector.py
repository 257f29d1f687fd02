"""Connections to callbacks: resolved once, judged, and made to the judged address itself (CB-5).

Since no name is resolved a second time, a name server that answers differently the second time gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import httpcore

from cmdc_gateway.tools.addresses import AddressPolicy
from cmdc_gateway.tools.url import CallbackUrl

CONNECT_SECONDS: Final = 5.0
MAX_ADDRESSES: Final = 4

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and a port to addresses. Raises OSError."""

Connect = Callable[[str, int], Awaitable[httpcore.AsyncNetworkStream]]
"""From an address, never a name, and a port to a connection."""


class NotConnected(Exception):
    """There is no connection, so nothing was sent; the sentence says why. `forbidden` will not change by waiting."""

    def __init__(self, sentence: str, *, forbidden: bool = False) -> None:
        super().__init__(sentence)
        self.forbidden = forbidden


class Connector:
    """Makes connections that the policy allows."""

    def __init__(self, policy: AddressPolicy, resolve: Resolve, connect: Connect) -> None:
        self._policy = policy
        self._resolve = resolve
        self._connect = connect
        self._tls: ssl.SSLContext | None = None
        self.connections = 0
        self.refusals = 0

    async def connect(self, url: CallbackUrl) -> httpcore.AsyncNetworkStream:
        """Connect, with TLS for https. Raises `NotConnected`."""
        stream = await self._first_that_answers(await self._addresses(url), url.port)
        self.connections += 1
        if url.scheme == "http":
            return stream
        return await self._secured(stream, url.host)

    async def _secured(self, stream: httpcore.AsyncNetworkStream, host: str) -> httpcore.AsyncNetworkStream:
        try:
            # The certificate is checked against the name in the URL, not against the address.
            return await stream.start_tls(await self._context(), server_hostname=host, timeout=CONNECT_SECONDS)
        except (httpcore.NetworkError, httpcore.TimeoutException):
            raise NotConnected("no TLS connection could be made") from None
        except BaseException:
            await stream.aclose()  # cancelled: nobody else knows of it
            raise

    async def _addresses(self, url: CallbackUrl) -> Sequence[str]:
        """Where to connect to: nothing, if only one of the addresses is forbidden."""
        if url.address is not None:
            addresses: Sequence[str] = [str(url.address)]
        else:
            try:
                addresses = await self._resolve(url.host, url.port)
            except (OSError, UnicodeError):
                addresses = []
        if not addresses:
            raise NotConnected("its host was not found")
        if not all(self._policy.is_allowed(address, url.host) for address in addresses):
            self.refusals += 1
            raise NotConnected("its host is at an address that callbacks may not be sent to", forbidden=True)
        return list(dict.fromkeys(addresses))[:MAX_ADDRESSES]

    async def _first_that_answers(self, addresses: Sequence[str], port: int) -> httpcore.AsyncNetworkStream:
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._connect(address, port)
            except (OSError, httpcore.NetworkError, httpcore.TimeoutException):
                continue
        raise NotConnected("the connection was refused or not answered")

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Reading the certificates takes tens of milliseconds.
            self._tls = await asyncio.to_thread(httpcore.default_ssl_context)
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


async def resolve_by_system(host: str, port: int) -> list[str]:
    """Every address the system's resolver has for a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


async def connect_tcp(address: str, port: int) -> httpcore.AsyncNetworkStream:
    """A TCP connection."""
    backend = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())
    return await backend.connect_tcp(address, port)
