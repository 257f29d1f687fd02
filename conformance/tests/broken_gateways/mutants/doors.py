"""Gateways that let in the wrong ones, or too many, or not the right ones (HTTP-6, HTTP-7, HTTP-9 … HTTP-11)."""

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
from broken_gateways.surgery import Answer, change_answers, change_stream_headers, wrap

REVOKED_KEY = "key-that-was-revoked-0123456789"

# -- HTTP-6, HTTP-7 ----------------------------------------------------------------------------------------------------


@breaks("HTTP-6.unknown-path")
def nameless_path() -> None:
    """An unknown path is refused without being named."""

    def change(answer: Answer) -> None:
        if answer.status == 404 and answer.body["message"].startswith("there is nothing at"):
            answer.body["message"] = "not found"

    change_answers(r"/.*", change)


@breaks("HTTP-6.key-first")
def paths_told_to_anyone() -> None:
    """Whoever has no key is told which paths there are."""

    def around(original: Any) -> Any:
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            known = r"/v1/(sessions|usage|capabilities)(/.*)?"
            if scope["type"] == "http" and not re.fullmatch(known, scope["path"]):
                await self.app(scope, receive, send)
            else:
                await original(self, scope, receive, send)

        return call

    wrap(authentication.AuthenticationMiddleware, "__call__", around)


def _caller(admit: Any) -> None:
    """Who comes with which key."""
    wrap(authentication.AuthenticationMiddleware, "_header_principal", admit)


@breaks("HTTP-7.missing-key")
def open_figures() -> None:
    """A session's figures are told to whoever has no key at all."""

    def around(original: Any) -> Any:
        def admit(self: Any, scope: Any) -> Principal:
            sent = {name for name, _ in scope["headers"]} & {b"x-api-key", b"authorization"}
            if not sent and scope["path"].endswith("/stats"):
                return Principal("default", "nobody")
            return original(self, scope)

        return admit

    _caller(around)


@breaks("HTTP-7.wrong-key")
def any_key() -> None:
    """A session's history is told to whoever has a key, right or wrong."""

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
    """A key in Authorization is not seen."""
    wrap(authentication, "_header_key", lambda _: lambda headers: headers.get("x-api-key"))


@breaks("HTTP-7.precedence")
def bearer_wins() -> None:
    """Of two keys the one in Authorization counts."""

    def around(original: Any) -> Any:
        def sent_key(headers: Any) -> str | None:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else original(headers)

        return sent_key

    wrap(authentication, "_header_key", around)


@breaks("HTTP-7.open-routes")
def locked_health() -> None:
    """/healthz wants a key."""

    def around(original: Any) -> Any:
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == "/healthz":
                await self._http(scope, receive, send)
            else:
                await original(self, scope, receive, send)

        return call

    wrap(authentication.AuthenticationMiddleware, "__call__", around)


@breaks("HTTP-7.revoked")
def immortal_key() -> None:
    """A key that was revoked still opens."""

    def around(original: Any) -> Any:
        def caller(self: Any, key: str) -> Principal | None:
            return Principal("default", "revoked") if key == REVOKED_KEY else original(self, key)

        return caller

    wrap(KeyRing, "principal", around)


# -- HTTP-9 ------------------------------------------------------------------------------------------------------------


@breaks("HTTP-9.limit", "HTTP-9.headers")
def no_rate() -> None:
    """Nobody asks too often, though a limit is declared."""
    wrap(RateLimit, "spend", lambda _: lambda _, __: None)


@breaks("HTTP-9.retry-after")
def too_short_a_wait() -> None:
    """Whoever asks too often is told to wait for no time at all, and in vain."""

    def around(original: Any) -> Any:
        def headers(error: Any) -> dict[str, str]:
            return {**original(error), "Retry-After": "0"} if error.code == "rate_limited" else original(error)

        return headers

    wrap(errors, "error_headers", around)


@breaks("HTTP-9.per-key")
def one_bucket_for_all() -> None:
    """All keys share one rate."""
    wrap(RateLimit, "spend", lambda original: lambda self, _: original(self, "all"))


@breaks("HTTP-9.streams")
def streams_for_free() -> None:
    """Opening a stream does not count."""

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
def silent_about_the_rate() -> None:
    """Answers do not tell what is left of the rate."""
    wrap(authentication.AuthenticationMiddleware, "_with_quota", lambda _: lambda _, send, __: send)


# -- HTTP-10 -----------------------------------------------------------------------------------------------------------


@breaks("HTTP-10.preflight")
def no_delete_across_origins() -> None:
    """A preflight does not allow DELETE."""
    wrap(cors, "METHODS", lambda methods: tuple(method for method in methods if method != "DELETE"))


@breaks("HTTP-10.answers")
def streams_of_one_origin() -> None:
    """Streams do not carry the CORS headers."""
    change_stream_headers(lambda headers: headers.pop(b"access-control-allow-origin", None))


# -- HTTP-11 -----------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What is asked of the memory for answers."""

    tenant: str
    route: str
    key: str | None
    body: Any
    act: Any


def _asked(change: Callable[[Any, Asked], Asked]) -> None:
    def around(original: Any) -> Any:
        return lambda self, *asked: original(self, *change(self, Asked(*asked)))

    wrap(idempotency.Idempotency, "execute", around)


@breaks("HTTP-11.replay", "HTTP-11.restart", "HTTP-11.mismatch", "HTTP-11.concurrent", "WS-3.idempotency")
def twice_done() -> None:
    """An Idempotency-Key is taken and not heeded."""
    _asked(lambda _, asked: asked._replace(key=None))


@breaks("HTTP-11.mismatch", "WS-3.idempotency")
def other_body_same_answer() -> None:
    """The same Idempotency-Key with another body gets the stored answer."""
    _asked(lambda _, asked: asked._replace(body={}))


@breaks("HTTP-11.concurrent")
def blind_to_the_running() -> None:
    """A request under an Idempotency-Key that is still being worked on is worked on a second time."""

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

    def change(_: Any, asked: Asked) -> Asked:
        async def act(remember: Any) -> Any:
            await asyncio.sleep(0.2)  # so that the others are there before the first has its answer
            return await asked.act(remember)

        return asked._replace(act=act)

    wrap(idempotency.Idempotency, "__init__", around)
    _asked(change)


@breaks("HTTP-11.scope")
def one_key_for_all_routes() -> None:
    """An Idempotency-Key holds for all routes and sessions together."""
    _asked(lambda _, asked: asked._replace(route="everywhere"))


@breaks("HTTP-11.bounds")
def any_idempotency_key() -> None:
    """An Idempotency-Key may be empty, or of any length."""
    wrap(dependencies, "checked_idempotency_key", lambda _: lambda key: key or "empty")


@breaks("HTTP-11.refusal")
def refusals_remembered() -> None:
    """A refusal is remembered under its Idempotency-Key."""
    refused: dict[Any, Exception] = {}

    def change(_: Any, asked: Asked) -> Asked:
        place = (asked.tenant, asked.route, asked.key)

        async def act(remember: Any) -> Any:
            if asked.key is not None and place in refused:
                raise refused[place]
            try:
                return await asked.act(remember)
            except Exception as failure:
                refused[place] = failure
                raise

        return asked._replace(act=act)

    _asked(change)


@breaks("HTTP-11.restart")
def forgetful_after_a_restart() -> None:
    """Stored answers are lost with the process."""
    _asked(lambda memory, asked: asked._replace(key=f"{asked.key}-{os.getpid()}-{id(memory)}" if asked.key else None))
