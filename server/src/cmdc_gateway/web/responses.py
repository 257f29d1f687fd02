"""Responses of handlers, made from JSON that is encoded already."""

from __future__ import annotations

from starlette.responses import Response

from cmdc_gateway.sessions.idempotency import StoredResponse


def json_response(body: bytes, status: int = 200) -> Response:
    """Return a response with this JSON body."""
    return Response(body, status, media_type="application/json")


def stored_response(stored: StoredResponse) -> Response:
    """Return the response of an action; a replayed one is marked (HTTP-11)."""
    headers = {"Idempotent-Replayed": "true"} if stored.replayed else None
    return Response(stored.body, stored.status, headers, media_type="application/json")
