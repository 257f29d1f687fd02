"""Bytes on a socket: for what no well-behaved HTTP client can send."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11

from cmdc_conformance.findings import Blocked
from cmdc_conformance.wire import Answer, Http

_PIECE = 64 * 1024
_NARROW = 4 * 1024


@dataclass(frozen=True, slots=True)
class Closed:
    """The server closed the connection without an answer."""


def head(http: Http, method: str, path: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """The head of a request, with the key, without its last empty line."""
    host = urlsplit(http.url).netloc
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        *(f"{name}: {value}" for name, value in http.credentials.items()),
    ]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), ""]).encode("latin-1")


@asynccontextmanager
async def connected(
    http: Http, *, narrow: bool = False, **options: Any
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the server. Raises Blocked.

    One that is `narrow` holds little of what is not read, so that the server is soon the one that holds it.
    """
    parts = urlsplit(http.url)
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    made = socket.socket(socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET) if narrow else None
    try:
        async with asyncio.timeout(http.deadline):
            if made is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NARROW)
                made.setblocking(False)
                await asyncio.get_running_loop().sock_connect(made, (parts.hostname, port))
                options = {"sock": made, "limit": _NARROW, "server_hostname": parts.hostname if secure else None}
                reader, writer = await asyncio.open_connection(ssl=secure, **options)
            else:
                reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure, **options)
    except (OSError, TimeoutError) as failure:
        if made is not None:
            made.close()
        raise Blocked(f"no connection: {failure}") from None
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(http: Http, sent: bytes, *, within: float | None = None) -> Answer | Closed:
    """Send bytes, and read an answer, which may come before all is sent. Raises Blocked when neither comes."""
    http.watch.evidence.note(f"→ {sent[:300]!r}{f'… [{len(sent)} bytes]' if len(sent) > 300 else ''}")
    async with connected(http) as (reader, writer):

        async def send() -> None:
            with suppress(OSError):
                writer.write(sent)
                await writer.drain()

        sending = asyncio.create_task(send())
        try:
            async with asyncio.timeout(within or http.deadline):
                return await read_answer(http, reader, sent.split(b" ", 2)[0].decode(), "a raw request")
        except TimeoutError:
            raise Blocked(f"no answer within {within or http.deadline:g} s") from None
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def read_answer(http: Http, reader: asyncio.StreamReader, method: str, what: str) -> Answer | Closed:
    """Read one answer; Closed if the connection ends before it is complete."""
    parser = h11.Connection(h11.CLIENT)
    # As if it had been sent by h11: an answer may come before the request is complete.
    parser.send(h11.Request(method=method if method.isalpha() else "GET", target="/", headers=[("Host", "x")]))
    status, headers, body = 0, dict[str, str](), b""
    while True:
        try:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(_PIECE))
                continue
        except h11.RemoteProtocolError:
            return Closed()
        except OSError:
            return Closed()
        match event:
            case h11.Response():
                status = event.status_code
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                return _shown(http, what, status, headers, body)
            case h11.InformationalResponse():
                pass
            case _:
                return Closed()


def _shown(http: Http, what: str, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    return http.answer(what, "", status, headers, body)
