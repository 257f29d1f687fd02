"""What the handlers share, created once by `app.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from cmdc_gateway.protocol.service import Capabilities
from cmdc_gateway.sessions.audit import AuditLog
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.store.store import Store
from cmdc_gateway.web.actions import Actions
from cmdc_gateway.web.streaming.connections import Connections
from cmdc_gateway.web.streaming.heartbeats import Heartbeats


@dataclass(slots=True)
class Gateway:
    """A running gateway. `ready` is true from the end of the start until the server begins to stop."""

    store: Store
    registry: Registry
    actions: Actions
    connections: Connections
    heartbeats: Heartbeats
    audit: AuditLog
    capabilities: Capabilities
    ready: bool = False

    async def load_usage(self, tenants: Iterable[str]) -> None:
        """Load what these tenants have used, for their budgets; each tenant is read once."""
        meter = self.registry.services.meter
        for tenant in set(tenants) - meter.loaded:
            meter.load_usage(tenant, await self.store.usage(tenant))


async def gateway(request: Request) -> Gateway:
    """Return the gateway that serves this request. A coroutine because FastAPI runs plain functions in a thread."""
    return cast("Gateway", request.app.state.gateway)


GatewayDep = Annotated[Gateway, Depends(gateway)]
