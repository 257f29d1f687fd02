"""The routes, one module per subject. A handler parses, calls one thing, and responds; it makes no decisions."""

from __future__ import annotations

from typing import Final

from cmdc_gateway.web.routes import decisions, events, history, service, sessions, tools
from cmdc_gateway.web.routing import Route

API_ROUTES: Final[tuple[Route, ...]] = (
    *service.routes,
    *sessions.routes,
    *decisions.routes,
    *tools.routes,
    *history.routes,
    *events.routes,
)
"""Every route except the published documents, in the order of the OpenAPI document."""
