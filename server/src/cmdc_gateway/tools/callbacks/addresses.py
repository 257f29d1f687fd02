"""Which IP addresses callbacks may be sent to (CB-5).

The networks are listed here, because `is_global` of Python's `ipaddress` accepts NAT64, multicast and embedded IPv4
addresses. Host names are not resolved here: the connector resolves them, and checks the addresses that it connects to.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.tools.callbacks.url import HOST_NAME, CallbackUrl, InvalidUrl

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry
_NOT_PUBLIC_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host, this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; metadata service of a cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # platform service of a cloud, in public space
        "169.254.0.0/16",  # link-local; metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; metadata service of a cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

# Global unicast. Outside: loopback, link-local, unique local, multicast, NAT64, IPv4-mapped.
_PUBLIC_V6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: embeds an IPv4 address
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation
    )
)


class AddressPolicy:
    """Allows public unicast addresses, and what the operator allows in addition."""

    def __init__(self, allow: Sequence[str] = ()) -> None:
        """Also allow these networks (`127.0.0.0/8`), addresses (`10.0.0.7`) and host names (`tools.internal`).

        An entry applies to the address as it is used: `127.0.0.0/8` does not allow `::ffff:127.0.0.1`. A host name
        allows every address that it resolves to, so the operator must trust its DNS records.

        Raises:
            ValueError: an entry is invalid.
        """
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for entry in map(str.strip, allow):
            network = _network(entry)
            if network is not None:
                self._networks.append(network)
            elif HOST_NAME.fullmatch(entry) and not entry[-1].isdigit():
                self._hosts.add(entry.lower().removesuffix("."))
            else:
                raise ValueError(f"{entry!r} is not a network in CIDR notation, an IP address or a host name")

    def is_allowed(self, address: str | Address, host: str = "") -> bool:
        """Whether a callback may connect to this address, for a URL with this host name."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return host in self._hosts or any(parsed in network for network in self._networks) or _is_public(parsed)

    def check_url(self, url: str) -> None:
        """Check the URL of a tool at registration, without resolving its host name.

        Raises:
            RegistrationFailed: the URL is invalid, or its host is an IP address that is not allowed.
        """
        try:
            target = CallbackUrl.parse(url)
        except InvalidUrl as error:
            raise RegistrationFailed(f"callbackUrl: {error}") from None
        if target.address is not None and not self.is_allowed(target.address):
            raise RegistrationFailed(
                f"callbackUrl: {target.address} is not a public address; "
                "the operator can allow it with GATEWAY_CALLBACK_ALLOW"
            )


def _network(entry: str) -> Network | None:
    """The network of an entry; None for a host name. Raises ValueError for an invalid network."""
    try:
        return ip_network(entry)
    except ValueError as error:
        if "/" in entry or ":" in entry:
            raise ValueError(f"{entry!r} is not a valid network: {error}") from None
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return (
        address.scope_id is None and address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
    )
