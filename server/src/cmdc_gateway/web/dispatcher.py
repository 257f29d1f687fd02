"""The innermost middleware: sends each request to the handler that the route table names.

Most handlers are called through FastAPI, which resolves their dependencies anew for each request. That costs more than
the handlers of the most frequent requests, a prompt and a look-up; and as long as a stream is open, every layer between it
and its connection stays in memory. So three handlers are called directly, with the arguments that FastAPI would pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cmdc_gateway.errors import GatewayError, MethodNotAllowed, NotFound
from cmdc_gateway.protocol.sessions import PromptBody
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.web.auth import auth_of
from cmdc_gateway.web.dependencies import NoQuery, idempotency_key, no_body, parsed_query, read_as
from cmdc_gateway.web.errors import as_gateway_error, deny_websocket, error_response
from cmdc_gateway.web.routes.events import EventsQuery, read_events
from cmdc_gateway.web.routes.sessions import get_session, post_prompt
from cmdc_gateway.web.routing import Handler, RouteMatch, route_match
from cmdc_gateway.web.state import Gateway
from cmdc_gateway.web.streaming.websocket import EventSocket

DirectCall = Callable[[Request, SessionKey], Awaitable[Response]]


class Dispatcher:
    """ASGI middleware behind the authentication. Unknown paths and wrong methods end here (HTTP-6)."""

    def __init__(self, app: ASGIApp, *, gateway: Gateway, socket: EventSocket) -> None:
        self.app = app
        self._gateway = gateway
        self._socket = socket
        self._direct_calls: dict[Handler, DirectCall] = {
            post_prompt: self._post_prompt,
            get_session: self._get_session,
            read_events: self._read_events,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                responder = await self._responder(scope, receive)
            case "websocket":
                responder = self._websocket_responder(scope)
            case _:
                responder = self.app
        await responder(scope, receive, send)

    async def _responder(self, scope: Scope, receive: Receive) -> ASGIApp:
        """Return what sends the response: the response itself, or FastAPI."""
        match = route_match(scope)
        if match.route is None:
            return error_response(_routing_error(match, scope["method"], scope["path"]))
        call = self._direct_calls.get(match.route.handler)
        if call is None:
            return self.app
        key = SessionKey(auth_of(scope).principal.tenant, match.params["session_id"])
        try:
            return await call(Request(scope, receive), key)
        except (GatewayError, StoreUnavailable) as failure:
            return error_response(as_gateway_error(failure))

    def _websocket_responder(self, scope: Scope) -> ASGIApp:
        if route_match(scope).stream == "websocket":
            return self._socket
        return partial(deny_websocket, NotFound(f"there is no WebSocket at {scope['path']}"))

    async def _post_prompt(self, request: Request, key: SessionKey) -> Response:
        _no_query(request)
        body = await read_as(PromptBody, request)
        principal = auth_of(request.scope).principal
        return await post_prompt(self._gateway, principal, key, body, await idempotency_key(request))

    async def _get_session(self, request: Request, key: SessionKey) -> Response:
        _no_query(request)
        await no_body(request)
        return await get_session(self._gateway, key)

    async def _read_events(self, request: Request, key: SessionKey) -> Response:
        query = parsed_query(EventsQuery, request.query_params)
        await no_body(request)
        return await read_events(request, self._gateway, auth_of(request.scope).principal, key, query)


def _routing_error(match: RouteMatch, method: str, path: str) -> GatewayError:
    if match.resource is None:
        return NotFound(f"there is nothing at {method} {path}")
    return MethodNotAllowed(method, path, match.resource.allowed)


def _no_query(request: Request) -> None:
    if request.scope["query_string"]:
        parsed_query(NoQuery, request.query_params)
