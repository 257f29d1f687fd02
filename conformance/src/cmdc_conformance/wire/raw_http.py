"""HTTP requests as raw bytes, for requests that no HTTP client library sends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11

from cmdc_conformance.findings import Blocked
from cmdc_conformance.wire.http import ApiClient, ApiResponse

_CHUNK = 64 * 1024
_SMALL_BUFFER = 4 * 1024


@dataclass(frozen=True, slots=True)
class NoResponse:
    """The server closed the connection without a complete response."""


def request_head(http: ApiClient, method: str, path: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """The request line and headers, with the key, without the blank line that ends them."""
    host = urlsplit(http.url).netloc
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        *(f"{name}: {value}" for name, value in http.credentials.items()),
    ]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), ""]).encode("latin-1")


@asynccontextmanager
async def open_connection(
    http: ApiClient, *, small_buffer: bool = False, **options: Any
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the server. Raises Blocked.

    With `small_buffer` the client side buffers little, so that unread data soon accumulates in the server.
    """
    parts = urlsplit(http.url)
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    small = (
        socket.socket(socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET) if small_buffer else None
    )
    try:
        async with asyncio.timeout(http.deadline):
            if small is not None:
                small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
                small.setblocking(False)
                await asyncio.get_running_loop().sock_connect(small, (parts.hostname, port))
                options = {
                    "sock": small,
                    "limit": _SMALL_BUFFER,
                    "server_hostname": parts.hostname if secure else None,
                }
                reader, writer = await asyncio.open_connection(ssl=secure, **options)
            else:
                reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure, **options)
    except (OSError, TimeoutError) as failure:
        if small is not None:
            small.close()
        raise Blocked(f"cannot connect: {failure}") from None
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(http: ApiClient, sent: bytes, *, within: float | None = None) -> ApiResponse | NoResponse:
    """Send bytes and read a response, which may arrive before everything is sent. Raises Blocked at the deadline."""
    http.observer.evidence.note(f"→ {sent[:300]!r}{f'… [{len(sent)} bytes]' if len(sent) > 300 else ''}")
    async with open_connection(http) as (reader, writer):

        async def send() -> None:
            with suppress(OSError):
                writer.write(sent)
                await writer.drain()

        sending = asyncio.create_task(send())
        try:
            async with asyncio.timeout(within or http.deadline):
                return await read_response(http, reader, sent.split(b" ", 2)[0].decode(), "a raw request")
        except TimeoutError:
            raise Blocked(f"no response within {within or http.deadline:g} s") from None
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def read_response(
    http: ApiClient, reader: asyncio.StreamReader, method: str, what: str
) -> ApiResponse | NoResponse:
    """Read one response to a request with this method; `what` names the request in messages."""
    parser = h11.Connection(h11.CLIENT)
    # h11 reads a response only after it has sent a request; the real one may still be incomplete.
    parser.send(h11.Request(method=method if method.isalpha() else "GET", target="/", headers=[("Host", "x")]))
    status, headers, body = 0, dict[str, str](), b""
    while True:
        try:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(_CHUNK))
                continue
        except (h11.RemoteProtocolError, OSError):
            return NoResponse()
        match event:
            case h11.Response():
                status = event.status_code
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                return http.parse(what, "", status, headers, body)
            case h11.InformationalResponse():
                pass
            case _:
                return NoResponse()
