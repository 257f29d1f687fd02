"""Cross-origin requests (HTTP-10)."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from cmdc_gateway.errors import Forbidden
from cmdc_gateway.web.errors import error_response

METHODS = ("GET", "POST", "DELETE", "OPTIONS")
HEADERS = ("content-type", "x-api-key", "authorization", "last-event-id", "idempotency-key")
EXPOSED = ("retry-after", "ratelimit", "ratelimit-policy", "idempotent-replayed")


class CorsMiddleware(CORSMiddleware):
    """Starlette's CORS middleware, with the usual error body for a rejected preflight (HTTP-2)."""

    def __init__(self, app: ASGIApp, *, origins: list[str]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=METHODS, allow_headers=HEADERS, expose_headers=EXPOSED
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return Response(status_code=204, headers=dict(response.headers.items()) | {"content-length": "0"})
        return error_response(Forbidden("this origin, method or header is not allowed"))
