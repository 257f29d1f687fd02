"""How fast the Python client parses events into typed objects, on one core."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import KEY, Server, gateway
from benchmarks.wire import Crowd, call, new_session, script


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    from cmdc_client import Client, MessageDelta  # noqa: PLC0415 - the other workloads do not need it

    deltas = 5_000
    text = [f"chunk {number:>4} of the response of this model, " for number in range(deltas)]
    best = 0.0
    with gateway() as server:
        session_id = _session_with_log(server, text)
        for _ in range(5 if full else 3):
            with Client(f"http://127.0.0.1:{server.port}", api_key=KEY) as client:
                session = client.sessions.get(session_id)
                began, count, received = time.process_time(), 0, list[str]()
                for event in session.events(after="start"):
                    count += 1
                    if isinstance(event, MessageDelta):
                        received.append(event.delta)
                assert received == text
                best = max(best, count / (time.process_time() - began))
    yield Figure(
        10,
        "`cmdc_client` parses, per second of CPU",
        best,
        30_000,
        unit="events",
        at_least=True,
        steady=False,
    )


def _session_with_log(server: Server, text: list[str]) -> str:
    """Create a session whose log has these deltas; return its id."""
    session_id = new_session(server)
    crowd = Crowd(server, [f"/v1/sessions/{session_id}/events"])
    status, answer = call(server, "POST", f"/v1/sessions/{session_id}/prompt", {"text": script(text)})
    assert status == 202, answer
    crowd.read_to_the_end()
    crowd.close()
    return session_id
