"""What a server process takes of the machine, as the kernel tells it; and how soon it answers meanwhile."""

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

_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """A process at a moment: resident memory in bytes, processor time in seconds since its start."""

    memory: int
    cpu_seconds: float

    @classmethod
    def of(cls, pid: int) -> ResourceUsage:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        # The fields that follow the name, which may hold spaces: state is the first of them.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return cls(pages * resource.getpagesize(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def unread_bytes(port: int) -> int:
    """What the kernel holds for peers of a server on loopback that do not read: of all its connections together."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            total += int(fields[4].partition(":")[0], 16)
    return total


def mib(size: float) -> str:
    """Bytes for a table."""
    return f"{size / 2**20:.2f} MiB"


def ms(seconds: float) -> str:
    """Seconds for a table."""
    return f"{seconds * 1000:.0f} ms"


def p99(samples: list[float]) -> float:
    """The 99th percentile; of few samples the largest."""
    return statistics.quantiles(samples, n=100)[98] if len(samples) >= 100 else max(samples)


@dataclass(slots=True)
class HealthProbe:
    """`async with Health(port) as health:` asks `/healthz` all the time, each time on a new connection.

    `took` are the seconds of each answer, from connecting on; one that fails is an error at the end.
    """

    port: int
    latencies: list[float] = field(default_factory=list[float])
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._ask())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None, "it was entered"
        if self._task.done():
            self._task.result()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        asking = request("GET", "/healthz", b"Connection: close", key=None)
        while True:
            begun = time.perf_counter()
            async with connect(self.port, asking) as one:
                answer = await one.read_response()
            self.latencies.append(time.perf_counter() - begun)
            assert isinstance(answer, RawResponse), f"/healthz: {answer}"
            assert answer.status == 200, f"/healthz: {answer}"
            await asyncio.sleep(_LOOK_SECONDS)
