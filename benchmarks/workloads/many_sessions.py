"""Many concurrent sessions, each with one reader and 50 deltas per second."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import Server, gateway, reference
from benchmarks.wire import Crowd, Stream, call, check_run, events, new_session, script

_PACE_MS = 20


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    rounds, deltas = (2, 300) if full else (1, 50)
    for store, sessions, bound in (("sqlite", 500, 1.2), ("memory", 1_000, 0.8)):
        count = sessions if full else sessions // 5
        with gateway(store) as ours, reference() as theirs:
            mine: list[tuple[float, float, float]] = []
            other: list[tuple[float, float, float]] = []
            for _ in range(rounds):
                mine.append(_cost(ours, count, deltas))
                other.append(_cost(theirs, count, deltas))
        (used, p99, rate), (their_used, _, their_rate) = min(mine), min(other)
        where = "durable" if store == "sqlite" else "in memory"
        yield Figure(
            2,
            f"{count:,} sessions, 50 deltas/s each, {where}: CPU",
            used / their_used,
            bound,
            detail=f"{used:.0f} µs of CPU per delta, {rate:,.0f} delivered per second; reference {their_used:.0f} µs, "
            f"{their_rate:,.0f}",
        )
        if store == "sqlite":
            yield Figure(2, "the same: p99 from model to reader", p99, 50, unit="ms", steady=False)


def _cost(server: Server, count: int, deltas: int) -> tuple[float, float, float]:
    """µs of the server's CPU for a delta; ms from model to reader that 99 of 100 stay below; deltas a second.

    The gateway notes with each event when it happened (`at`, in whole ms); the reference does not.
    """
    text = [f"piece {number:>3} of what this model has to say, " for number in range(deltas)]
    sessions = [new_session(server) for _ in range(count)]
    crowd = Crowd(server, [f"/v1/sessions/{session_id}/events" for session_id in sessions])
    prompt = {"text": script(text, delay_ms=_PACE_MS)}
    arrived: dict[Stream, list[tuple[float, int]]] = {stream: [] for stream in crowd.streams}

    def on_data(stream: Stream, size: int) -> None:
        arrived[stream].append((time.time() * 1000, size))

    cpu, began = server.cpu_seconds, time.monotonic()
    for session_id in sessions:
        status, answer = call(server, "POST", f"/v1/sessions/{session_id}/prompt", prompt)
        assert status == 202, answer
        crowd.read(0, on_data)  # read in between, so that arrival times are not delayed by the posting
    crowd.read_to_the_end(on_data)
    used, seconds = server.cpu_seconds - cpu, time.monotonic() - began
    crowd.close()
    for stream in crowd.streams:
        check_run(stream.body, text)
    waits: list[float] = []
    if server.name == "gateway":
        for session_id, stream in list(zip(sessions, crowd.streams, strict=True))[::10]:
            waits += _waits(server, session_id, stream, arrived[stream])
    p99 = sorted(waits)[int(len(waits) * 0.99)] if waits else 0.0
    return used / (count * deltas) * 1e6, p99, count * deltas / seconds


def _waits(server: Server, session_id: str, stream: Stream, arrived: list[tuple[float, int]]) -> list[float]:
    """Time in ms that each event took from the model to its reader."""
    _, page = call(server, "GET", f"/v1/sessions/{session_id}/events?limit=5000", accept="application/json")
    happened = {event["id"]: event["at"] for event in page["events"]}
    # An event has arrived when the bytes received so far contain the beginning of its frame.
    raw = b"".join(stream.chunks)
    ends: list[tuple[int, str]] = []
    at = 0
    for event in events(stream.body):
        at = raw.index(f"id: {event.id}\n".encode(), at)
        ends.append((at, event.id))
    waits: list[float] = []
    received, chunks = len(raw) - sum(size for _, size in arrived), iter(arrived)
    now = 0.0
    for place, event_id in ends:
        while received <= place:
            now, size = next(chunks)
            received += size
        waits.append(max(0.0, now - happened[event_id]))
    return waits
