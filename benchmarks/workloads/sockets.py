"""One session with many WebSockets, compared with server-sent events."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import Server, gateway
from benchmarks.wire import call, check_messages, new_session, open_socket, read_messages, script
from benchmarks.workloads.fan_out import cost


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    readers, deltas, pace_ms = (100, 500, 5) if full else (100, 200, 5)
    with gateway() as ours:
        streams: list[float] = []
        sockets: list[float] = []
        for _ in range(3 if full else 2):
            streams.append(cost(ours, readers, deltas, pace_ms))
            sockets.append(_cost(ours, readers, deltas, pace_ms))
    yield Figure(
        6,
        f"fan-out to {readers} WebSockets, vs. SSE",
        min(sockets) / min(streams),
        1.3,
        detail=f"{min(sockets):.1f} µs of CPU per delivery, SSE {min(streams):.1f}",
    )


def _cost(server: Server, readers: int, deltas: int, pace_ms: int) -> float:
    text = [f"{number:>120}" for number in range(deltas)]
    session_id = new_session(server)
    sockets: list[socket.socket] = [open_socket(server, session_id) for _ in range(readers)]
    before = server.cpu_seconds
    status, answer = call(server, "POST", f"/v1/sessions/{session_id}/prompt", {"text": script(text, delay_ms=pace_ms)})
    assert status == 202, answer
    received = read_messages(sockets, b'"event":"agent_end"')
    used = server.cpu_seconds - before
    for connection in sockets:
        connection.close()
    sent = check_messages(received[0], text)
    assert all(other == received[0] for other in received), "readers of one session received different bytes"
    return used / (sent * readers) * 1e6
