"""Whole turns: open a stream, post a prompt, and read 200 deltas until the end of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import Server, gateway, reference
from benchmarks.wire import Crowd, call, check_run, new_session, script

DELTAS = 200


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    rounds, turns = (3, 96) if full else (2, 32)
    text = [f"word {number} " for number in range(DELTAS)]
    with gateway() as ours, reference() as theirs:
        for at_once in (1, 16):
            costs = {server.name: list[tuple[float, float]]() for server in (ours, theirs)}
            for _ in range(rounds):
                for server in (ours, theirs):
                    costs[server.name].append(_cost(server, text, turns // at_once, at_once))
            short = [min(_cost(server, text[:1], 6, at_once) for _ in range(2))[0] for server in (ours, theirs)]
            (mine, rate), (other, their_rate) = min(costs["gateway"]), min(costs["reference"])
            yield Figure(
                4,
                f"turns of {DELTAS} deltas, {at_once} at a time",
                other / mine,
                0.7,
                at_least=True,
                detail=f"{mine * 1e3:.2f} ms of CPU per turn, {short[0] * 1e3:.2f} with a single delta, {rate:.0f} turns/s; "
                f"reference {other * 1e3:.2f} ms, {short[1] * 1e3:.2f}, {their_rate:.0f} turns/s",
            )


def _cost(server: Server, text: list[str], rounds: int, at_once: int) -> tuple[float, float]:
    """Server CPU in seconds per turn, and turns per second."""
    sessions = [new_session(server) for _ in range(at_once)]
    used, _, seconds = take_turns(server, sessions, text, rounds)
    return used / (rounds * at_once), rounds * at_once / seconds


def take_turns(server: Server, sessions: list[str], text: list[str], rounds: int) -> tuple[float, list[Crowd], float]:
    """Run this turn `rounds` times in each session; return server CPU in seconds, the readers, and the elapsed seconds."""
    prompt = {"text": script(text)}
    crowds: list[Crowd] = []
    cpu, began = server.cpu_seconds, time.monotonic()
    for _ in range(rounds):
        crowd = Crowd(server, [f"/v1/sessions/{session_id}/events" for session_id in sessions])
        for session_id in sessions:
            status, answer = call(server, "POST", f"/v1/sessions/{session_id}/prompt", prompt)
            assert status == 202, answer
        crowd.read_to_the_end()
        crowd.close()
        crowds.append(crowd)
    used, seconds = server.cpu_seconds - cpu, time.monotonic() - began
    for crowd in crowds:
        for stream in crowd.streams:
            check_run(stream.body, text)
    return used, crowds, seconds
