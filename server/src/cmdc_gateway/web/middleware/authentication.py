"""The gate: nobody gets to `/v1/` without a credential, nor more often than allowed (HTTP-6 … HTTP-9)."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmdc_gateway.errors import BadRequest, GatewayError, NotFound, RateLimited, Unauthorized
from cmdc_gateway.tenancy.keys import KeyRing, Principal
from cmdc_gateway.tenancy.limits import Quota, RateLimit
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.web.dependencies import AuthContext
from cmdc_gateway.web.errors import error_response

_EVENTS = re.compile(r"/v1/sessions/([^/]+)/events")
_SOCKET = re.compile(r"/v1/sessions/([^/]+)/ws")
_TICKET_PROTOCOL = "cmdc.ticket."


class AuthenticationMiddleware:
    """ASGI middleware that lets in who has a key or a ticket, and counts their requests."""

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
            case "http" if scope["path"] == "/v1" or scope["path"].startswith("/v1/"):
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:
                await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            admitted = self._admit(scope)
        except GatewayError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        key_id = admitted.principal.key_id
        try:
            quota = self._rate.spend(key_id)
        except RateLimited as refusal:
            await error_response(refusal)(scope, receive, self._with_quota(send, self._rate.quota(key_id)))
            return
        scope.setdefault("state", {})["auth"] = admitted
        await self.app(scope, receive, self._with_quota(send, quota))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            admitted = self._admit_socket(scope)
            self._rate.spend(admitted.principal.key_id)
            if not _SOCKET.fullmatch(scope["path"]):
                raise NotFound(f"there is no WebSocket at {scope['path']}")
        except GatewayError as refusal:
            await deny(refusal, scope, receive, send)
            return
        scope.setdefault("state", {})["auth"] = admitted
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> AuthContext:
        stream = _EVENTS.fullmatch(scope["path"])
        if stream is None:
            return self._admitted(self._admit_key(scope))
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if "api_key" in query:
            raise BadRequest("an API key does not belong in this URL; send it as a header, or use a ticket")
        if "ticket" not in query or _sent_key(Headers(scope=scope)) is not None:
            return self._admitted(self._admit_key(scope))
        if scope["method"] != "GET":
            raise Unauthorized
        return self._redeem(query["ticket"][0], stream[1])

    def _admit_socket(self, scope: Scope) -> AuthContext:
        headers = Headers(scope=scope)
        if _sent_key(headers) is not None:
            return self._admitted(self._admit_key(scope))
        place = _SOCKET.fullmatch(scope["path"])
        for protocol in scope.get("subprotocols", ()):
            if place and protocol.startswith(_TICKET_PROTOCOL):
                return self._redeem(protocol.removeprefix(_TICKET_PROTOCOL), place[1])
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if "api_key" in query and self._key_in_socket_url:
            return self._admitted(self._known(query["api_key"][0]))
        raise Unauthorized

    def _admit_key(self, scope: Scope) -> Principal:
        key = _sent_key(Headers(scope=scope))
        if key is None:
            raise Unauthorized
        return self._known(key)

    def _known(self, key: str) -> Principal:
        caller = self._keys.principal(key)
        if caller is None:
            raise Unauthorized
        return caller

    def _redeem(self, name: str, session_id: str) -> AuthContext:
        ticket = self._tickets.redeem(name, session_id)
        if ticket is None or not self._keys.knows(ticket.principal.key_id):
            raise Unauthorized
        return self._admitted(ticket.principal, ticket.scope)

    def _admitted(self, caller: Principal, ticket_scope: str | None = None) -> AuthContext:
        return AuthContext(caller, lambda: self._keys.knows(caller.key_id), ticket_scope)

    def _with_quota(self, send: Send, quota: Quota | None) -> Send:
        if quota is None:
            return send

        async def with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["RateLimit-Policy"] = f'"default";q={self._rate.rpm};w=60'
                headers["RateLimit"] = f'"default";r={quota.remaining};t={quota.reset}'
            await send(message)

        return with_quota


async def deny(refusal: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket before the upgrade, with the usual body (WS-1)."""
    message = await receive()
    if message["type"] == "websocket.connect":
        await error_response(refusal)(scope, receive, send)


def _sent_key(headers: Headers) -> str | None:
    """The key a request carries; X-API-Key wins (HTTP-7)."""
    key = headers.get("x-api-key")
    if key is not None:
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
