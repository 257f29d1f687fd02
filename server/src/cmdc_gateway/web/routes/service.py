"""Liveness, readiness, and capabilities."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.responses import Response

from cmdc_gateway import __version__
from cmdc_gateway.errors import Unavailable
from cmdc_gateway.protocol.service import ActiveSessions, Capabilities, Health, Readiness, TrackedKeys
from cmdc_gateway.store.store import StoreUnavailable
from cmdc_gateway.web.schema.operations import operation
from cmdc_gateway.web.state import GatewayDep, json_answer

router = APIRouter(tags=["service"])


@router.get("/healthz", **operation("Check liveness", Health, public=True))
async def healthz(gateway: GatewayDep) -> Response:
    """Returns 200 as long as the process responds."""
    try:
        tracked = await gateway.store.tracked_keys()
    except StoreUnavailable:  # alive all the same; /readyz tells of the store
        tracked = 0
    health = Health(
        status="ok",
        version=__version__,
        sessions=ActiveSessions(active=gateway.registry.active),
        meter=TrackedKeys(tracked_keys=tracked),
        timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    )
    return json_answer(health.encode())


@router.get("/readyz", **operation("Check readiness", Readiness, public=True, errors=("unavailable",)))
async def readyz(gateway: GatewayDep) -> Response:
    """Returns 503 while the server is starting or stopping, or when its store is unavailable."""
    if not gateway.ready:
        raise Unavailable("the server is starting or stopping")
    await gateway.store.ping()
    return json_answer(Readiness(status="ready").encode())


@router.get("/v1/capabilities", **operation("Get capabilities", Capabilities))
async def get_capabilities(gateway: GatewayDep) -> Response:
    """The features, models, tools, and limits of this server that a client may rely on."""
    return json_answer(gateway.capabilities.encode())
