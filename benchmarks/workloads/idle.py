"""Streams on which nothing happens: what one keeps in memory, and what its heartbeats cost."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import KEY, Server, gateway
from benchmarks.wire import Crowd, new_session

_UPGRADE = (
    "GET /v1/sessions/{session}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_HEARTBEAT_MS = 1_000


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    readers = 2_000 if full else 1_000
    with gateway() as server:
        session_id = new_session(server)
        Crowd(server, [f"/v1/sessions/{session_id}/events?follow=true"] * 100).close()  # what is made once
        time.sleep(0.5)
        before = server.memory
        crowd = Crowd(server, [f"/v1/sessions/{session_id}/events?follow=true"] * readers)
        yield _memory(f"{readers:,} idle SSE streams", (server.memory - before) / readers, 20)
        crowd.close()
    with gateway() as server:
        session_id = new_session(server)
        for connection in [_socket(server, session_id) for _ in range(100)]:
            connection.close()
        time.sleep(0.5)
        before = server.memory
        sockets = [_socket(server, session_id) for _ in range(readers)]
        yield _memory(f"{readers:,} idle WebSockets", (server.memory - before) / readers, 28)
        for connection in sockets:
            connection.close()


def _memory(what: str, size: float, bound: float) -> Figure:
    return Figure(7, f"{what}, memory of each", size / 1024, bound, unit="KiB")


def _socket(server: Server, session_id: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(_UPGRADE.format(session=session_id, key=KEY).encode())
    assert connection.recv(4_096).startswith(b"HTTP/1.1 101")
    return connection
