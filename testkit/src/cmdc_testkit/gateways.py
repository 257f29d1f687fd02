"""Gateways to test against: inside this process, or in their own process, which can be killed and restarted."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, Self
from unittest.mock import patch

import httpx
from cmdc_gateway.__main__ import main
from cmdc_gateway.app import create_app
from cmdc_gateway.protocol.schema import events_schema
from cmdc_gateway.server import GatewayServer, app_config
from cmdc_gateway.settings import ConfigFile, Settings
from cmdc_gateway.store.store import Store
from cmdc_gateway.tenancy.keys import KeyRing
from cmdc_gateway.web.schema import openapi as schema
from cmdc_gateway.web.schema.asyncapi import asyncapi
from cmdc_gateway.web.state import Gateway
from fastapi import FastAPI

from cmdc_testkit.launcher import SERVE, gateway_environment

KEY = "test-key-of-the-first-tenant"
OTHER_KEY = "test-key-of-the-second-tenant"
TENANTS = {KEY: "default", OTHER_KEY: "other"}

# With a limit on idle connections, httpx may close one at the moment a request takes it from the pool.
_LIMITS = httpx.Limits(max_connections=100)


@dataclass(frozen=True, slots=True)
class InProcessGateway:
    """A gateway that listens on loopback and runs in this process."""

    url: str
    app: FastAPI
    gateway: Gateway
    keys: KeyRing
    server: GatewayServer

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, key: str | None = KEY, **options: Any) -> httpx.AsyncClient:
        """An HTTP client with the first tenant's key."""
        headers = {"X-API-Key": key} if key is not None else {}
        chosen: dict[str, Any] = {"limits": _LIMITS, "timeout": 10, **options}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, **chosen)


@asynccontextmanager
async def in_process_gateway(
    folder: Path,
    *,
    store: Store | str | None = None,
    file: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncGenerator[InProcessGateway]:
    """Run a gateway on a free port of loopback. `settings` and the TOML `file` are those of an operator.

    By default the store is in memory, the workspace is `folder/workspace`, callbacks may go to loopback, there is no
    rate limit, and every built-in tool is enabled.
    """
    workspace = folder / "workspace"
    workspace.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "store": store if isinstance(store, str) else "memory:",
        "workspace": workspace,
        "rate_limit_rpm": 0,
        "callback_allow": ["127.0.0.0/8"],
        "grace_ms": 1000,
        **settings,
    }
    enabled = {"tools": {"offered": [*_EVERY_TOOL]}}
    chosen = Settings(**given).with_file(ConfigFile.model_validate({**enabled, **(file or {})}))
    keys = KeyRing(TENANTS)
    with documents_derived_once():
        app = create_app(chosen, keys=keys, store=None if isinstance(store, str) else store, environ=environ or {})
    listening = socket.create_server(("127.0.0.1", 0))
    server = _InProcessServer(app_config(app, chosen), app.state.gateway, grace_seconds=chosen.grace_ms / 1000)
    server.handles_signals = False
    async with app.router.lifespan_context(app):
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        try:
            yield InProcessGateway(
                f"http://127.0.0.1:{listening.getsockname()[1]}", app, app.state.gateway, keys, server
            )
        finally:
            server.stop()
            await running
            listening.close()


