"""Creates a gateway from its settings. The only module that knows all others."""

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
from starlette.middleware import Middleware

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
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.factory import create_store
from cmdc_gateway.store.store import Store
from cmdc_gateway.tenancy.keys import KeyRing
from cmdc_gateway.tenancy.limits import RateLimit
from cmdc_gateway.tenancy.meter import Meter
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.client import CallbackClient
from cmdc_gateway.tools.workspace import Workspace
from cmdc_gateway.web.actions import Actions
from cmdc_gateway.web.dispatcher import Dispatcher
from cmdc_gateway.web.errors import on_gateway_error
from cmdc_gateway.web.middleware.authentication import AuthenticationMiddleware
from cmdc_gateway.web.middleware.cors import CorsMiddleware
from cmdc_gateway.web.middleware.exceptions import ExceptionMiddleware
from cmdc_gateway.web.middleware.request_log import RequestLogMiddleware
from cmdc_gateway.web.routes import API_ROUTES
from cmdc_gateway.web.routing import RouteTable, RoutingMiddleware, features
from cmdc_gateway.web.schema.openapi import DOCUMENTS_FEATURE, add_api_routes, add_documents
from cmdc_gateway.web.state import Gateway
from cmdc_gateway.web.streaming.connections import Connections
from cmdc_gateway.web.streaming.heartbeats import Heartbeats
from cmdc_gateway.web.streaming.websocket import EventSocket
from cmdc_gateway.web.transport.limits import HttpLimits


def now_ms() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000


def http_limits(settings: Settings) -> HttpLimits:
    """Return the configured limits of HTTP-5."""
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
    """Create the gateway as an ASGI application. Its lifespan opens and closes everything it uses.

    `keys`, `store` and `catalog` replace those that the settings describe. Raises OSError if the workspace is unusable.
    """
    if not structlog.is_configured():
        logs.configure(settings.log_level)
    environ = os.environ if environ is None else environ
    keys = KeyRing(settings.tenants) if keys is None else keys
    store = create_store(settings.store) if store is None else store
    models = _models(settings, environ) if catalog is None else catalog
    addresses = AddressPolicy(settings.callback_allow)
    tickets = Tickets(now_ms)
    registry = Registry(_services(settings, store, models, addresses))
    actions = Actions(registry, Idempotency(store, now_ms), tickets, addresses)
    gateway = _gateway(settings, keys, store, actions)
    app = _empty_app(gateway, keys)
    app.state.gateway = gateway
    app.state.http_limits = http_limits(settings)
    add_api_routes(app, API_ROUTES)
    table = RouteTable((*API_ROUTES, *add_documents(app)))
    rate = RateLimit(settings.rpm, settings.file.rate_limit.burst, clock=time.monotonic)
    for middleware in reversed(_middleware(settings, gateway, table, keys=keys, tickets=tickets, rate=rate)):
        app.add_middleware(middleware.cls, *middleware.args, **middleware.kwargs)  # each goes around those before it
    return app


def _models(settings: Settings, environ: Mapping[str, str]) -> ModelRegistry:
    return ModelRegistry(
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


def _services(settings: Settings, store: Store, models: ModelRegistry, addresses: AddressPolicy) -> Services:
    root = settings.workspace_root
    if settings.workspace is None:
        root.mkdir(exist_ok=True)
    elif not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "no such directory")
    policy = SessionPolicy(
        models=models,
        workspace=Workspace(root),
        tools=tuple(settings.file.tools.offered),
        requires_approval=tuple(settings.file.tools.approval),
        blueprints=settings.blueprints(),
    )
    return Services(
        store=store,
        policy=policy,
        callbacks=CallbackClient(addresses),
        meter=Meter(settings.budget_configs, clock=now_ms),
        clock=now_ms,
        new_id=random_ids().__next__,
        owner=f"{os.getpid()}-{secrets.token_hex(8)}",
        queued_prompts=settings.queued_prompts,
        replay_events=settings.replay_events,
    )


def _gateway(settings: Settings, keys: KeyRing, store: Store, actions: Actions) -> Gateway:
    connections = Connections(keys.knows)
    keys.on_revoked(connections.revoke)
    return Gateway(
        store=store,
        registry=actions.registry,
        actions=actions,
        connections=connections,
        heartbeats=Heartbeats(settings.heartbeat_ms / 1000),
        audit=AuditLog(store, now_ms),
        capabilities=_capabilities(settings, actions.registry.services, store),
    )


def _capabilities(settings: Settings, services: Services, store: Store) -> Capabilities:
    return Capabilities(
        protocol="0.1",
        extended=sorted({*features(API_ROUTES), DOCUMENTS_FEATURE}),
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


def _empty_app(gateway: Gateway, keys: KeyRing) -> FastAPI:
    """Return an application without routes and middleware."""
    return FastAPI(
        title="CMDC Gateway",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Its spans would contain the URLs of requests, and with them tickets and keys (HTTP-2).
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=_lifespan(gateway, keys),
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={GatewayError: on_gateway_error, StoreUnavailable: on_gateway_error},
    )


def _middleware(
    settings: Settings, gateway: Gateway, table: RouteTable, *, keys: KeyRing, tickets: Tickets, rate: RateLimit
) -> list[Middleware]:
    """Return the middleware, outermost first."""
    socket = EventSocket(
        gateway.actions,
        rate=rate,
        heartbeats=gateway.heartbeats,
        connections=gateway.connections,
        origins=settings.cors_origins,
    )
    return [
        Middleware(RoutingMiddleware, table=table),
        Middleware(RequestLogMiddleware),
        Middleware(CorsMiddleware, origins=settings.cors_origins),
        Middleware(ExceptionMiddleware),
        Middleware(
            AuthenticationMiddleware, keys=keys, tickets=tickets, rate=rate, key_in_socket_url=settings.ws_api_key
        ),
        Middleware(Dispatcher, gateway=gateway, socket=socket),
    ]


def _lifespan(gateway: Gateway, keys: KeyRing) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        services = gateway.registry.services
        await gateway.store.open()
        try:
            await gateway.load_usage(principal.tenant for principal in keys.principals())
            gateway.audit.record("keys_loaded", keys=sorted(principal.key_id for principal in keys.principals()))
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
