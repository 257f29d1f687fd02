"""Whole turns through an OpenAI-compatible model server, called directly and through litellm."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import Server, gateway, model
from benchmarks.wire import Crowd, call, events, new_session, script
from benchmarks.workloads.turns import DELTAS, take_turns

_DIRECT, _LITELLM = "bench:direct", "bench:litellm"
# Both are the same server; a provider name of litellm's selects litellm.
_CONFIG = """
[models."bench:direct"]
model = "benchmark"
api_base = "http://127.0.0.1:{port}/v1"

[models."bench:litellm"]
model = "mistral/benchmark"
api_base = "http://127.0.0.1:{port}/v1"
"""


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    rounds, turns = (3, 64) if full else (2, 32)
    text = [f"word {number} " for number in range(DELTAS)]
    with model() as served, gateway(config=_CONFIG.format(port=served.port)) as ours:
        direct: list[tuple[float, float]] = []
        litellm: list[tuple[float, float]] = []
        for name in (_DIRECT, _LITELLM):  # the first call of each includes imports
            _cost(ours, name, text, 1, 1)
        for _ in range(rounds):
            direct.append(_cost(ours, _DIRECT, text, turns // 16, 16))
            litellm.append(_cost(ours, _LITELLM, text, 1, 8))
        (mine, rate), (other, their_rate) = min(direct), min(litellm)
        yield Figure(
            5,
            f"turns of {DELTAS} deltas through a model server: our CPU per delta",
            mine / DELTAS * 1e6,
            40,
            unit="µs",
            steady=False,
            detail=f"{mine * 1e3:.2f} ms of CPU per turn, {rate:.0f} turns/s",
        )
        yield Figure(
            5,
            "the same, vs. litellm",
            other / mine,
            10,
            at_least=True,
            detail=f"through litellm {other * 1e3:.1f} ms of CPU per turn, {their_rate:.1f} turns/s",
        )
        waits = sorted(_first_delta_ms(ours) for _ in range(20))
        yield Figure(
            5,
            "first delta after the model's, median of 20",
            waits[10],
            5,
            unit="ms",
            detail=f"at most {waits[-1]:.1f} ms",
            steady=False,
        )


def _cost(server: Server, name: str, text: list[str], rounds: int, at_once: int) -> tuple[float, float]:
    sessions = [new_session(server, model=name) for _ in range(at_once)]
    used, _, seconds = take_turns(server, sessions, text, rounds)
    return used / (rounds * at_once), rounds * at_once / seconds


def _first_delta_ms(server: Server) -> float:
    session_id = new_session(server, model=_DIRECT)
    crowd = Crowd(server, [f"/v1/sessions/{session_id}/events"])
    status, answer = call(
        server, "POST", f"/v1/sessions/{session_id}/prompt", {"text": script(["stamp", "end"], delay_ms=50)}
    )
    assert status == 202, answer
    [stream] = crowd.streams
    arrived = 0.0
    while not stream.ended:
        crowd.wait()
        stream.receive()
        if not arrived and b"message_delta" in stream.chunks[-1]:
            arrived = time.monotonic_ns()
    crowd.close()
    sent = next(int(event.data["delta"]) for event in events(stream.body) if event.name == "message_delta")
    return (arrived - sent) / 1e6