class _InProcessServer(GatewayServer):
    """A server that stops immediately, and not at uvicorn's next tick, of which there are ten per second."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = self.force_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        tasks = [asyncio.create_task(super().main_loop()), asyncio.create_task(self._stopped.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


_openapi_document: dict[str, Any] = {}


@contextmanager
def documents_derived_once() -> Generator[None]:
    """Reuse the published documents of the first app in this process.

    The settings do not change them, and deriving them takes most of the time in which an app is created.
    """
    derive = schema.openapi

    def openapi(app: FastAPI) -> dict[str, Any]:
        if not _openapi_document:
            _openapi_document.update(derive(app))
        return _openapi_document

    with (
        patch.object(schema, "openapi", openapi),
        patch.object(schema, "asyncapi", _asyncapi),
        patch.object(schema, "events_schema", _events_schema),
    ):
        yield


_asyncapi = cache(asyncapi)
_events_schema = cache(events_schema)


class GatewayProcess:
    """A gateway in its own process, on a port that stays the same over restarts."""

    def __init__(
        self,
        folder: Path,
        *,
        config: str = "",
        command: Sequence[str] = SERVE,
        forked: bool = False,
        **variables: str,
    ) -> None:
        """`config` is appended to the TOML file, `variables` are settings such as `GATEWAY_STORE`.

        A forked gateway starts faster: its process begins with everything imported. It ignores `command`.
        """
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = command
        self._forked = forked
        self._environ = gateway_environment(folder, TENANTS, config, **{"GATEWAY_PORT": f"{self.port}", **variables})
        self._process: _Process | None = None

    def client(self, key: str = KEY) -> httpx.AsyncClient:
        """An HTTP client with the first tenant's key."""
        return httpx.AsyncClient(
            base_url=self.url, headers={"X-API-Key": key}, trust_env=False, timeout=10, limits=_LIMITS
        )

    async def start(self, *, within: float = 60) -> None:
        """Start the process and wait until `/readyz` returns 200, for at most `within` seconds."""
        start = _ForkedProcess.start if self._forked else _SpawnedProcess.start
        self._process = await start(self._command, self._environ, self._log_file)
        async with asyncio.timeout(within), self.client() as client:
            while True:
                if not self._process.alive:
                    raise RuntimeError(f"the gateway did not start: {self.log()[-2000:]}")
                try:
                    if (await client.get("/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.01)

    @property
    def pid(self) -> int:
        return self._running.pid

    def send_signal(self, number: signal.Signals) -> None:
        """Send the process a signal, unless it has exited."""
        if self._running.alive:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait until the process exits; return its exit status."""
        return await self._running.wait()

    async def kill(self) -> None:
        """`kill -9`."""
        self.send_signal(signal.SIGKILL)
        await self.wait()

    async def stop(self) -> int:
        """Send SIGTERM and wait for the exit; return the exit status."""
        self.send_signal(signal.SIGTERM)
        return await self.wait()

    def log(self) -> str:
        """Everything that the process has written to standard output and standard error."""
        return self._log_file.read_text()

    @property
    def _log_file(self) -> Path:
        return self.folder / "gateway.log"

    @property
    def _running(self) -> _Process:
        assert self._process is not None, "the gateway was started"
        return self._process

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


class _Process(Protocol):
    @property
    def pid(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    async def wait(self) -> int: ...


class _SpawnedProcess:
    """A new interpreter."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, command: Sequence[str], environ: Mapping[str, str], log: Path) -> _SpawnedProcess:
        with log.open("ab") as output:
            return cls(await asyncio.create_subprocess_exec(*command, env=environ, stdout=output, stderr=output))

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        return await self._process.wait()


class _ForkedProcess:
    """A copy of multiprocessing's fork server, which has imported the gateway and derived its documents already."""

    def __init__(self, process: BaseProcess) -> None:
        assert process.pid is not None, "the process was started"
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, _: Sequence[str], environ: Mapping[str, str], log: Path) -> _ForkedProcess:
        context = multiprocessing.get_context("forkserver")
        # The fork server imports the main module too, which is pytest here.
        context.set_forkserver_preload(["pytest", "uvloop", "cmdc_testkit.preload"])
        process = context.Process(target=_serve, args=(dict(environ), str(log)))
        await asyncio.to_thread(process.start)
        return cls(process)

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    async def wait(self) -> int:
        await asyncio.to_thread(self._process.join)
        assert self._process.exitcode is not None, "the process has exited"
        return self._process.exitcode


def _serve(environ: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environ)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    with documents_derived_once():
        status = main(["serve"])
    raise SystemExit(status)


_EVERY_TOOL = ("read_file", "list_dir", "glob", "grep", "write_file", "shell", "ask_user")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
