"""Gateways to test against: one in this process, and one in a separate process that can be killed."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import httpx
from cmdc_gateway.__main__ import main
from cmdc_gateway.app import create_app
from cmdc_gateway.server import GatewayServer, app_config
from cmdc_gateway.settings import ConfigFile, Settings
from cmdc_gateway.store.store import Store
from cmdc_gateway.tenancy.keys import KeyRing
from cmdc_gateway.web.state import Gateway
from fastapi import FastAPI

KEY = "test-key-of-the-first-tenant"
OTHER_KEY = "test-key-of-the-second-tenant"
TENANTS = {KEY: "default", OTHER_KEY: "other"}

# With a limit on idle connections, httpx may close one just as a request acquires it.
_LIMITS = httpx.Limits(max_connections=100)


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway in this process, listening on loopback."""

    url: str
    app: FastAPI
    gateway: Gateway
    keys: KeyRing
    server: GatewayServer

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, key: str | None = KEY, **options: Any) -> httpx.AsyncClient:
        """An HTTP client, by default with the first tenant's key."""
        headers = {"X-API-Key": key} if key is not None else {}
        chosen: dict[str, Any] = {"limits": _LIMITS, "timeout": 10, **options}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, **chosen)


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    store: Store | str | None = None,
    file: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncGenerator[Served]:
    """Run a gateway on a free loopback port, with an operator's `settings` and TOML `file`.

    By default the store is in memory, the workspace is `folder/workspace`, callbacks to loopback are allowed, there is
    no rate limit, and every built-in tool is enabled.
    """
    workspace = folder / "workspace"
    workspace.mkdir(exist_ok=True)
    defaults: dict[str, Any] = {
        "store": store if isinstance(store, str) else "memory:",
        "workspace": workspace,
        "rate_limit_rpm": 0,
        "callback_allow": ["127.0.0.0/8"],
        "grace_ms": 1000,
        **settings,
    }
    offered = {"tools": {"offered": [*_EVERY_TOOL]}}
    chosen = Settings(**defaults).with_file(ConfigFile.model_validate({**offered, **(file or {})}))
    keys = KeyRing(TENANTS)
    app = create_app(chosen, keys=keys, store=None if isinstance(store, str) else store, environ=environ or {})
    listening = socket.create_server(("127.0.0.1", 0))
    server = GatewayServer(app_config(app, chosen), app.state.gateway, grace_seconds=chosen.grace_ms / 1000)
    server.handles_signals = False
    async with app.router.lifespan_context(app):
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
            await asyncio.sleep(0.005)
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", app, app.state.gateway, keys, server)
        finally:
            server.should_exit = server.force_exit = True
            await running
            listening.close()


class GatewayProcess:
    """`cmdc-gateway serve` in a separate process, on a port that stays the same across restarts.

    `program` are the arguments of the Python interpreter.
    """

    program: tuple[str, ...] = ("-m", "cmdc_gateway", "serve")

    def __init__(self, folder: Path, *, config: str = "", **environ: str) -> None:
        """`config` is the text of the TOML file; `environ` are settings as `GATEWAY_…` variables."""
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None
        file = folder / "gateway.toml"
        keys = "\n".join(f'"{key}" = "{tenant}"' for key, tenant in TENANTS.items())
        file.write_text(f"[api_keys]\n{keys}\n{config}")
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "GATEWAY_CONFIG": str(file),
            "GATEWAY_STORE": f"sqlite:///{folder / 'gateway.db'}",
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_RATE_LIMIT_RPM": "0",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
            **environ,
        }

    def client(self, key: str = KEY) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, headers={"X-API-Key": key}, trust_env=False, timeout=10, limits=_LIMITS
        )

    async def start(self, *, within: float = 60) -> None:
        """Start the process; return once `/readyz` is 200."""
        await self._spawn()
        async with asyncio.timeout(within), self.client() as client:
            while True:
                if not self._alive():
                    raise RuntimeError(f"the gateway did not start: {self.log()[-2000:]}")
                try:
                    if (await client.get("/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Send SIGKILL."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        return await self._end(signal.SIGTERM)

    @property
    def pid(self) -> int:
        assert self.process is not None, "it was started"
        return self.process.pid

    async def _spawn(self) -> None:
        with self._log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *self.program, env=self._environ, stdout=log, stderr=log
            )

    def _alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None, "it was started"
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    @property
    def _log_file(self) -> Path:
        return self.folder / "gateway.log"

    def log(self) -> str:
        """Its output so far."""
        return self._log_file.read_text()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


class ForkedGateway(GatewayProcess):
    """The same, forked from a process with everything imported: for tests that restart it often."""

    _forked: BaseProcess | None = None

    @property
    def pid(self) -> int:
        assert self._forked is not None, "it was started"
        assert self._forked.pid is not None, "it was started"
        return self._forked.pid

    async def _spawn(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pytest", "uvloop", "cmdc_gateway.server"])
        self._forked = context.Process(target=_serve_forked, args=(self._environ, str(self._log_file)))
        await asyncio.to_thread(self._forked.start)

    def _alive(self) -> bool:
        return self._forked is not None and self._forked.is_alive()

    async def _end(self, number: signal.Signals) -> int:
        assert self._forked is not None, "it was started"
        if self._forked.is_alive():
            os.kill(self.pid, number)
        await asyncio.to_thread(self._forked.join)
        status = self._forked.exitcode
        assert status is not None, "it has ended"
        return status


def _serve_forked(environ: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environ)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    raise SystemExit(main(["serve"]))


_EVERY_TOOL = ("read_file", "list_dir", "glob", "grep", "write_file", "shell", "ask_user")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
