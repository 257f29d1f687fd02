"""Errors on their way out: the one place where a code becomes a status (HTTP-2)."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmdc_gateway.errors import (
    BadRequest,
    GatewayError,
    Internal,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    Unavailable,
)
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.store.store import StoreUnavailable

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
    """The JSON body of an error."""
    return dumps({"error": error.code, "message": error.message, **error.members()})


def error_headers(error: GatewayError) -> dict[str, str]:
    """The headers an error has beside its body."""
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
    """The answer to a request that was refused."""
    return Response(error_body(error), STATUS[error.code], error_headers(error), media_type="application/json")


def as_gateway_error(failure: Exception) -> GatewayError:
    """What a client is told about a failure. One that is a defect of ours is logged, and told only by its id."""
    match failure:
        case GatewayError():
            return failure
        case StoreUnavailable():
            _log.warning("store_unavailable", reason=str(failure))
            return Unavailable("the store does not answer now")
        case _:
            incident = secrets.token_hex(8)
            _log.error("internal_error", incident=incident, exc_info=failure)
            return Internal(incident)


async def on_gateway_error(_: Request, failure: Exception) -> Response:
    """Answer a refusal raised in a route."""
    return error_response(as_gateway_error(failure))


async def on_http_exception(request: Request, failure: Exception) -> Response:
    """What the router refuses: a path that is not there, or not with this method (HTTP-6)."""
    assert isinstance(failure, HTTPException), "registered for this class alone"
    method, path = request.method, request.url.path
    if failure.status_code == 405:
        return error_response(MethodNotAllowed(method, path, _methods(request)))
    if failure.status_code == 404:
        return error_response(NotFound(f"there is nothing at {method} {path}"))
    return error_response(BadRequest(str(failure.detail)))


def _methods(request: Request) -> list[str]:
    """The methods that this path does have."""
    return [
        method
        for method in ("DELETE", "GET", "POST")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.router.routes
        )
    ]


class ExceptionMiddleware:
    """Answers what nobody else has answered, so that no failure leaves without its JSON body and its CORS headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, note)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            if started:
                raise
            # At the exit, uvicorn waits for nobody any longer: without this it would answer 500, in plain text.
            await error_response(Unavailable("the server is stopping", retry_after=5))(scope, receive, send)
        except Exception as failure:
            error = as_gateway_error(failure)
            if started:  # too late for an answer: the broken connection tells it
                raise
            await error_response(error)(scope, receive, send)
