"""A shorter way for the requests that come most, a prompt and a look at a session, and for those that stay: streams.

FastAPI finds out anew for each request which route it is for and what that depends on, which costs more than what these
routes do; and as long as a stream is open, all that stands between it and its connection is kept in memory. Here the
routes' functions are called as FastAPI would call them, with what the same functions make of the request. They are routes
like all others besides: so they are published, and found wherever somebody looks for routes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cmdc_gateway.errors import GatewayError
from cmdc_gateway.protocol.sessions import PromptBody
from cmdc_gateway.store.store import SessionKey, StoreUnavailable
from cmdc_gateway.web.dependencies import (
    NoQuery,
    auth_context,
    idempotency_key,
    no_body,
    parsed_query,
    read_as,
)
from cmdc_gateway.web.errors import as_gateway_error, error_response
from cmdc_gateway.web.routes.events import EventsQuery, read_events
from cmdc_gateway.web.routes.sessions import get_session, post_prompt
from cmdc_gateway.web.state import Gateway
from cmdc_gateway.web.streaming.websocket import EventSocket

_PATH = re.compile(r"/v1/sessions/([^/]+)(/prompt|/events|/ws|)")

Answer = Callable[[Request, SessionKey], Awaitable[Response]]


class FastPath:
    """ASGI middleware, behind the gate."""

    def __init__(self, app: ASGIApp, *, gateway: Gateway, socket: EventSocket) -> None:
        self.app = app
        self._socket = socket
        self._gateway = gateway
        self._answers: dict[tuple[str, str], Answer] = {
            ("POST", "/prompt"): self._prompt,
            ("GET", ""): self._look,
            ("GET", "/events"): self._read,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PATH.fullmatch(scope["path"]) if scope["type"] in ("http", "websocket") else None
        if found is not None and scope["type"] == "websocket" and found[2] == "/ws":
            scope["path_params"] = {"session_id": found[1]}
            await self._socket(scope, receive, send)
            return
        answer = self._answers.get((scope.get("method", ""), found[2])) if found else None
        if found is None or answer is None:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await answer(request, SessionKey(auth_context(request).principal.tenant, found[1]))
        except (GatewayError, StoreUnavailable) as failure:
            response = error_response(as_gateway_error(failure))
        await response(scope, receive, send)

    async def _prompt(self, request: Request, key: SessionKey) -> Response:
        _no_query(request)
        sent = await read_as(PromptBody, request)
        return await post_prompt(
            self._gateway, auth_context(request).principal, key, sent, await idempotency_key(request)
        )

    async def _look(self, request: Request, key: SessionKey) -> Response:
        _no_query(request)
        await no_body(request)
        return await get_session(self._gateway, key)

    async def _read(self, request: Request, key: SessionKey) -> Response:
        sent = parsed_query(EventsQuery, request.query_params)
        await no_body(request)
        return await read_events(request, self._gateway, auth_context(request).principal, key, sent)


def _no_query(request: Request) -> None:
    if request.scope["query_string"]:
        parsed_query(NoQuery, request.query_params)
