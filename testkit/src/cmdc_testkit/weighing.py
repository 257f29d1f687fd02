"""Resource usage of a server process, as reported by the kernel, and its response times under load."""

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

from cmdc_testkit.peers import Answer, peer, request

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Weight:
    """The usage of a process: resident memory in bytes, CPU time in seconds since its start."""

    memory: int
    cpu: float

    @classmethod
    def of(cls, pid: int) -> Weight:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        # Split after the process name, which may contain spaces; the first field is then the state.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return cls(pages * resource.getpagesize(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def unread_bytes(port: int) -> int:
    """Bytes in the kernel's send queues of all connections of a loopback server, which their peers have not read."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            total += int(fields[4].partition(":")[0], 16)
    return total


def mib(size: float) -> str:
    """Format bytes for a table."""
    return f"{size / 2**20:.2f} MiB"


def ms(seconds: float) -> str:
    """Format seconds for a table."""
    return f"{seconds * 1000:.0f} ms"


def p99(samples: list[float]) -> float:
    """The 99th percentile, or the maximum of fewer than 100 samples."""
    return statistics.quantiles(samples, n=100)[98] if len(samples) >= 100 else max(samples)


@dataclass(slots=True)
class Health:
    """`async with Health(port) as health:` polls `/healthz`, each time on a new connection.

    `took` are the response times in seconds, including the connect. A failed request is raised at the end.
    """

    port: int
    took: list[float] = field(default_factory=list[float])
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
            started = time.perf_counter()
            async with peer(self.port, asking) as one:
                answer = await one.answer()
            self.took.append(time.perf_counter() - started)
            assert isinstance(answer, Answer), f"/healthz: {answer}"
            assert answer.status == 200, f"/healthz: {answer}"
            await asyncio.sleep(_POLL_SECONDS)
