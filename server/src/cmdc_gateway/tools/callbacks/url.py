"""Strict parsing of callback URLs (CB-5).

URL parsers disagree on unusual URLs, and a check is useless if the client parses the URL in another way. Therefore the
check and the client share this parser, and it rejects unusual URLs: it accepts RFC 3986 without userinfo, fragments and
percent-encoded hosts.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Literal

MAX_URL: Final = 2048

HOST_NAME: Final = re.compile(
    r"(?=.{1,254}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?"
)
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?P<fragment>#.*)?"
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")
_CHARACTERS: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")


class InvalidUrl(ValueError):
    """Not a usable callback URL. The message says why, and does not repeat the URL, which may be secret."""


@dataclass(frozen=True, slots=True)
class CallbackUrl:
    """A parsed callback URL. `host` is in lower case; an IP address is in its canonical form."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str
    address: IPv4Address | IPv6Address | None

    @classmethod
    def parse(cls, url: str) -> CallbackUrl:
        """Parse a URL. Raises `InvalidUrl`."""
        if len(url) > MAX_URL:
            raise InvalidUrl(f"it is longer than {MAX_URL} characters")
        if not _CHARACTERS.fullmatch(url):
            raise InvalidUrl(
                "it contains characters that are invalid in a URL; encode them as %XX, and host names as xn--…"
            )
        parts = _URL.fullmatch(url)
        if parts is None or (scheme := parts["scheme"].lower()) not in ("http", "https"):
            raise InvalidUrl("it must begin with http:// or https://")
        if parts["fragment"] is not None:
            raise InvalidUrl("it must not have a fragment (#…)")
        if "@" in parts["authority"]:
            raise InvalidUrl("it must not have a user name or password")
        authority = _AUTHORITY.fullmatch(parts["authority"])
        if authority is None:
            raise InvalidUrl("its host and port are ambiguous")
        host, address = _host(authority["host"])
        port = _port(authority["port"], 443 if scheme == "https" else 80)
        target = parts["target"]
        return cls(scheme, host, port, target if target.startswith("/") else f"/{target}", address)

    @property
    def origin(self) -> str:
        """Scheme, host and port. Messages contain no more of the URL: its path and query may be secret."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as in the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


def _host(text: str) -> tuple[str, IPv4Address | IPv6Address | None]:
    if text.startswith("["):
        address = _ipv6(text[1:-1])
        return str(address), address
    if not HOST_NAME.fullmatch(text):
        raise InvalidUrl("its host is missing or is not a valid host name")
    name = text.lower().removesuffix(".")
    if (address := _ipv4(name)) is not None:
        return str(address), address
    if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", name.rpartition(".")[2]):
        raise InvalidUrl("its host is neither an IP address nor a host name, which cannot end in a number")
    return name, None


def _ipv6(text: str) -> IPv6Address:
    try:
        if "%" in text:
            raise InvalidUrl("its IPv6 address must not have a zone")
        return IPv6Address(text)
    except AddressValueError:
        raise InvalidUrl("its host is not a valid IPv6 address") from None


def _ipv4(name: str) -> IPv4Address | None:
    """The IPv4 address that resolvers parse this as: they also accept `127.1`, `0x7f.1`, `017700000001`, `2130706433`."""
    try:
        return IPv4Address(socket.inet_aton(name))
    except OSError:
        return None


def _port(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise InvalidUrl("its port must be a number from 1 to 65535")
    return int(text)
