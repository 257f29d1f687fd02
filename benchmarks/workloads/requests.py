"""Single requests on 32 connections: a prompt that is committed before its 202, and `GET` of a session.

The sessions' runs wait for an answer, so that prompts are queued: the measurement includes no run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import Server, gateway, reference
from benchmarks.wire import Callers, call, new_session, request, script

_CONNECTIONS = 32


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    rounds, prompts, gets = (3, 100, 200) if full else (2, 50, 100)
    with gateway(queued_prompts="10000") as ours, reference() as theirs:
        posting = {server.name: list[float]() for server in (ours, theirs)}
        getting = {server.name: list[float]() for server in (ours, theirs)}
        for _ in range(rounds):
            for server in (ours, theirs):
                sessions = [_waiting_session(server) for _ in range(_CONNECTIONS)]
                posting[server.name].append(_post(server, sessions, prompts))
                getting[server.name].append(_get(server, gets))
    for costs, what, bound in (
        (posting, f"`POST prompt` to a durable 202, {_CONNECTIONS} connections", 0.5),
        (getting, f"`GET session`, {_CONNECTIONS} connections", 1.0),
    ):
        mine, other = min(costs["gateway"]), min(costs["reference"])
        yield Figure(
            3,
            what,
            other / mine,
            bound,
            at_least=True,
            detail=f"{mine:.0f} µs of CPU per request, plain FastAPI {other:.0f}",
        )


def _waiting_session(server: Server) -> str:
    """Create a session that queues prompts; the reference ignores prompts."""
    session_id = new_session(server, tools=["ask_user"])
    if server.name == "gateway":
        asking = script([], toolCalls=[{"name": "ask_user", "args": {"question": "Why?"}}])
        status, answer = call(server, "POST", f"/v1/sessions/{session_id}/prompt", {"text": asking})
        assert status == 202, answer
        while call(server, "GET", f"/v1/sessions/{session_id}")[1]["state"] != "waiting_input":
            pass
    return session_id


def _post(server: Server, sessions: list[str], prompts: int) -> float:
    body = {"text": "What is the weather in Oslo, and what will it be tomorrow? " * 2}
    requests = [request("POST", f"/v1/sessions/{session_id}/prompt", body) for session_id in sessions]
    before = server.cpu_seconds
    answers = Callers(server, requests).call(prompts)
    used = server.cpu_seconds - before
    accepted = [json.loads(content) for status, content in answers if status == 202]
    assert len({answer["requestId"] for answer in accepted}) == len(sessions) * prompts, answers[0]
    if server.name == "gateway":
        waiting = sum(len(call(server, "GET", f"/v1/sessions/{name}")[1]["queue"]) for name in sessions)
        assert waiting == len(accepted), "an accepted prompt is missing from the queue"
    return used / len(accepted) * 1e6


def _get(server: Server, times: int) -> float:
    sessions = [new_session(server) for _ in range(_CONNECTIONS)]
    requests = [request("GET", f"/v1/sessions/{session_id}") for session_id in sessions]
    Callers(server, requests).call(1)  # the first use reads a session from the store
    before = server.cpu_seconds
    answers = Callers(server, requests).call(times)
    used = server.cpu_seconds - before
    found = [json.loads(content)["sessionId"] for status, content in answers if status == 200]
    assert sorted(found) == sorted(sessions * times), answers[0]
    return used / len(found) * 1e6
