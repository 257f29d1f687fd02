"""A line in the log for each request, and an id for everything else that is logged on its way.

What a line holds: method, the route's pattern, status, duration, and the ids of request, session and key. Never what was
sent or answered, nor the URL: it may hold keys, tickets and anything else.
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

_SESSION = re.compile(r"/v1/sessions/([A-Za-z0-9_-]{1,128})(?:/|\Z)", re.ASCII)
# Routes that answer before FastAPI has found out which one it is.
_SHORT = re.compile(r"(/v1/sessions/)[A-Za-z0-9_-]{1,128}((?:/prompt|/events|/ws)?)", re.ASCII)
_STATUS_OF = {"http.response.start", "websocket.http.response.start"}

_log = structlog.get_logger(__name__)


class RequestLogMiddleware:
    """ASGI middleware, round everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._ids = random_ids()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Not a coroutine of its own, which would be kept for as long as a stream is open."""
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        # A request has a task, and with it this context, to itself; what it is made from may be another request's.
        clear_contextvars()
        session = _SESSION.match(scope["path"])
        if session:
            bind_contextvars(http_request_id=next(self._ids), session_id=session[1])
        else:
            bind_contextvars(http_request_id=next(self._ids))
        if _log.is_enabled_for(logging.DEBUG):
            return self._told(scope, receive, send)
        return self.app(scope, receive, send)

    async def _told(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] in _STATUS_OF:
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            auth = scope.get("state", {}).get("auth")
            _log.debug(
                "http_request",
                method=scope.get("method", "GET"),
                route=_route(scope),
                status=status,
                ms=round((time.perf_counter() - begun) * 1000, 1),
                key_id=auth.principal.key_id if auth else None,
            )


def _route(scope: Scope) -> str | None:
    """The route's pattern; None for a path that is none of ours, which may hold anything."""
    short = _SHORT.fullmatch(scope["path"])
    return f"{short[1]}{{session_id}}{short[2]}" if short else getattr(scope.get("route"), "path", None)
