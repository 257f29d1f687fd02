"""Which addresses a callback may be sent to (CB-5).

The list of what is not public is written out here, because the one in Python's `ipaddress` lets NAT64, multicast and
IPv4 addresses in disguise through. Names are not resolved here: that is done when a connection is made, and what comes
out of it is asked about again.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.tools.url import HOST_NAME, CallbackUrl, InvalidUrl

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry
_NOT_PUBLIC_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host, this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; a cloud's metadata service
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's platform service, in public space
        "169.254.0.0/16",  # link-local; metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata service
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

# Everything outside of it is not global unicast: loopback, link-local, unique local, multicast, NAT64, mapped IPv4.
_PUBLIC_V6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3ffe::/16",  # the 6bone, given back
        "3fff::/20",  # documentation
    )
)


class AddressPolicy:
    """Public unicast addresses, and what the operator allows besides."""

    def __init__(self, allow: Sequence[str] = ()) -> None:
        """Allow these networks (`127.0.0.0/8`), addresses (`10.0.0.7`) and host names (`tools.internal`) too.

        An address is allowed as it is used: to allow `127.0.0.0/8` does not allow `::ffff:127.0.0.1`. A host name
        allows whatever it resolves to, so its owner is trusted like the operator.

        Raises:
            ValueError: an entry is none of the three.
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
                raise ValueError(f"{entry!r} is no network in CIDR notation, no address and no host name")

    def is_allowed(self, address: str | Address, host: str = "") -> bool:
        """Whether a connection may be made to this address, for a URL with this host name."""
        try:
            used = ip_address(address)
        except ValueError:
            return False
        return host in self._hosts or any(used in network for network in self._networks) or _is_public(used)

    def check_url(self, url: str) -> None:
        """Judge the address of a tool at registration, without looking a name up.

        Raises:
            RegistrationFailed: it is no proper URL, or its host is an address that is not allowed.
        """
        try:
            target = CallbackUrl.parse(url)
        except InvalidUrl as error:
            raise RegistrationFailed(f"callbackUrl: {error}") from None
        if target.address is not None and not self.is_allowed(target.address):
            raise RegistrationFailed("callbackUrl: its host is an address that callbacks may not be sent to")


def _network(entry: str) -> Network | None:
    """The network of an entry; None if it does not look like one."""
    try:
        return ip_network(entry)
    except ValueError as error:
        if "/" in entry or ":" in entry:
            raise ValueError(f"{entry!r} is no network: {error}") from None
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return (
        address.scope_id is None and address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
    )
