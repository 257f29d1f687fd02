"""Servers in their own processes, each pinned to a core, and the resources that they use.

Linux only: cores are assigned with `sched_setaffinity`, and the kernel reports the CPU time of another process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cmdc_testkit.launcher import SERVE, gateway_environment, running_server

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = _CORES[0], _CORES[-1]
KEY = "benchmark-key"

# An installed package is compiled once. If Python may not write the bytecode, every start compiles it again.
_INHERITED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    pid: int
    port: int

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of all threads so far, including those that have ended."""
        return time.clock_gettime((~self.pid << 3) | 2)  # clock_getcpuclockid(3), which Python does not provide

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the kernel reports no Rss")

    def maps(self, name: str) -> bool:
        """Whether a file with `name` in its path is mapped into memory."""
        return name in Path(f"/proc/{self.pid}/maps").read_text(encoding="utf-8")


@contextmanager
def gateway(store: str = "sqlite", config: str = "", file: Path | None = None, **settings: str) -> Generator[Server]:
    """A gateway whose store is `memory`, or `sqlite` in `file` or in a new folder."""
    with tempfile.TemporaryDirectory(prefix="cmdc-bench-") as name:
        folder = Path(name)
        variables = {
            "GATEWAY_STORE": f"sqlite:///{file or folder / 'store.db'}" if store == "sqlite" else "memory:",
            "GATEWAY_WORKSPACE": name,
            "GATEWAY_LOG_LEVEL": "warning",
            **{f"GATEWAY_{setting.upper()}": value for setting, value in settings.items()},
        }
        with _running("gateway", SERVE, gateway_environment(folder, {KEY: "default"}, config, **variables)) as server:
            yield server


@contextmanager
def reference() -> Generator[Server]:
    """The minimal FastAPI server in `reference.py`."""
    with _running("reference", _module("benchmarks.reference"), {}) as server:
        yield server


@contextmanager
def floor() -> Generator[Server]:
    """The lower bound of a delivery's cost, in `floor.py`."""
    with _running("floor", _module("benchmarks.floor"), {}) as server:
        yield server


@contextmanager
def model() -> Generator[Server]:
    """The model server in `model.py`, on the client's core."""
    with _running("model", _module("benchmarks.model"), {}, core=CLIENT_CORE) as server:
        yield server


def pin_client() -> None:
    """Keep this process off the servers' core."""
    os.sched_setaffinity(0, {CLIENT_CORE})


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


@contextmanager
def _running(
    name: str, command: Sequence[str], environ: Mapping[str, str], core: int = SERVER_CORE
) -> Generator[Server]:
    pinned = running_server(command, {**_INHERITED, **environ}, before_exec=lambda: os.sched_setaffinity(0, {core}))
    with pinned as server:
        yield Server(name, server.process.pid, server.port)
