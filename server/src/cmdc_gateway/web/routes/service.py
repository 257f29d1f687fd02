"""Liveness, readiness, and capabilities."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response

from cmdc_gateway import __version__
from cmdc_gateway.errors import Unavailable
from cmdc_gateway.protocol.service import ActiveSessions, Capabilities, Health, Readiness, TrackedKeys
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.web.responses import json_response
from cmdc_gateway.web.routing import Operation, RouteGroup
from cmdc_gateway.web.state import GatewayDep

routes = RouteGroup(tag="service")


@routes.route("GET", "/healthz", Operation("Check liveness", Health, public=True))
async def healthz(gateway: GatewayDep) -> Response:
    """Returns 200 as long as the process responds."""
    try:
        tracked = await gateway.store.tracked_keys()
    except StoreUnavailable:  # still alive; /readyz reports the store
        tracked = 0
    health = Health(
        status="ok",
        version=__version__,
        sessions=ActiveSessions(active=gateway.registry.active),
        meter=TrackedKeys(tracked_keys=tracked),
        timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    )
    return json_response(health.encode())


@routes.route("GET", "/readyz", Operation("Check readiness", Readiness, public=True, errors=("unavailable",)))
async def readyz(gateway: GatewayDep) -> Response:
    """Returns 503 while the server is starting or stopping, or when its store is unavailable."""
    if not gateway.ready:
        raise Unavailable("the server is starting or stopping")
    await gateway.store.ping()
    return json_response(Readiness(status="ready").encode())


@routes.route("GET", "/v1/capabilities", Operation("Get capabilities", Capabilities, features=("capabilities",)))
async def get_capabilities(gateway: GatewayDep) -> Response:
    """The features, models, tools, and limits of this server that a client may rely on."""
    return json_response(gateway.capabilities.encode())
