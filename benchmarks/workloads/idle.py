"""Memory of streams without events."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import gateway
from benchmarks.wire import Crowd, new_session, open_socket


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    readers = 2_000 if full else 1_000
    with gateway() as server:
        session_id = new_session(server)
        Crowd(server, [f"/v1/sessions/{session_id}/events?follow=true"] * 100).close()  # one-time allocations
        time.sleep(0.5)
        before = server.memory
        crowd = Crowd(server, [f"/v1/sessions/{session_id}/events?follow=true"] * readers)
        yield _memory(f"{readers:,} idle SSE streams", (server.memory - before) / readers, 20)
        crowd.close()
    with gateway() as server:
        session_id = new_session(server)
        for connection in [open_socket(server, session_id) for _ in range(100)]:
            connection.close()
        time.sleep(0.5)
        before = server.memory
        sockets = [open_socket(server, session_id) for _ in range(readers)]
        yield _memory(f"{readers:,} idle WebSockets", (server.memory - before) / readers, 28)
        for connection in sockets:
            connection.close()


def _memory(what: str, size: float, bound: float) -> Figure:
    return Figure(7, f"memory per stream, {what}", size / 1024, bound, unit="KiB")
