"""Callback tools (CB-1 … CB-3), and the addresses that they may not have (CB-5)."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from minimal_gateway.errors import ApiError, encode
from minimal_gateway.schema import Schema, check_parameters

_MAX_BYTES = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]+\]")
# Networks of IPv6 addresses that embed an IPv4 address. The standard library considers some of them global.
_EMBEDDED_IPV4 = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::ffff:0:0/96")))


@dataclass(frozen=True, slots=True)
class CallbackTool:
    """A registered tool."""

    name: str
    description: str
    parameters: Schema
    url: str
    timeout_ms: int


class CallFailed(Exception):
    """The call failed; the message says why."""


class Callbacks:
    """Registers and calls tools. `allow` lists internal networks that the operator allows."""

    def __init__(self, allow: list[str]) -> None:
        self._allow = [ip_network(network) for network in allow]

    def register(self, payload: dict[str, Any]) -> CallbackTool:
        """Register a tool. The types of the fields are already validated. Raises ApiError."""
        tool = CallbackTool(
            payload["name"],
            payload["description"],
            payload["parameters"],
            payload["callbackUrl"],
            payload.get("timeoutMs", 30_000),
        )
        if not _NAME.fullmatch(tool.name):
            raise ApiError("registration_failed", "name: must have 1 to 64 letters, digits, _ or -")
        if not 1 <= tool.timeout_ms <= 300_000:
            raise ApiError("registration_failed", "timeoutMs: must be from 1 to 300000")
        check_parameters(tool.parameters)
        try:
            host, _, _ = _parse_url(tool.url)
            literal = _literal(host)
            if literal is not None:
                self._check(literal)
        except CallFailed as error:
            raise ApiError("registration_failed", f"callbackUrl: {error}") from None
        return tool

    async def call(self, tool: CallbackTool, call: dict[str, Any]) -> str:
        """Call a tool; return its result. Raises CallFailed."""
        try:
            async with asyncio.timeout(tool.timeout_ms / 1000):
                return _result(await self._post(tool.url, encode(call)))
        except TimeoutError:
            raise CallFailed(f"no response within {tool.timeout_ms} ms") from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            raise CallFailed("cannot connect, or the response is invalid") from None

    async def _post(self, url: str, body: bytes) -> bytes:
        host, port, target = _parse_url(url)
        family, address = await self._resolve(host, port)
        reader, writer = await asyncio.open_connection(
            address, port, family=family, ssl=url.startswith("https:") or None
        )
        try:
            head = f"POST {target} HTTP/1.0\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
            return await _read_response(reader)
        finally:
            writer.close()

    async def _resolve(self, host: str, port: int) -> tuple[int, str]:
        """Resolve a host once; return the address to connect to after all addresses were checked."""
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        for *_, place in found:
            self._check(ip_address(str(place[0]).partition("%")[0]))
        return found[0][0], str(found[0][4][0])

    def _check(self, address: IPv4Address | IPv6Address) -> None:
        if any(address.version == network.version and address in network for network in self._allow):
            return
        embedded = isinstance(address, IPv6Address) and any(address in network for network in _EMBEDDED_IPV4)
        if embedded or not address.is_global or address.is_multicast or address.is_reserved:
            raise CallFailed("the address is not public")


def _parse_url(url: str) -> tuple[str, int, str]:
    """Split a URL into host, port and request target. Raises CallFailed."""
    if not re.fullmatch(r"[!-~]{1,2048}", url):
        raise CallFailed("invalid URL")
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise CallFailed("invalid URL") from None
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or "#" in url or not _HOST.fullmatch(host):
        raise CallFailed("must be an http or https URL without user name and fragment")
    return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that this host is in any notation; None for a name."""
    try:
        return ip_address(host.strip("[]")) if host.startswith("[") else IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


async def _read_response(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status = re.match(r"HTTP/1\.[01] (\d{3})", head)
    if status is None or not 200 <= int(status[1]) < 300:
        raise CallFailed(f"the response is {status[1] if status else 'not HTTP'}")
    length = re.search(r"^content-length:\s*(\d+)\s*$", head, re.IGNORECASE | re.MULTILINE)
    if re.search(r"^transfer-encoding:\s*chunked", head, re.IGNORECASE | re.MULTILINE):
        body = await _chunked(reader)
    elif length:
        body = await reader.readexactly(min(int(length[1]), _MAX_BYTES + 1))
    else:
        body = await _to_the_end(reader)
    if len(body) > _MAX_BYTES:
        raise CallFailed(f"the response is longer than {_MAX_BYTES} bytes")
    return body


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while len(body) <= _MAX_BYTES and (size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)):
        body += (await reader.readexactly(min(size, _MAX_BYTES + 1) + 2))[:-2]
    return body


async def _to_the_end(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while len(body) <= _MAX_BYTES and (more := await reader.read(64 * 1024)):
        body += more
    return body


def _result(response: bytes) -> str:
    match json.loads(response):
        case {"result": str(result)}:
            return result
        case {"result": result}:
            return encode(result).decode()
        case {"error": str(error)}:
            raise CallFailed(error)
        case _:
            raise CallFailed("the response has neither result nor error")
