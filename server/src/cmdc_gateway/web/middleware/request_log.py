"""One log entry per request at level debug, and a request id in every other entry that a request causes.

An entry contains the method, the route's template, status, duration, and the ids of request, session and key. Never a
body or a URL: it may contain keys and tickets.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from cmdc_gateway.sessions.ids import random_ids
from cmdc_gateway.web.auth import key_id_of
from cmdc_gateway.web.routing import route_match

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_RESPONSE_STARTS = {"http.response.start", "websocket.http.response.start"}

_log = structlog.get_logger(__name__)


class RequestLogMiddleware:
    """ASGI middleware outside everything but the routing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._ids = random_ids()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Not a coroutine, because one would stay in memory as long as a stream is open."""
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        # Each request runs in a task with a context of its own, which may be a copy of another request's context.
        clear_contextvars()
        session_id = route_match(scope).params.get("session_id", "")
        if _SESSION_ID.fullmatch(session_id):
            bind_contextvars(http_request_id=next(self._ids), session_id=session_id)
        else:
            bind_contextvars(http_request_id=next(self._ids))
        if _log.is_enabled_for(logging.DEBUG):
            return self._logged(scope, receive, send)
        return self.app(scope, receive, send)

    async def _logged(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.perf_counter(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] in _RESPONSE_STARTS:
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            resource = route_match(scope).resource
            _log.debug(
                "http_request",
                method=scope.get("method", "GET"),
                route=resource.template if resource is not None else None,
                status=status,
                ms=round((time.perf_counter() - begun) * 1000, 1),
                key_id=key_id_of(scope),
            )
