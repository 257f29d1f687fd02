"""The URL of a callback, taken apart once and strictly, so that what was judged is what is used.

Parsers differ in the corners of URLs, and a guard that reads them otherwise than the client is no guard. So there is one
reading, and corners are refused: https://www.rfc-editor.org/rfc/rfc3986 without userinfo, fragment and encoded hosts.
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
    """This is no URL a callback can be sent to; the sentence says why, without repeating it."""


@dataclass(frozen=True, slots=True)
class CallbackUrl:
    """Where a callback goes. `host` is lower case; an address in any spelling is in its usual one."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str
    address: IPv4Address | IPv6Address | None

    @classmethod
    def parse(cls, url: str) -> CallbackUrl:
        """Take a URL apart. Raises `InvalidUrl`."""
        if len(url) > MAX_URL:
            raise InvalidUrl(f"it is longer than {MAX_URL} characters")
        if not _CHARACTERS.fullmatch(url):
            raise InvalidUrl("it holds characters a URL cannot hold; write them as %XX, and names as xn--…")
        parts = _URL.fullmatch(url)
        if parts is None or (scheme := parts["scheme"].lower()) not in ("http", "https"):
            raise InvalidUrl("it must begin with http:// or https://")
        if parts["fragment"] is not None:
            raise InvalidUrl("it must not have a fragment (#…)")
        if "@" in parts["authority"]:
            raise InvalidUrl("it must not have a user name or password")
        authority = _AUTHORITY.fullmatch(parts["authority"])
        if authority is None:
            raise InvalidUrl("its host and port cannot be told apart")
        host, address = _host(authority["host"])
        port = _port(authority["port"], 443 if scheme == "https" else 80)
        target = parts["target"]
        return cls(scheme, host, port, target if target.startswith("/") else f"/{target}", address)

    @property
    def origin(self) -> str:
        """Scheme, host and port: what an error may say of a URL whose path and query may be secret."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.scheme == "https" else 80
        return host if self.port == usual else f"{host}:{self.port}"


def _host(text: str) -> tuple[str, IPv4Address | IPv6Address | None]:
    if text.startswith("["):
        address = _ipv6(text[1:-1])
        return str(address), address
    if not HOST_NAME.fullmatch(text):
        raise InvalidUrl("its host is missing or no host name")
    name = text.lower().removesuffix(".")
    if (address := _ipv4(name)) is not None:
        return str(address), address
    if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", name.rpartition(".")[2]):
        raise InvalidUrl("its host is neither an address nor a name: no name ends in a number")
    return name, None


def _ipv6(text: str) -> IPv6Address:
    try:
        if "%" in text:
            raise InvalidUrl("its address must not name a network interface")
        return IPv6Address(text)
    except AddressValueError:
        raise InvalidUrl("its host is no IPv6 address") from None


def _ipv4(name: str) -> IPv4Address | None:
    """The address that resolvers take this for: they read `127.1`, `0x7f.1`, `017700000001` and `2130706433` too."""
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
