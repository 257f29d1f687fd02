"""The memory and CPU time of a server process, and its response times under load."""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from cmdc_testkit.raw_connections import RawResponse, connect, request

_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """The resident memory of a process in bytes, and its CPU time since its start in seconds."""

    memory: int
    cpu_seconds: float

    @classmethod
    def of(cls, pid: int) -> ResourceUsage:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        # The process name may contain spaces. The state is the first field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return cls(pages * resource.getpagesize(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def unread_bytes(port: int) -> int:
    """The bytes in the kernel's send queues of all connections to a server on loopback."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            total += int(fields[4].partition(":")[0], 16)
    return total


def mib(size: float) -> str:
    """Format bytes."""
    return f"{size / 2**20:.2f} MiB"


def ms(seconds: float) -> str:
    """Format seconds."""
    return f"{seconds * 1000:.0f} ms"


def p99(samples: list[float]) -> float:
    """The 99th percentile; the maximum of fewer than 100 samples."""
    return statistics.quantiles(samples, n=100)[98] if len(samples) >= 100 else max(samples)


@dataclass(slots=True)
class HealthProbe:
    """`async with HealthProbe(port) as probe:` requests `/healthz` continuously, each time on a new connection.

    `latencies` are in seconds and include connecting. A failed request is raised on exit.
    """

    port: int
    latencies: list[float] = field(default_factory=list[float])
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._probe())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None, "it is a context manager"
        if self._task.done():
            self._task.result()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _probe(self) -> None:
        health_request = request("GET", "/healthz", b"Connection: close", key=None)
        while True:
            start = time.perf_counter()
            async with connect(self.port, health_request) as connection:
                response = await connection.read_response()
            self.latencies.append(time.perf_counter() - start)
            assert isinstance(response, RawResponse), f"/healthz: {response}"
            assert response.status == 200, f"/healthz: {response}"
            await asyncio.sleep(_PAUSE_SECONDS)
