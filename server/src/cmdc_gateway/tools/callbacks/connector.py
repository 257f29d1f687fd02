"""Connections to callback tools (CB-5).

A host name is resolved once, every address is checked, and the connection is made to a checked address. A name server that
returns another address the second time (DNS rebinding) gains nothing, because there is no second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import httpcore

from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.errors import NotConnected
from cmdc_gateway.tools.callbacks.url import CallbackUrl

CONNECT_SECONDS: Final = 5.0
MAX_ADDRESSES: Final = 4

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and a port to IP addresses. Raises OSError."""

Connect = Callable[[str, int], Awaitable[httpcore.AsyncNetworkStream]]
"""From an IP address and a port to a connection."""


class Connector:
    """Makes the connections that the policy allows, and counts those that it makes and those that it rejects."""

    def __init__(self, policy: AddressPolicy, resolve: Resolve, connect: Connect) -> None:
        self._policy = policy
        self._resolve = resolve
        self._connect = connect
        self._tls: ssl.SSLContext | None = None
        self.connections = 0
        self.rejections = 0

    async def connect(self, url: CallbackUrl) -> httpcore.AsyncNetworkStream:
        """Connect, with TLS for https. Raises `NotConnected`."""
        stream = await self._connect_to_any(await self._addresses(url), url.port)
        self.connections += 1
        if url.scheme == "http":
            return stream
        return await self._start_tls(stream, url.host)

    async def _start_tls(self, stream: httpcore.AsyncNetworkStream, host: str) -> httpcore.AsyncNetworkStream:
        try:
            # The certificate is verified for the host name in the URL, not for the address.
            return await stream.start_tls(await self._tls_context(), server_hostname=host, timeout=CONNECT_SECONDS)
        except (httpcore.NetworkError, httpcore.TimeoutException):
            raise NotConnected("the TLS handshake failed") from None
        except BaseException:
            await stream.aclose()  # after a cancellation, nothing else refers to it
            raise

    async def _addresses(self, url: CallbackUrl) -> Sequence[str]:
        """The addresses to try. Raises `NotConnected` if any address is not allowed."""
        addresses = [str(url.address)] if url.address is not None else await self._lookup(url)
        if not all(self._policy.is_allowed(address, url.host) for address in addresses):
            self.rejections += 1
            # Without the address: the message would let tenants query the operator's DNS.
            raise NotConnected(
                "its address is not public; the operator can allow it with GATEWAY_CALLBACK_ALLOW", forbidden=True
            )
        return list(dict.fromkeys(addresses))[:MAX_ADDRESSES]

    async def _lookup(self, url: CallbackUrl) -> Sequence[str]:
        addresses: Sequence[str] = ()
        with contextlib.suppress(OSError, UnicodeError):
            addresses = await self._resolve(url.host, url.port)
        if not addresses:
            raise NotConnected("its host name cannot be resolved")
        return addresses

    async def _connect_to_any(self, addresses: Sequence[str], port: int) -> httpcore.AsyncNetworkStream:
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._connect(address, port)
            except (OSError, httpcore.NetworkError, httpcore.TimeoutException):
                continue
        raise NotConnected("the connection was refused or timed out")

    async def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Loading the certificates takes tens of milliseconds.
            self._tls = await asyncio.to_thread(httpcore.default_ssl_context)
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


async def resolve_by_system(host: str, port: int) -> list[str]:
    """All addresses that the system's resolver returns for a host name."""
    results = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in results]


async def connect_tcp(address: str, port: int) -> httpcore.AsyncNetworkStream:
    """Open a TCP connection."""
    backend = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())
    return await backend.connect_tcp(address, port)
