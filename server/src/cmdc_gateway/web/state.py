"""What the routes share: put together once, by `app.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.responses import Response

from cmdc_gateway.protocol.service import Capabilities
from cmdc_gateway.sessions.audit import AuditLog
from cmdc_gateway.sessions.idempotency import StoredResponse
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.store.store import Store
from cmdc_gateway.web.actions import Actions
from cmdc_gateway.web.streaming.connections import Connections
from cmdc_gateway.web.streaming.heartbeats import Heartbeats


@dataclass(slots=True)
class Gateway:
    """A running gateway. `ready` is true from the end of the start until the server is told to stop."""

    store: Store
    registry: Registry
    actions: Actions
    connections: Connections
    heartbeats: Heartbeats
    audit: AuditLog
    capabilities: Capabilities
    ready: bool = False

    async def load_usage(self, tenants: Iterable[str]) -> None:
        """Let budgets know what these tenants have used; each is asked about once."""
        meter = self.registry.services.meter
        for tenant in set(tenants) - meter.loaded:
            meter.load_usage(tenant, await self.store.usage(tenant))


async def gateway(request: Request) -> Gateway:  # FastAPI runs what is not async in a thread
    """The gateway that serves this request."""
    return cast("Gateway", request.app.state.gateway)


GatewayDep = Annotated[Gateway, Depends(gateway)]


def answer(given: StoredResponse) -> Response:
    """An answer that may have been given before (HTTP-11)."""
    headers = {"Idempotent-Replayed": "true"} if given.replayed else None
    return Response(given.body, given.status, headers, media_type="application/json")


def json_answer(raw: bytes, status: int = 200) -> Response:
    """An answer that is JSON already."""
    return Response(raw, status, media_type="application/json")
