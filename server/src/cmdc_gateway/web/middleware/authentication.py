"""Authentication and rate limits of requests (HTTP-7, HTTP-9).

Authentication is the default: only the routes that the route table marks as public need no key. An unknown path, or a
known path with another method, needs one like any other request, before it is 404 or 405 (HTTP-6).
"""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmdc_gateway.errors import BadRequest, GatewayError, RateLimited, Unauthorized
from cmdc_gateway.tenancy.keys import KeyRing, Principal
from cmdc_gateway.tenancy.limits import Quota, RateLimit
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.web.auth import AuthContext, set_auth
from cmdc_gateway.web.errors import deny_websocket, error_response
from cmdc_gateway.web.routing import route_match

_TICKET_PROTOCOL = "cmdc.ticket."


class AuthenticationMiddleware:
    """ASGI middleware that requires a key or a ticket, and counts the requests of each key."""

    def __init__(
        self, app: ASGIApp, *, keys: KeyRing, tickets: Tickets, rate: RateLimit, key_in_socket_url: bool
    ) -> None:
        self.app = app
        self._keys = keys
        self._tickets = tickets
        self._rate = rate
        self._key_in_socket_url = key_in_socket_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http" if not route_match(scope).public:
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:
                await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            auth = self._authenticate(scope)
        except GatewayError as error:
            await error_response(error)(scope, receive, send)
            return
        key_id = auth.principal.key_id
        try:
            quota = self._rate.spend(key_id)
        except RateLimited as error:
            await error_response(error)(scope, receive, self._with_quota(send, self._rate.quota(key_id)))
            return
        set_auth(scope, auth)
        await self.app(scope, receive, self._with_quota(send, quota))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            auth = self._authenticate_websocket(scope)
            self._rate.spend(auth.principal.key_id)
        except GatewayError as error:
            await deny_websocket(error, scope, receive, send)
            return
        set_auth(scope, auth)
        await self.app(scope, receive, send)

    def _authenticate(self, scope: Scope) -> AuthContext:
        match = route_match(scope)
        if match.stream != "sse":
            return self._context(self._header_principal(scope))
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if "api_key" in query:
            raise BadRequest("an API key is not accepted in this URL; send it as a header, or use a ticket")
        if "ticket" not in query or _header_key(Headers(scope=scope)) is not None:
            return self._context(self._header_principal(scope))
        if scope["method"] != "GET":
            raise Unauthorized
        return self._redeem(query["ticket"][0], match.params["session_id"])

    def _authenticate_websocket(self, scope: Scope) -> AuthContext:
        if _header_key(Headers(scope=scope)) is not None:
            return self._context(self._header_principal(scope))
        match = route_match(scope)
        for protocol in scope.get("subprotocols", ()):
            if match.stream == "websocket" and protocol.startswith(_TICKET_PROTOCOL):
                return self._redeem(protocol.removeprefix(_TICKET_PROTOCOL), match.params["session_id"])
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if "api_key" in query and self._key_in_socket_url:
            return self._context(self._principal(query["api_key"][0]))
        raise Unauthorized

    def _header_principal(self, scope: Scope) -> Principal:
        key = _header_key(Headers(scope=scope))
        if key is None:
            raise Unauthorized
        return self._principal(key)

    def _principal(self, key: str) -> Principal:
        principal = self._keys.principal(key)
        if principal is None:
            raise Unauthorized
        return principal

    def _redeem(self, name: str, session_id: str) -> AuthContext:
        ticket = self._tickets.redeem(name, session_id)
        if ticket is None or not self._keys.knows(ticket.principal.key_id):
            raise Unauthorized
        return self._context(ticket.principal, ticket.scope)

    def _context(self, principal: Principal, ticket_scope: str | None = None) -> AuthContext:
        return AuthContext(principal, lambda: self._keys.knows(principal.key_id), ticket_scope)

    def _with_quota(self, send: Send, quota: Quota | None) -> Send:
        """Return a `send` that adds the headers of HTTP-9, if there is a limit."""
        if quota is None:
            return send

        async def with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["RateLimit-Policy"] = f'"default";q={self._rate.rpm};w=60'
                headers["RateLimit"] = f'"default";r={quota.remaining};t={quota.reset}'
            await send(message)

        return with_quota


def _header_key(headers: Headers) -> str | None:
    """Return the key in the headers; X-API-Key takes precedence (HTTP-7)."""
    key = headers.get("x-api-key")
    if key is not None:
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
