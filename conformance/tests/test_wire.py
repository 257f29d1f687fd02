"""The suite's HTTP client."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cmdc_conformance.wire.http import http_client


async def test_a_connection_serves_one_request() -> None:
    """A server may close an idle connection at the moment at which it is reused."""
    connections = 0

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server, http_client() as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for _ in range(3):
            assert (await client.get(url)).status_code == 200

    assert connections == 3
