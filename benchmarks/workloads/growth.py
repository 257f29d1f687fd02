"""Costs that must not grow with the amount of stored data.

The store is filled in advance: with many sessions, and with one session that has a long log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from cmdc_gateway.protocol.events import MessageDelta, encode_data
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.sessions.settings import SessionSettings
from cmdc_gateway.store.rows import SessionKey, SessionRow
from cmdc_gateway.store.sqlite import SqliteStore
from cmdc_gateway.store.writes import AppendEvents, CreateSession

from benchmarks.figures import Figure
from benchmarks.processes import Server, gateway
from benchmarks.wire import Crowd, call, check_run, script

_LONG, _SHORT = "long", "short"
_EPOCH = "bench"
_AT_ONCE = 1_000
_DELTAS = 200


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    sessions, logged = (100_000, 1_000_000) if full else (10_000, 100_000)
    with TemporaryDirectory(prefix="cmdc-bench-") as name:
        few, many = Path(name, "few.db"), Path(name, "many.db")
        asyncio.run(_fill(few, 10, 0))
        asyncio.run(_fill(many, sessions, logged))
        small, large = (min((_started(file) for _ in range(3)), key=lambda found: found[0]) for file in (few, many))
        with gateway(file=many) as server:
            text = [f"word {number} " for number in range(_DELTAS)]
            short, long = (min(_turn(server, session_id, text) for _ in range(5)) for session_id in (_SHORT, _LONG))
            replay = _replay(server, logged)
    yield _flat(f"an event of a run after {logged:,} events, vs. after 10", long / short)
    yield _flat(f"start with {sessions:,} sessions, vs. with 10: CPU", large[0] / small[0])
    yield _flat(f"listing a page of {sessions:,} sessions, vs. of 10: CPU", large[1] / small[1], bound=1.5)
    yield _flat(f"a page of events late in a log of {logged:,}, vs. early: CPU", replay, bound=1.5)
    yield Figure(9, f"memory with {sessions:,} idle sessions", large[2] / 2**20, 400, unit="MiB")
    yield Figure(9, "memory per idle session", max(0.0, large[2] - small[2]) / sessions / 1024, 2, unit="KiB")


def _flat(what: str, ratio: float, bound: float = 1.25) -> Figure:
    return Figure(9, what, ratio, bound, steady=False)


async def _fill(path: Path, sessions: int, logged: int) -> None:
    store = SqliteStore(path)
    await store.open()
    settings = SessionSettings("scripted:x").encode()

    def made(session_id: str, at: int) -> CreateSession:
        return CreateSession(SessionRow(SessionKey("default", session_id), _EPOCH, at, settings))

    await store.commit([made(_SHORT, 1), made(_LONG, 2)])
    for start in range(0, sessions, _AT_ONCE):
        await store.commit([made(f"s{number}", number + 3) for number in range(start, min(start + _AT_ONCE, sessions))])
    data = encode_data(MessageDelta("x" * 50), "0123456789abcdef")
    for start in range(0, logged, _AT_ONCE):
        events = [LoggedEvent(_EPOCH, seq, "message_delta", 1, data) for seq in range(start + 1, start + _AT_ONCE + 1)]
        await store.commit([AppendEvents(SessionKey("default", _LONG), tuple(events))])
    await store.close()


def _started(file: Path) -> tuple[float, float, int]:
    """CPU seconds of a start, CPU seconds of a listing, and memory in bytes."""
    with gateway(file=file) as server:
        while call(server, "GET", "/readyz")[0] != 200:
            pass
        started = server.cpu_seconds
        call(server, "GET", "/v1/sessions?limit=10")
        before = server.cpu_seconds
        for _ in range(50):
            status, page = call(server, "GET", "/v1/sessions?limit=10")
            assert (status, len(page["sessions"])) == (200, 10)
        return started, (server.cpu_seconds - before) / 50, server.memory


def _turn(server: Server, session_id: str, text: list[str]) -> float:
    crowd = Crowd(server, [f"/v1/sessions/{session_id}/events?after=latest"])
    before = server.cpu_seconds
    status, answer = call(server, "POST", f"/v1/sessions/{session_id}/prompt", {"text": script(text, delay_ms=1)})
    assert status == 202, answer
    crowd.read_to_the_end()
    used = server.cpu_seconds - before
    crowd.close()
    return used / check_run(crowd.streams[0].body, text)


def _replay(server: Server, logged: int) -> float:
    costs: list[float] = []
    for after in (0, logged - 1_000):
        began = server.cpu_seconds
        for _ in range(20):
            path = f"/v1/sessions/{_LONG}/events?after={_EPOCH}.{after}&limit=500"
            status, page = call(server, "GET", path, accept="application/json")
            assert status == 200
            assert page["events"][0]["id"] == f"{_EPOCH}.{after + 1}"
            assert len(page["events"]) == 500
        costs.append(server.cpu_seconds - began)
    return costs[1] / costs[0]
