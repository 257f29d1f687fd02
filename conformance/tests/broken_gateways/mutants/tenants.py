"""Mutants that do not isolate tenants (HTTP-8)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

from typing import Any

from cmdc_gateway.errors import Forbidden, SessionExists, SessionNotFound
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.web.routes import history, sessions

from broken_gateways.mutant import breaks
from broken_gateways.patching import wrap


async def _owners(registry: Any, session_id: str) -> list[str]:
    """The tenants that have a session of this id."""
    store = registry.services.store
    return [tenant for tenant in ("default", "other") if await store.log_bounds(SessionKey(tenant, session_id))]


@breaks("HTTP-8.routes", "HTTP-8.ws")
def foreign_session_forbidden() -> None:
    """Another tenant's session returns 403, which reveals that it exists."""

    def around(original: Any) -> Any:
        async def find(self: Any, key: SessionKey) -> Any:
            try:
                return await original(self, key)
            except SessionNotFound:
                if await _owners(self, key.session_id):
                    raise Forbidden("this session is not yours") from None
                raise

        return find

    wrap(Registry, "find", around)


@breaks("HTTP-8.same-id")
def ids_shared_between_tenants() -> None:
    """A session's id is taken for every tenant."""

    def around(original: Any) -> Any:
        async def create(self: Any, caller: Any, body: Any, *rest: Any) -> Any:
            if body.session_id and await _owners(self, body.session_id):
                raise SessionExists(body.session_id)
            return await original(self, caller, body, *rest)

        return create

    wrap(Registry, "create", around)


@breaks("HTTP-8.unharmed", "EP-session.state")
def deleted_by_another_tenant() -> None:
    """Another tenant's DELETE returns 404 and deletes the session."""

    def around(original: Any) -> Any:
        async def delete(self: Any, key: SessionKey, *rest: Any) -> Any:
            try:
                return await original(self, key, *rest)
            except SessionNotFound:
                for tenant in await _owners(self, key.session_id):
                    await original(self, SessionKey(tenant, key.session_id), *rest)
                raise

        return delete

    wrap(Registry, "delete", around)


@breaks("HTTP-8.ws")
def foreign_websocket_forbidden() -> None:
    """The WebSocket of another tenant's session returns 403, which reveals that it exists."""
    from cmdc_gateway.web.streaming.websocket import EventSocket

    def around(original: Any) -> Any:
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            registry = self._actions.registry
            finds = registry.find

            async def find(key: SessionKey) -> Any:
                try:
                    return await finds(key)
                except SessionNotFound:
                    if await _owners(registry, key.session_id):
                        raise Forbidden("this session is not yours") from None
                    raise

            self._actions = _Override(self._actions, registry=_Override(registry, find=find))
            await original(self, scope, receive, send)

        return call

    wrap(EventSocket, "__call__", around)


class _Override:
    """An object with some attributes replaced."""

    def __init__(self, other: Any, **instead: Any) -> None:
        self.__dict__.update(instead)
        self._other = other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


@breaks("HTTP-8.lists")
def usage_of_everyone() -> None:
    """A tenant's usage contains that of another tenant."""
    from cmdc_gateway.web import serializers

    def around(original: Any) -> Any:
        async def session_list(store: Any, tenant: str, limit: Any, cursor: Any, state: Any) -> bytes:
            return await original(store, "default", limit, cursor, state)

        return session_list

    wrap(sessions, "session_list", around)
    wrap(history, "tenant_usage", lambda _: lambda store, tenant: serializers.tenant_usage(store, "default"))
