"""Runs servers as subprocesses on a dedicated core, and measures their CPU time and memory.

Linux only: it uses `sched_setaffinity` and the CPU-time clock of another process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = _CORES[0], _CORES[-1]
KEY = "benchmark-key"

_ADDRESS = "listening on http://127.0.0.1:"
# Without PYTHONDONTWRITEBYTECODE, so that bytecode is compiled once and not at every start.
_AS_INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    pid: int
    port: int

    @property
    def cpu_seconds(self) -> float:
        """CPU time in seconds used so far by all threads, including those that have ended."""
        return time.clock_gettime(
            (~self.pid << 3) | 2
        )  # clock_getcpuclockid(3) for another process, which Python does not offer

    @property
    def memory(self) -> int:
        """Resident set size in bytes."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("a process has an Rss")

    def maps(self, name: str) -> bool:
        """Whether a file whose path contains `name` is mapped into memory."""
        return name in Path(f"/proc/{self.pid}/maps").read_text(encoding="utf-8")


@contextmanager
def gateway(store: str = "sqlite", config: str = "", file: Path | None = None, **settings: str) -> Generator[Server]:
    """A gateway with the store `sqlite` (in `file`, or in a new folder) or `memory`."""
    with tempfile.TemporaryDirectory(prefix="cmdc-bench-") as name:
        folder = Path(name)
        toml = folder / "gateway.toml"
        toml.write_text(config, encoding="utf-8")
        kept = file or folder / "store.db"
        environ = {
            "GATEWAY_API_KEYS": KEY,
            "GATEWAY_STORE": f"sqlite:///{kept}" if store == "sqlite" else "memory:",
            "GATEWAY_CONFIG": str(toml),
            "GATEWAY_WORKSPACE": name,
            "GATEWAY_RATE_LIMIT_RPM": "0",
            "GATEWAY_PORT": "0",
            "GATEWAY_LOG_LEVEL": "warning",
            **{f"GATEWAY_{setting.upper()}": value for setting, value in settings.items()},
        }
        with _running("gateway", ["-m", "cmdc_gateway", "serve"], environ) as server:
            yield server


@contextmanager
def reference() -> Generator[Server]:
    """The reference server, `reference.py`."""
    with _running("reference", ["-m", "benchmarks.reference"], {}) as server:
        yield server


@contextmanager
def floor() -> Generator[Server]:
    """The lower bound for a delivery, `floor.py`."""
    with _running("floor", ["-m", "benchmarks.floor"], {}) as server:
        yield server


@contextmanager
def model() -> Generator[Server]:
    """The model server, `model.py`, on the core of the client."""
    with _running("model", ["-m", "benchmarks.model"], {}, core=CLIENT_CORE) as server:
        yield server


def pin_client() -> None:
    """Pin this process to the core of the client."""
    os.sched_setaffinity(0, {CLIENT_CORE})


@contextmanager
def _running(name: str, arguments: list[str], environ: Mapping[str, str], core: int = SERVER_CORE) -> Generator[Server]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**_AS_INSTALLED, **environ},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - this process has no threads
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if _ADDRESS not in line:
            raise RuntimeError(f"{name} did not start: {line!r}")
        yield Server(name, process.pid, int(line.partition(_ADDRESS)[2]))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
