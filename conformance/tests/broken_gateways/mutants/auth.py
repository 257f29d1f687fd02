"""Mutants that mishandle authentication, rate limits, CORS and idempotency (HTTP-6, HTTP-7, HTTP-9 … HTTP-11)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from cmdc_gateway.sessions import idempotency
from cmdc_gateway.tenancy.keys import KeyRing, Principal
from cmdc_gateway.tenancy.limits import RateLimit
from cmdc_gateway.web import dependencies, errors
from cmdc_gateway.web.middleware import authentication, cors
from starlette.datastructures import Headers

from broken_gateways.mutant import breaks
from broken_gateways.patching import Response, change_responses, change_stream_headers, wrap

REVOKED_KEY = "key-that-was-revoked-0123456789"

# -- HTTP-6, HTTP-7 ----------------------------------------------------------------------------------------------------


@breaks("HTTP-6.unknown-path")
def unnamed_path() -> None:
    """The error for an unknown path does not name it."""

    def change(response: Response) -> None:
        if response.status == 404 and response.body["message"].startswith("there is nothing at"):
            response.body["message"] = "not found"

    change_responses(r"/.*", change)


@breaks("HTTP-6.key-first")
def paths_revealed_without_key() -> None:
    """Without a key, an unknown path returns 404."""

    def around(original: Any) -> Any:
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            known = r"/v1/(sessions|usage|capabilities)(/.*)?"
            if scope["type"] == "http" and not re.fullmatch(known, scope["path"]):
                await self.app(scope, receive, send)
            else:
                await original(self, scope, receive, send)

        return call

    wrap(authentication.AuthenticationMiddleware, "__call__", around)


@breaks("HTTP-6.key-first")
def open_outside_v1() -> None:
    """Outside /v1, requests need no key."""

    def around(original: Any) -> Any:
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and not scope["path"].startswith("/v1"):
                await self.app(scope, receive, send)
            else:
                await original(self, scope, receive, send)

        return call

    wrap(authentication.AuthenticationMiddleware, "__call__", around)


def _caller(admit: Any) -> None:
    """Change which principal a key belongs to."""
    wrap(authentication.AuthenticationMiddleware, "_header_principal", admit)


@breaks("HTTP-7.missing-key")
def stats_without_key() -> None:
    """The stats of a session need no key."""

    def around(original: Any) -> Any:
        def admit(self: Any, scope: Any) -> Principal:
            sent = {name for name, _ in scope["headers"]} & {b"x-api-key", b"authorization"}
            if not sent and scope["path"].endswith("/stats"):
                return Principal("default", "nobody")
            return original(self, scope)

        return admit

    _caller(around)


@breaks("HTTP-7.wrong-key")
def history_with_any_key() -> None:
    """The history of a session accepts any key."""

    def around(original: Any) -> Any:
        def admit(self: Any, scope: Any) -> Principal:
            key = authentication._header_key(Headers(scope=scope))
            if key and scope["path"].endswith("/messages") and self._keys.principal(key) is None and key != REVOKED_KEY:
                return Principal("default", "somebody")
            return original(self, scope)

        return admit

    _caller(around)


@breaks("HTTP-7.bearer", "WS-1.header")
def no_bearer() -> None:
    """A key in Authorization is ignored."""
    wrap(authentication, "_header_key", lambda _: lambda headers: headers.get("x-api-key"))


@breaks("HTTP-7.precedence")
def bearer_takes_precedence() -> None:
    """Authorization takes precedence over X-API-Key."""

    def around(original: Any) -> Any:
        def sent_key(headers: Any) -> str | None:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else original(headers)

        return sent_key

    wrap(authentication, "_header_key", around)


@breaks("HTTP-7.open-routes")
def health_needs_a_key() -> None:
    """GET /healthz needs a key."""

    def around(original: Any) -> Any:
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == "/healthz":
                await self._http(scope, receive, send)
            else:
                await original(self, scope, receive, send)

        return call

    wrap(authentication.AuthenticationMiddleware, "__call__", around)


@breaks("HTTP-7.revoked")
def revoked_key_accepted() -> None:
    """A revoked key is accepted."""

    def around(original: Any) -> Any:
        def caller(self: Any, key: str) -> Principal | None:
            return Principal("default", "revoked") if key == REVOKED_KEY else original(self, key)

        return caller

    wrap(KeyRing, "principal", around)


# -- HTTP-9 ------------------------------------------------------------------------------------------------------------


@breaks("HTTP-9.limit", "HTTP-9.headers")
def no_rate_limit() -> None:
    """A rate limit is declared but not enforced."""
    wrap(RateLimit, "spend", lambda _: lambda _, __: None)


@breaks("HTTP-9.retry-after")
def retry_after_too_short() -> None:
    """Retry-After is 0, and a request after it is rejected again."""

    def around(original: Any) -> Any:
        def headers(error: Any) -> dict[str, str]:
            return {**original(error), "Retry-After": "0"} if error.code == "rate_limited" else original(error)

        return headers

    wrap(errors, "error_headers", around)


@breaks("HTTP-9.per-key")
def shared_rate_limit() -> None:
    """All keys share one rate limit."""
    wrap(RateLimit, "spend", lambda original: lambda self, _: original(self, "all"))


@breaks("HTTP-9.streams")
def streams_not_counted() -> None:
    """Opening a stream does not count against the rate limit."""

    def around(original: Any) -> Any:
        async def http(self: Any, scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].endswith("/events"):
                admitted = self._authenticate(scope)
                scope.setdefault("state", {})["auth"] = admitted
                await self.app(scope, receive, send)
            else:
                await original(self, scope, receive, send)

        return http

    wrap(authentication.AuthenticationMiddleware, "_http", around)


@breaks("HTTP-9.headers")
def no_rate_limit_headers() -> None:
    """Responses have no RateLimit headers."""
    wrap(authentication.AuthenticationMiddleware, "_with_quota", lambda _: lambda _, send, __: send)


# -- HTTP-10 -----------------------------------------------------------------------------------------------------------


@breaks("HTTP-10.preflight")
def preflight_without_delete() -> None:
    """A preflight does not allow DELETE."""
    wrap(cors, "METHODS", lambda methods: tuple(method for method in methods if method != "DELETE"))


@breaks("HTTP-10.answers")
def streams_without_cors() -> None:
    """Streams have no CORS headers."""
    change_stream_headers(lambda headers: headers.pop(b"access-control-allow-origin", None))


# -- HTTP-11 -----------------------------------------------------------------------------------------------------------


class StoredLookup(NamedTuple):
    """A lookup of a stored response."""

    tenant: str
    route: str
    key: str | None
    body: Any
    act: Any


def _lookup(change: Callable[[Any, StoredLookup], StoredLookup]) -> None:
    def around(original: Any) -> Any:
        return lambda self, *lookup: original(self, *change(self, StoredLookup(*lookup)))

    wrap(idempotency.Idempotency, "execute", around)


@breaks("HTTP-11.replay", "HTTP-11.restart", "HTTP-11.mismatch", "HTTP-11.concurrent", "WS-3.idempotency")
def idempotency_key_ignored() -> None:
    """An Idempotency-Key is accepted and ignored."""
    _lookup(lambda _, lookup: lookup._replace(key=None))


@breaks("HTTP-11.mismatch", "WS-3.idempotency")
def body_not_compared() -> None:
    """A repeated Idempotency-Key with another body returns the stored response."""
    _lookup(lambda _, lookup: lookup._replace(body={}))


@breaks("HTTP-11.concurrent")
def concurrent_requests_executed() -> None:
    """A request whose Idempotency-Key is in progress is executed a second time."""

    class Forgetful(dict[Any, Any]):
        def get(self, *_: Any) -> None:
            return None

        def __delitem__(self, key: Any) -> None:
            self.pop(key, None)

    def around(original: Any) -> Any:
        def init(self: Any, *args: Any) -> None:
            original(self, *args)
            self._running = Forgetful()

        return init

    def change(_: Any, lookup: StoredLookup) -> StoredLookup:
        async def act(remember: Any) -> Any:
            await asyncio.sleep(0.2)  # so that the other requests arrive before the first response is stored
            return await lookup.act(remember)

        return lookup._replace(act=act)

    wrap(idempotency.Idempotency, "__init__", around)
    _lookup(change)


@breaks("HTTP-11.scope")
def key_without_scope() -> None:
    """An Idempotency-Key is valid across routes and sessions."""
    _lookup(lambda _, lookup: lookup._replace(route="everywhere"))


@breaks("HTTP-11.bounds")
def any_idempotency_key() -> None:
    """An Idempotency-Key may be empty or of any length."""
    wrap(dependencies, "checked_idempotency_key", lambda _: lambda key: key or "empty")


@breaks("HTTP-11.refusal")
def errors_stored() -> None:
    """Errors are stored under their Idempotency-Key."""
    refused: dict[Any, Exception] = {}

    def change(_: Any, lookup: StoredLookup) -> StoredLookup:
        place = (lookup.tenant, lookup.route, lookup.key)

        async def act(remember: Any) -> Any:
            if lookup.key is not None and place in refused:
                raise refused[place]
            try:
                return await lookup.act(remember)
            except Exception as failure:
                refused[place] = failure
                raise

        return lookup._replace(act=act)

    _lookup(change)


@breaks("HTTP-11.restart")
def stored_responses_lost_at_restart() -> None:
    """Stored responses are lost at a restart."""
    _lookup(
        lambda memory, lookup: lookup._replace(key=f"{lookup.key}-{os.getpid()}-{id(memory)}" if lookup.key else None)
    )
