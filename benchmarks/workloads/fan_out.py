"""One session with many readers: the cost of a delivery.

First one delta at a time, when all readers are waiting: one write per reader and delta. Then under load, as fast as the
model can send: deltas that arrive together may be written together, as separate events.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import Server, floor, gateway, reference
from benchmarks.wire import Crowd, call, check_run, new_session, script

_DELTA_BYTES = 120


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    rounds = 3 if full else 2
    loads = ((100, 500, 5), (1_000, 100, 50)) if full else ((100, 250, 5), (1_000, 40, 50))
    with gateway() as ours, reference() as theirs, floor() as least:
        for readers, deltas, pace_ms in loads:
            gentle = {server.name: list[float]() for server in (ours, theirs, least)}
            loaded = {server.name: list[float]() for server in (ours, theirs)}
            for _ in range(rounds):
                for server in (ours, theirs):
                    gentle[server.name].append(cost(server, readers, deltas, pace_ms))
                    loaded[server.name].append(cost(server, readers, deltas, 0))
                gentle[least.name].append(cost(least, readers, deltas, pace_ms))
            for costs, what, bound in ((gentle, "one at a time", 0.6), (loaded, "under load", 0.2)):
                mine, other = min(costs["gateway"]), min(costs["reference"])
                floored = f", `send` alone {min(costs['floor']):.1f}" if "floor" in costs else ""
                yield Figure(
                    1,
                    f"fan-out to {readers:,} SSE readers, {what}",
                    mine / other,
                    bound,
                    steady=readers >= 1_000 or costs is loaded,  # with few readers, the cost per event dominates
                    detail=f"{mine:.1f} µs of CPU per delivery, reference {other:.1f}{floored}",
                )


def cost(server: Server, readers: int, deltas: int, pace_ms: int) -> float:
    """Server CPU in µs per event and reader."""
    text = [f"{number:>{_DELTA_BYTES}}" for number in range(deltas)]
    session_id = new_session(server)
    crowd = Crowd(server, [f"/v1/sessions/{session_id}/events"] * readers)
    try:
        before = server.cpu_seconds
        status, answer = call(
            server, "POST", f"/v1/sessions/{session_id}/prompt", {"text": script(text, delay_ms=pace_ms)}
        )
        assert status == 202, answer
        crowd.read_to_the_end()
        used = server.cpu_seconds - before
    finally:
        crowd.close()
    first, *others = (stream.body for stream in crowd.streams)
    sent = check_run(first, text)
    assert all(other == first for other in others), "readers of one session received different bytes"
    return used / (sent * readers) * 1e6
