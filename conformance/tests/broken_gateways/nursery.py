"""Raises gateways: a process that has everything imported, and forks whenever one is wanted.

A gateway that is started from nothing takes two seconds, and one that reaches a model through litellm six more. Forked,
it is there in a fraction of one, and still a process of its own that can be killed.
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


class Wish(TypedDict):
    """Which gateway is wanted. `folder` is where it finds its log and leaves its pid; `environ` are its settings."""

    mutant: str | None
    folder: str
    environ: dict[str, str]


class Nursery:
    """The process, as long as the context lasts. It listens on a socket in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._place = folder / "nursery"

    def __enter__(self) -> Self:
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "broken_gateways.nursery", "raise", str(self._place)],
            env=environ,
            stdin=subprocess.PIPE,
        )
        _wait_for(self._place.is_socket, "the nursery")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "it was opened with a pipe"
        self._process.stdin.close()  # the nursery ends with its stdin, however this process ends
        self._process.wait(timeout=10)

    def start(self, mutant: str | None, folder: Path, environ: dict[str, str]) -> Gateway:
        """A gateway that serves; `environ` are settings as `GATEWAY_…`."""
        wish = Wish(mutant=mutant, folder=str(folder), environ=environ)
        (folder / "wish.json").write_text(json.dumps(wish))
        gateway = Gateway(self, folder, f"http://127.0.0.1:{environ['GATEWAY_PORT']}")
        gateway.start()
        return gateway

    def command(self, what: str, folder: Path) -> str:
        """A shell command that does something to the gateway in this folder: `start`, `kill`, `stop` or `hangup`."""
        here = Path(__file__).parent.parent
        program = f"PYTHONPATH='{here}' '{sys.executable}' -m broken_gateways.nursery"
        return f"{program} {what} '{self._place}' '{folder}'"


class Gateway:
    """A gateway that the nursery has raised."""

    def __init__(self, nursery: Nursery, folder: Path, url: str) -> None:
        self.url = url
        self.folder = folder
        self._place = nursery.folder / "nursery"

    def start(self) -> None:
        start(self._place, self.folder)
        _wait_for(lambda: self._serves() or self._has_ended(), "the gateway")
        if self._has_ended():
            raise RuntimeError(f"the gateway did not start: {(self.folder / 'gateway.log').read_text()[-2000:]}")

    def kill(self) -> None:
        end(self.folder, signal.SIGKILL)

    def _serves(self) -> bool:
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


def start(place: Path, folder: Path) -> None:
    """Ask the nursery for the gateway of this folder; return when there is one, which may not serve yet.

    If one is ending there, it has to let go of the store before.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, TimeoutError):
        before = int((folder / "pid").read_text())
        _wait_for(lambda: os.kill(before, 0), "the end of the gateway before", seconds=10)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(place))
        asking.sendall((folder / "wish.json").read_bytes())
        asking.shutdown(socket.SHUT_WR)
        (folder / "pid").write_bytes(asking.recv(64))


def end(folder: Path, number: signal.Signals) -> None:
    """Send the gateway of this folder a signal; with SIGKILL, return when it is gone."""
    pid = int((folder / "pid").read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        while number is signal.SIGKILL:
            os.kill(pid, 0)
            time.sleep(0.005)


def _wait_for(there: object, what: str, *, seconds: float = 60) -> None:
    assert callable(there), "asked again and again"
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.01)


# -- the process itself ------------------------------------------------------------------------------------------------


def raise_gateways(place: Path) -> None:
    """Fork a gateway for each wish, until stdin is closed."""
    _import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the dead are buried at once
    children: list[int] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        os.set_blocking(0, False)
        while True:
            listening.settimeout(0.2)
            try:
                asking, _ = listening.accept()
            except TimeoutError:
                if _stdin_is_closed():
                    break
                continue
            with asking:
                wish: Wish = json.loads(asking.makefile("rb").read())
                pid = os.fork()
                if pid == 0:
                    listening.close()
                    _serve(wish)
                children.append(pid)
                asking.sendall(str(pid).encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _stdin_is_closed() -> bool:
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


def _import_everything() -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    for name in ("litellm", "uvloop", "cmdc_gateway.logs", "cmdc_gateway.server", "broken_gateways.mutants"):
        importlib.import_module(name)
    _describe_once()
    _prepare_models()
    gc.collect()
    gc.freeze()


def _describe_once() -> None:
    """Make the OpenAPI document here: it costs more than all the rest of a start, and is the same for all."""
    from cmdc_gateway.app import create_app
    from cmdc_gateway.settings import Settings
    from cmdc_gateway.web.schema import openapi

    made: list[dict[str, Any]] = []
    describe = openapi.openapi
    openapi.openapi = lambda app: made[0] if made else describe(app)
    with tempfile.TemporaryDirectory() as workspace:
        given: dict[str, Any] = {"store": "memory:", "workspace": Path(workspace)}
        made.append(describe(create_app(Settings(**given))))


def _prepare_models() -> None:
    """Do what the first call of a model would wait for."""
    from cmdc_gateway.providers.litellm import LitellmProvider
    from cmdc_gateway.providers.target import ModelTarget

    asyncio.run(LitellmProvider(ModelTarget("openai/none")).prepare())


def _serve(wish: Wish) -> NoReturn:
    """Be the gateway. Never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(Path(wish["folder"]) / "gateway.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(wish["environ"])

        from cmdc_gateway.__main__ import main

        from broken_gateways.mutants import MUTANTS

        if wish["mutant"] is not None:
            MUTANTS[wish["mutant"]].operate()
        status = main(["serve"])
    except BaseException:
        import traceback

        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _command(what: str, place: Path, folder: Path | None) -> None:
    match what:
        case "raise":
            raise_gateways(place)
        case "start" if folder:
            start(place, folder)
        case "kill" if folder:
            end(folder, signal.SIGKILL)
        case "stop" if folder:
            end(folder, signal.SIGTERM)
        case "hangup" if folder:
            end(folder, signal.SIGHUP)
        case _:
            raise SystemExit(f"nothing is known of {what}")


if __name__ == "__main__":
    _command(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)
