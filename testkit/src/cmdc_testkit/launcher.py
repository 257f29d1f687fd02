"""Starts servers as processes. Standard library only, because programs without the testkit's dependencies use it too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SERVE = (sys.executable, "-m", "cmdc_gateway", "serve")
"""The command of the gateway that is installed in this environment."""

_ADDRESS = re.compile(r"listening on (http://\S+:(\d+))")
_EXIT_SECONDS = 20


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server process that accepts connections on loopback."""

    process: subprocess.Popen[str]
    url: str
    port: int


def gateway_environment(folder: Path, keys: Mapping[str, str], config: str = "", **variables: str) -> dict[str, str]:
    """Write `gateway.toml` into `folder` and return the environment variables of a gateway that keeps its data there.

    `keys` maps API keys to tenants, `config` is appended to the file. By default the gateway chooses a free port, stores
    its data in SQLite, has no rate limit, and may send callbacks to loopback; `variables` override this.
    """
    file = folder / "gateway.toml"
    lines = (f'"{key}" = "{tenant}"' for key, tenant in keys.items())
    file.write_text("\n".join(["[api_keys]", *lines, config]), encoding="utf-8")
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "GATEWAY_CONFIG": f"{file}",
        "GATEWAY_STORE": f"sqlite:///{folder / 'gateway.db'}",
        "GATEWAY_PORT": "0",
        "GATEWAY_RATE_LIMIT_RPM": "0",
        "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
        **variables,
    }


@contextmanager
def running_server(
    command: Sequence[str | Path], environ: Mapping[str, str], *, before_exec: Callable[[], None] | None = None
) -> Generator[RunningServer]:
    """Start a server that prints `listening on http://…:PORT`, and stop it with SIGTERM on exit.

    `before_exec` runs in the child process before the program starts.

    Raises:
        RuntimeError: the server exits, or prints something else first.
    """
    with subprocess.Popen(  # noqa: S603 - the caller chooses the program
        command,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=before_exec,  # noqa: PLW1509 - only programs without threads pass it
    ) as process:
        try:
            assert process.stdout is not None, "it is a pipe"
            line = process.stdout.readline()
            found = _ADDRESS.search(line)
            if found is None:
                raise RuntimeError(f"{command[0]} did not start: its first line is {line!r}")
            yield RunningServer(process, found[1], int(found[2]))
        finally:
            process.terminate()
            try:
                process.wait(_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
