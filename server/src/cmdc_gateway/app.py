"""Puts a gateway together. The only module that knows every other."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute

from cmdc_gateway import __version__, logs
from cmdc_gateway.errors import GatewayError
from cmdc_gateway.protocol.service import Capabilities, Limits
from cmdc_gateway.providers.plugin import load_plugins
from cmdc_gateway.providers.registry import ModelRegistry
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.sessions.audit import AuditLog
from cmdc_gateway.sessions.idempotency import Idempotency
from cmdc_gateway.sessions.ids import random_ids
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import PLUGINS, SessionPolicy
from cmdc_gateway.settings import Settings
from cmdc_gateway.store.store import Store, StoreUnavailable
from cmdc_gateway.store.url import store_from_url
from cmdc_gateway.tenancy.keys import KeyRing
from cmdc_gateway.tenancy.limits import RateLimit
from cmdc_gateway.tenancy.meter import Meter
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.client import CallbackClient
from cmdc_gateway.tools.workspace import Workspace
from cmdc_gateway.web.actions import Actions
from cmdc_gateway.web.errors import ExceptionMiddleware, on_gateway_error, on_http_exception
from cmdc_gateway.web.fast_path import FastPath
from cmdc_gateway.web.middleware.authentication import AuthenticationMiddleware
from cmdc_gateway.web.middleware.cors import CorsMiddleware
from cmdc_gateway.web.middleware.request_log import RequestLogMiddleware
from cmdc_gateway.web.routes import decisions, events, history, service, sessions, tools
from cmdc_gateway.web.schema.openapi import publish
from cmdc_gateway.web.state import Gateway
from cmdc_gateway.web.streaming.connections import Connections
from cmdc_gateway.web.streaming.heartbeats import Heartbeats
from cmdc_gateway.web.streaming.websocket import EventSocket
from cmdc_gateway.web.transport.limits import HttpLimits

EXTENDED = [
    "abort",
    "approval_args",
    "approval_digest",
    "approval_timeout",
    "budgets",
    "capabilities",
    "cursors",
    "event_pages",
    "event_types",
    "follow",
    "idempotency",
    "list_sessions",
    "metadata",
    "request_events",
    "schemas",
    "signed_callbacks",
    "tickets",
    "tool_list",
    "usage",
    "ws_action_id",
    "ws_after",
]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def http_limits(settings: Settings) -> HttpLimits:
    """The bounds of HTTP-5 as they are set."""
    return HttpLimits(
        body_bytes=settings.body_bytes,
        header_bytes=settings.header_bytes,
        header_fields=settings.header_fields,
        url_bytes=settings.url_bytes,
        header_seconds=settings.header_timeout_ms / 1000,
        body_seconds=settings.body_timeout_ms / 1000,
        ws_message_bytes=settings.ws_message_bytes,
    )


def create_app(
    settings: Settings,
    *,
    keys: KeyRing | None = None,
    store: Store | None = None,
    catalog: ModelRegistry | None = None,
    environ: Mapping[str, str] | None = None,
) -> FastAPI:
    """The gateway as an ASGI application. Its lifespan opens and closes everything it uses.

    `keys`, `store` and `catalog` stand in for those that the settings name.
    """
    if not structlog.is_configured():
        logs.configure(settings.log_level)
    environ = os.environ if environ is None else environ
    keys = KeyRing(settings.tenants) if keys is None else keys
    store = store_from_url(settings.store) if store is None else store
    catalog = catalog or ModelRegistry(
        aliases=settings.targets(environ),
        plugins=load_plugins(
            environ,
            timeout=settings.model_timeout_ms / 1000,
            disabled=() if settings.scripted_model else ("scripted",),
        ),
        retry=partial(
            RetryingProvider,
            delays=[delay / 1000 for delay in settings.model_retry_ms],
            stall_seconds=settings.model_stall_ms / 1000,
        ),
    )
    addresses = AddressPolicy(settings.callback_allow)
    services = _services(settings, store, catalog, addresses)
    registry = Registry(services)
    tickets = Tickets(now_ms)
    actions = Actions(registry, Idempotency(store, now_ms), tickets, addresses)
    rate = RateLimit(settings.rpm, settings.file.rate_limit.burst, clock=time.monotonic)
    connections = Connections(keys.knows)
    keys.on_revoked(connections.revoke)
    gateway = Gateway(
        store=store,
        registry=registry,
        actions=actions,
        connections=connections,
        heartbeats=Heartbeats(settings.heartbeat_ms / 1000),
        audit=AuditLog(store, now_ms),
        capabilities=_capabilities(settings, services, store),
    )
    socket = EventSocket(
        actions, rate=rate, pulse=gateway.heartbeats, connections=connections, origins=settings.cors_origins
    )
    app = FastAPI(
        title="CMDC Gateway",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Its spans would have the URLs of requests, in which there may be a ticket or a key (HTTP-2).
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=_lifespan(gateway, keys),
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={
            GatewayError: on_gateway_error,
            StoreUnavailable: on_gateway_error,
            HTTPException: on_http_exception,
        },
        middleware=[
            Middleware(RequestLogMiddleware),
            Middleware(CorsMiddleware, origins=settings.cors_origins),
            Middleware(ExceptionMiddleware),
            Middleware(
                AuthenticationMiddleware, keys=keys, tickets=tickets, rate=rate, key_in_socket_url=settings.ws_api_key
            ),
            Middleware(FastPath, gateway=gateway, socket=socket),
        ],
    )
    app.state.gateway = gateway
    app.state.http_limits = http_limits(settings)
    for noun in (service, sessions, decisions, tools, history, events):
        app.include_router(noun.router)
    app.router.routes.append(WebSocketRoute("/v1/sessions/{session_id}/ws", socket))
    publish(app)
    return app


def _services(settings: Settings, store: Store, catalog: ModelRegistry, addresses: AddressPolicy) -> Services:
    root = settings.workspace_root
    if settings.workspace is None:
        root.mkdir(exist_ok=True)
    elif not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is no such folder")
    offer = SessionPolicy(
        models=catalog,
        workspace=Workspace(root),
        tools=tuple(settings.file.tools.offered),
        requires_approval=tuple(settings.file.tools.approval),
        blueprints=settings.blueprints(),
    )
    return Services(
        store=store,
        policy=offer,
        callbacks=CallbackClient(addresses),
        meter=Meter(settings.budget_configs, clock=now_ms),
        clock=now_ms,
        new_id=random_ids().__next__,
        owner=f"{os.getpid()}-{secrets.token_hex(8)}",
        queued_prompts=settings.queued_prompts,
        replay_events=settings.replay_events,
    )


def _capabilities(settings: Settings, services: Services, store: Store) -> Capabilities:
    return Capabilities(
        protocol="0.1",
        extended=EXTENDED,
        models=services.policy.models.names(),
        tools=list(services.policy.tools),
        plugins=list(PLUGINS),
        durability=store.durability,
        limits=Limits(
            body_bytes=settings.body_bytes,
            header_bytes=settings.header_bytes,
            queued_prompts=settings.queued_prompts,
            ws_message_bytes=settings.ws_message_bytes,
            replay_events=settings.replay_events,
            heartbeat_ms=settings.heartbeat_ms,
            grace_ms=settings.grace_ms,
            rpm=settings.rpm,
        ),
    )


def _lifespan(gateway: Gateway, keys: KeyRing) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        services = gateway.registry.services
        await gateway.store.open()
        try:
            await gateway.load_usage(caller.tenant for caller in keys.principals())
            gateway.audit.record("keys_loaded", keys=sorted(caller.key_id for caller in keys.principals()))
            await gateway.registry.start()
            gateway.heartbeats.start()
            gateway.ready = True
            yield
        finally:
            gateway.ready = False
            gateway.connections.end_all()
            await gateway.heartbeats.stop()
            await gateway.registry.close()
            await gateway.audit.close()
            await services.callbacks.aclose()
            await services.policy.models.close()
            await gateway.store.close()

    return lifespan
