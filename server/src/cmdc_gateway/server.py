"""The gateway as a process: it listens, announces its URL, handles signals, and shuts down in order (DUR-3)."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import structlog
import uvicorn

from cmdc_gateway.app import create_app, http_limits
from cmdc_gateway.settings import InvalidSetting, Settings, load_settings
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.tenancy.keys import DEFAULT_TENANT, KeyRing, new_key
from cmdc_gateway.web.state import Gateway
from cmdc_gateway.web.transport.http import http_protocol
from cmdc_gateway.web.transport.websocket import ws_protocol

_PING_SECONDS = 20
# Spent twice after the grace period, on clients that do not read; the whole shutdown must stay below 1 s (DUR-3).
_CLOSING_SECONDS = 0.25
# Enough for as many streams. Not the highest limit that a system allows: shell commands inherit it, and some programs
# close every file descriptor up to the limit.
_OPEN_FILES = 65_536

_log = structlog.get_logger(__name__)


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit status.

    Raises InvalidSetting if the workspace, the store or the address cannot be used.
    """
    keys = KeyRing(settings.tenants)
    generated = None if keys else new_key()
    if generated is not None:
        keys.replace({generated.stored: DEFAULT_TENANT})
    try:
        app = create_app(settings, keys=keys)
    except OSError as failure:
        raise InvalidSetting(f"GATEWAY_WORKSPACE: {settings.workspace_root}: {failure.strerror}") from None
    raise_open_file_limit()
    listening = _listen(settings)
    server = GatewayServer(app_config(app, settings), app.state.gateway, grace_seconds=settings.grace_ms / 1000)
    if generated is None:
        server.on_hangup = lambda: _reload_keys(settings, keys, app.state.gateway)

    def announce() -> None:
        print(f"CMDC Gateway listening on {_url(listening)}", flush=True)
        if generated is not None:
            print(f"API key for this run (set GATEWAY_API_KEYS to keep one): {generated.key}", flush=True)

    server.on_started = announce
    try:
        async with app.router.lifespan_context(app):
            await server.serve(sockets=[listening])
    except StoreUnavailable as failure:
        raise InvalidSetting(f"GATEWAY_STORE: {failure}") from None
    finally:
        listening.close()
    return 0


def app_config(app: object, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration: with the limits of this server, and without uvicorn's logs."""
    limits = http_limits(settings)
    return uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        http=http_protocol(limits),
        ws=ws_protocol(limits),
        ws_max_size=limits.ws_message_bytes,
        ws_ping_interval=_PING_SECONDS,
        ws_ping_timeout=_PING_SECONDS,
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_CLOSING_SECONDS,  # pyright: ignore[reportArgumentType]
    )


class GatewayServer(uvicorn.Server):
    """uvicorn's server with the shutdown order of DUR-3."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, *, grace_seconds: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._grace_seconds = grace_seconds
        self.handles_signals = True
        self.on_hangup: Callable[[], Coroutine[Any, Any, None]] = _log_not_reloaded
        self.on_started: Callable[[], None] = lambda: None
        self._reloading: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Shut down on the first SIGTERM or SIGINT, exit on the second; reload the keys on SIGHUP."""
        if not self.handles_signals:
            yield
            return
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_sighup)
        try:
            yield
        finally:
            for number in (*handled, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_sighup(self) -> None:
        self._reloading = asyncio.get_running_loop().create_task(self.on_hangup())

    def _stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, then announce it; signals are handled by then."""
        await super().startup(sockets)
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        gateway = self._gateway
        gateway.ready = False
        gateway.registry.services.draining = True
        gateway.connections.drain()
        _log.info("draining", active_sessions=gateway.registry.active, streams=len(gateway.connections))
        await gateway.registry.drain(self._grace_seconds, hurry=lambda: self.force_exit)
        gateway.connections.end_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await gateway.connections.wait_until_closed()
        gateway.connections.abort_all()
        await super().shutdown(sockets)


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files: each client is one, and many systems start a process with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems reject values below their hard limit; the soft limit then stays as it is.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as failure:
        raise InvalidSetting(
            f"GATEWAY_HOST, GATEWAY_PORT: cannot listen on {settings.host}:{settings.port}: {failure.strerror}"
        ) from None


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _log_not_reloaded() -> None:
    _log.warning("keys_not_reloaded", reason="no keys are configured; the server generated one at startup")


async def _reload_keys(settings: Settings, keys: KeyRing, gateway: Gateway) -> None:
    """Reload the keys from the configuration file; streams of removed keys are closed."""
    try:
        fresh = load_settings({"config": settings.config, "host": settings.host})
    except InvalidSetting as error:
        _log.error("keys_not_reloaded", reason=str(error))
        return
    try:
        await gateway.load_usage(fresh.tenants.values())
    except StoreUnavailable as failure:
        _log.error("keys_not_reloaded", reason=str(failure))
        return
    before = {principal.key_id: principal.tenant for principal in keys.principals()}
    keys.replace(fresh.tenants)
    after = {principal.key_id: principal.tenant for principal in keys.principals()}
    added = sorted(key_id for key_id, tenant in after.items() if before.get(key_id) != tenant)
    revoked = sorted(key_id for key_id, tenant in before.items() if after.get(key_id) != tenant)
    gateway.audit.record("keys_reloaded", added=added, revoked=revoked)
    _log.info("keys_reloaded", keys=len(after), added=added, revoked=revoked)
