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
from cmdc_gateway.providers.catalog import Catalog
from cmdc_gateway.providers.reach import Reach
from cmdc_gateway.providers.retry import Retrying
from cmdc_gateway.sessions.idempotency import Idempotency
from cmdc_gateway.sessions.ids import random_ids
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import PLUGINS, Offer
from cmdc_gateway.sessions.trail import Trail
from cmdc_gateway.settings import Settings
from cmdc_gateway.store.store import Store, StoreDown
from cmdc_gateway.store.url import store_from_url
from cmdc_gateway.tenancy.keys import KeyRing
from cmdc_gateway.tenancy.limits import RateLimit
from cmdc_gateway.tenancy.meter import Meter
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.tools.addresses import AddressPolicy
from cmdc_gateway.tools.callback import CallbackClient
from cmdc_gateway.tools.workspace import Workspace
from cmdc_gateway.web.actions import Actions
from cmdc_gateway.web.connections import Connections
from cmdc_gateway.web.cors import Cors
from cmdc_gateway.web.errors import SafetyNet, on_gateway_error, on_http_exception
from cmdc_gateway.web.gate import Gate
from cmdc_gateway.web.journal import Journal
from cmdc_gateway.web.limits import HttpLimits
from cmdc_gateway.web.openapi import publish
from cmdc_gateway.web.pulse import Pulse
from cmdc_gateway.web.routes import decisions, events, history, service, sessions, tools
from cmdc_gateway.web.shortcuts import Shortcuts
from cmdc_gateway.web.socket import EventSocket
from cmdc_gateway.web.state import Gateway

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
    catalog: Catalog | None = None,
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
    catalog = catalog or Catalog(
        aliases=settings.targets(environ),
        environ=environ,
        scripted=settings.scripted_model,
        reach=Reach(timeout=settings.model_timeout_ms / 1000),
        retry=partial(
            Retrying,
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
        pulse=Pulse(settings.heartbeat_ms / 1000),
        trail=Trail(store, now_ms),
        capabilities=_capabilities(settings, services, store),
    )
    socket = EventSocket(
        actions, rate=rate, pulse=gateway.pulse, connections=connections, origins=settings.cors_origins
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
            StoreDown: on_gateway_error,
            HTTPException: on_http_exception,
        },
        middleware=[
            Middleware(Journal),
            Middleware(Cors, origins=settings.cors_origins),
            Middleware(SafetyNet),
            Middleware(Gate, keys=keys, tickets=tickets, rate=rate, key_in_socket_url=settings.ws_api_key),
            Middleware(Shortcuts, gateway=gateway, socket=socket),
        ],
    )
    app.state.gateway = gateway
    app.state.http_limits = http_limits(settings)
    for noun in (service, sessions, decisions, tools, history, events):
        app.include_router(noun.router)
    app.router.routes.append(WebSocketRoute("/v1/sessions/{session_id}/ws", socket))
    publish(app)
    return app


def _services(settings: Settings, store: Store, catalog: Catalog, addresses: AddressPolicy) -> Services:
    root = settings.workspace_root
    if settings.workspace is None:
        root.mkdir(exist_ok=True)
    elif not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is no such folder")
    offer = Offer(
        catalog=catalog,
        workspace=Workspace(root),
        tools=tuple(settings.file.tools.offered),
        guarded=tuple(settings.file.tools.approval),
        blueprints=settings.blueprints(),
    )
    return Services(
        store=store,
        offer=offer,
        callbacks=CallbackClient(addresses),
        meter=Meter(settings.allowances, clock=now_ms),
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
        models=services.offer.catalog.names(),
        tools=list(services.offer.tools),
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
            await gateway.recall(caller.tenant for caller in keys.callers())
            gateway.trail.note("keys_loaded", keys=sorted(caller.key_id for caller in keys.callers()))
            await gateway.registry.start()
            gateway.pulse.start()
            gateway.ready = True
            yield
        finally:
            gateway.ready = False
            gateway.connections.end_all()
            await gateway.pulse.stop()
            await gateway.registry.close()
            await gateway.trail.close()
            await services.callbacks.aclose()
            await services.offer.catalog.close()
            await gateway.store.close()

    return lifespan
