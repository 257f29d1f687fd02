"""A committed event is sent without delay: Nagle's algorithm is disabled."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import cast

from cmdc_testkit.gateways import in_process_gateway
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


async def test_a_connection_has_tcp_nodelay_whatever_created_the_listening_socket(tmp_path: Path) -> None:
    async with in_process_gateway(tmp_path) as served, served.client() as client:
        await client.get("/healthz")

        (connection,) = served.server.server_state.connections
        peer = cast("HttpToolsProtocol", connection).transport.get_extra_info("socket")

        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
