"""Error responses: the only place where an error code becomes a status (HTTP-2)."""

from __future__ import annotations

import secrets
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cmdc_gateway.errors import GatewayError, Internal, MethodNotAllowed, RateLimited, Unavailable
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.store.errors import StoreUnavailable

STATUS: Final[dict[str, int]] = {
    "bad_request": 400,
    "invalid_cursor": 400,
    "unauthorized": 401,
    "budget_exceeded": 402,
    "forbidden": 403,
    "not_found": 404,
    "session_dead": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "already_resolved": 409,
    "digest_mismatch": 409,
    "session_exists": 409,
    "idempotency_in_progress": 409,
    "cursor_expired": 410,
    "payload_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "create_failed": 422,
    "registration_failed": 422,
    "idempotency_mismatch": 422,
    "upgrade_required": 426,
    "rate_limited": 429,
    "queue_full": 429,
    "headers_too_large": 431,
    "internal": 500,
    "unavailable": 503,
}

_log = structlog.get_logger(__name__)


def error_body(error: GatewayError) -> bytes:
    """Return the JSON body of an error."""
    return dumps({"error": error.code, "message": error.message, **error.members()})


def error_headers(error: GatewayError) -> dict[str, str]:
    """Return the headers that belong to an error."""
    match error:
        case RateLimited() | Unavailable():
            return {"Retry-After": str(error.retry_after)}
        case MethodNotAllowed():
            return {"Allow": ", ".join(error.allowed)}
        case _ if error.code == "unauthorized":
            return {"WWW-Authenticate": "Bearer"}
        case _ if error.code == "upgrade_required":
            return {"Upgrade": "websocket"}
        case _:
            return {}


def error_response(error: GatewayError) -> Response:
    """Return the response for an error."""
    return Response(error_body(error), STATUS[error.code], error_headers(error), media_type="application/json")


def as_gateway_error(failure: Exception) -> GatewayError:
    """Return the error to send for an exception. An unexpected one is logged; the client gets only its incident id."""
    match failure:
        case GatewayError():
            return failure
        case StoreUnavailable():
            _log.warning("store_unavailable", reason=str(failure))
            return Unavailable("the store is not available")
        case _:
            incident = secrets.token_hex(8)
            _log.error("internal_error", incident=incident, exc_info=failure)
            return Internal(incident)


async def on_gateway_error(_: Request, failure: Exception) -> Response:
    """Answer an error raised by a handler."""
    return error_response(as_gateway_error(failure))


async def deny_websocket(error: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
    """Reject a WebSocket handshake with the usual error response (WS-1)."""
    message = await receive()
    if message["type"] == "websocket.connect":
        await error_response(error)(scope, receive, send)
