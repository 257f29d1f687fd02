"""A fork server for gateways: a process that has imported everything, and forks for each gateway.

Starting a gateway takes two seconds, and six more if it uses litellm. A fork takes a fraction of one, and is still a
process of its own that can be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypedDict


class StartRequest(TypedDict):
    """A request to start a gateway. `folder` holds its log and its pid, `environ` its settings."""

    mutant: str | None
    folder: str
    environ: dict[str, str]


class ForkServer:
    """Runs the fork server while its context is entered. It listens on a Unix socket in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = folder / "forkserver"

    def __enter__(self) -> Self:
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "broken_gateways.forkserver", "serve", str(self._socket)],
            env=environ,
            stdin=subprocess.PIPE,
        )
        _wait_for(self._socket.is_socket, "the fork server")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "it was opened with a pipe"
        self._process.stdin.close()  # the fork server exits with its stdin, however this process ends
        self._process.wait(timeout=10)

    def start(self, mutant: str | None, folder: Path, environ: dict[str, str]) -> Gateway:
        """Start a gateway and wait until it is ready. `environ` holds its `GATEWAY_…` settings."""
        request = StartRequest(mutant=mutant, folder=str(folder), environ=environ)
        (folder / "start.json").write_text(json.dumps(request))
        gateway = Gateway(self, folder, f"http://127.0.0.1:{environ['GATEWAY_PORT']}")
        gateway.start()
        return gateway

    def start_command(self, folder: Path) -> str:
        """A shell command that starts the gateway of a folder again."""
        tests = Path(__file__).parent.parent
        program = f"PYTHONPATH='{tests}' '{sys.executable}' -m broken_gateways.forkserver"
        return f"{program} start '{self._socket}' '{folder}'"


class Gateway:
    """A gateway that the fork server has started."""

    def __init__(self, forkserver: ForkServer, folder: Path, url: str) -> None:
        self.url = url
        self.folder = folder
        self._socket = forkserver.folder / "forkserver"

    def start(self) -> None:
        start(self._socket, self.folder)
        _wait_for(lambda: self._is_ready() or self._has_ended(), "the gateway")
        if self._has_ended():
            raise RuntimeError(f"the gateway did not start: {(self.folder / 'gateway.log').read_text()[-2000:]}")

    def kill(self) -> None:
        kill(self.folder)

    def _is_ready(self) -> bool:
        try:
            connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=5)
            connection.request("GET", "/healthz")
            connection.getresponse().close()
        except OSError:
            return False
        connection.close()
        return True

    def _has_ended(self) -> bool:
        try:
            os.kill(int((self.folder / "pid").read_text()), 0)
        except ProcessLookupError:
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def start(socket_path: Path, folder: Path) -> None:
    """Make the fork server start the gateway of a folder; return when the process exists.

    A previous gateway of the folder must have exited first, because it holds the store.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, TimeoutError):
        previous = int((folder / "pid").read_text())
        _wait_for(lambda: os.kill(previous, 0), "the exit of the previous gateway", seconds=10)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(socket_path))
        connection.sendall((folder / "start.json").read_bytes())
        connection.shutdown(socket.SHUT_WR)
        (folder / "pid").write_bytes(connection.recv(64))


def kill(folder: Path) -> None:
    """Kill the gateway of a folder and wait until it is gone."""
    pid = int((folder / "pid").read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        while True:
            os.kill(pid, 0)
            time.sleep(0.005)


def _wait_for(condition: object, what: str, *, seconds: float = 60) -> None:
    assert callable(condition), "it is called until it is true"
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out after {seconds:g} s waiting for {what}")
        time.sleep(0.01)


# -- the process itself ------------------------------------------------------------------------------------------------


def serve_forks(socket_path: Path) -> None:
    """Fork a gateway for each request, until stdin is closed."""
    _preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped automatically
    children: list[int] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(socket_path))
        listening.listen()
        os.set_blocking(0, False)
        while True:
            listening.settimeout(0.2)
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                if _stdin_is_closed():
                    break
                continue
            with connection:
                request: StartRequest = json.loads(connection.makefile("rb").read())
                pid = os.fork()
                if pid == 0:
                    listening.close()
                    _serve(request)
                children.append(pid)
                connection.sendall(str(pid).encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _stdin_is_closed() -> bool:
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


def _preload() -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    for name in ("litellm", "uvloop", "cmdc_gateway.logs", "cmdc_gateway.server", "broken_gateways.mutants"):
        importlib.import_module(name)
    _cache_openapi()
    _prepare_models()
    gc.collect()
    gc.freeze()


def _cache_openapi() -> None:
    """Generate the OpenAPI document once. It is the same for all gateways and the slowest part of their start."""
    from cmdc_gateway.app import create_app
    from cmdc_gateway.settings import Settings
    from cmdc_gateway.web.schema import openapi

    cached: list[dict[str, Any]] = []
    original = openapi.openapi
    openapi.openapi = lambda app: cached[0] if cached else original(app)
    with tempfile.TemporaryDirectory() as workspace:
        settings: dict[str, Any] = {"store": "memory:", "workspace": Path(workspace)}
        cached.append(original(create_app(Settings(**settings))))


def _prepare_models() -> None:
    """Do what a gateway does before its first model call."""
    from cmdc_gateway.providers.litellm.provider import LitellmProvider
    from cmdc_gateway.providers.target import ModelTarget

    asyncio.run(LitellmProvider(ModelTarget("openai/none")).prepare())


def _serve(request: StartRequest) -> NoReturn:
    """Run the gateway in this process. Never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(Path(request["folder"]) / "gateway.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(request["environ"])

        from cmdc_gateway.__main__ import main

        from broken_gateways.mutants import MUTANTS

        if request["mutant"] is not None:
            MUTANTS[request["mutant"]].apply()
        status = main(["serve"])
    except BaseException:
        import traceback

        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _command(what: str, socket_path: Path, folder: Path | None) -> None:
    match what:
        case "serve":
            serve_forks(socket_path)
        case "start" if folder:
            start(socket_path, folder)
        case _:
            raise SystemExit(f"unknown command {what}")


if __name__ == "__main__":
    _command(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)
