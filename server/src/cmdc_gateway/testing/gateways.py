"""Gateways to test against: one inside this process, and one in a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from fastapi import FastAPI

from cmdc_gateway.app import create_app
from cmdc_gateway.server import GatewayServer, app_config
from cmdc_gateway.settings import ConfigFile, Settings
from cmdc_gateway.store.store import Store
from cmdc_gateway.tenancy.keys import KeyRing
from cmdc_gateway.web.state import Gateway

KEY = "test-key-of-the-first-tenant"
OTHER_KEY = "test-key-of-the-second-tenant"
TENANTS = {KEY: "default", OTHER_KEY: "other"}


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that listens on loopback inside this process."""

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
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=10, **options)


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    store: Store | str | None = None,
    file: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncGenerator[Served]:
    """Run a gateway on a free port of loopback; `settings` and the TOML `file` as an operator would give them.

    The store is in memory unless a setting says otherwise, the workspace is `folder/workspace`, callbacks may go to
    loopback, there is no rate limit, and every built-in tool is offered.
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
    offered = {"tools": {"offered": [*_EVERY_TOOL]}}
    chosen = Settings(**given).with_file(ConfigFile.model_validate({**offered, **(file or {})}))
    keys = KeyRing(TENANTS)
    app = create_app(chosen, keys=keys, store=None if isinstance(store, str) else store, environ=environ or {})
    listening = socket.create_server(("127.0.0.1", 0))
    server = GatewayServer(app_config(app, chosen), app.state.gateway, grace_seconds=chosen.grace_ms / 1000)
    server.handles_signals = False
    async with app.router.lifespan_context(app):
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it no other way
            await asyncio.sleep(0.005)
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", app, app.state.gateway, keys, server)
        finally:
            server.should_exit = server.force_exit = True
            await running
            listening.close()


class GatewayProcess:
    """`cmdc-gateway serve` in a process of its own, on a port that stays the same over restarts."""

    def __init__(self, folder: Path, *, config: str = "", **environ: str) -> None:
        """`config` is the text of the TOML file; `environ` are settings as `GATEWAY_…`."""
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
        return httpx.AsyncClient(base_url=self.url, headers={"X-API-Key": key}, trust_env=False, timeout=10)

    async def start(self, *, within: float = 20) -> None:
        """Start, and return once `/readyz` answers 200."""
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cmdc_gateway", "serve", env=self._environ, stdout=log, stderr=log
            )
        async with asyncio.timeout(within), self.client() as client:
            while True:
                if self.process.returncode is not None:
                    raise RuntimeError(f"the gateway did not start: {self.log()[-2000:]}")
                try:
                    if (await client.get("/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """`kill -9`."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None, "it was started"
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    def log(self) -> str:
        """What it has printed so far."""
        return (self.folder / "gateway.log").read_text()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


_EVERY_TOOL = ("read_file", "list_dir", "glob", "grep", "write_file", "shell", "ask_user")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
