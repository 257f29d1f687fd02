"""Time and memory from the start command to readiness."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.processes import gateway
from benchmarks.wire import call


def run(*, full: bool) -> Iterator[Figure]:
    """Yield the figures."""
    seconds: list[float] = []
    memory: list[int] = []
    cpu: list[float] = []
    for _ in range(5 if full else 3):
        began = time.monotonic()
        with gateway() as server:
            while call(server, "GET", "/readyz")[0] != 200:
                pass
            seconds.append(time.monotonic() - began)
            cpu.append(server.cpu_seconds)
            memory.append(server.memory)
            assert not server.maps("tokenizers"), "litellm was imported"
    yield Figure(
        8,
        "start to `/readyz`",
        min(seconds),
        1.0,
        unit="s",
        detail=f"{min(cpu):.2f} s of CPU, best of {len(cpu)}",
        steady=False,
    )
    yield Figure(8, "memory after the start", min(memory) / 2**20, 80, unit="MiB")
