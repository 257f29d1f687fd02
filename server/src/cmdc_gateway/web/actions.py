"""Actions on sessions, shared by HTTP and WebSocket (WS-3, WS-4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from cmdc_gateway.errors import SessionDead, SessionNotFound
from cmdc_gateway.protocol.decisions import ApproveBody, RejectBody, RespondBody
from cmdc_gateway.protocol.service import TicketBody, TicketIssued
from cmdc_gateway.protocol.sessions import AbortBody, CreateSessionBody, PromptBody
from cmdc_gateway.protocol.tools import RegisterToolBody, ToolRegistered
from cmdc_gateway.protocol.wire import RequestBody
from cmdc_gateway.sessions.command import IdempotencyRecord, Reply
from cmdc_gateway.sessions.commands import SessionCommands
from cmdc_gateway.sessions.idempotency import Idempotency, StoredResponse
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.registration import define

SessionCall = Callable[[SessionCommands, IdempotencyRecord | None], Awaitable[Reply]]


class Actions:
    """One method per action. Each takes the principal, the session, the body, and the Idempotency-Key if there is one."""

    def __init__(
        self, registry: Registry, idempotency: Idempotency, tickets: Tickets, addresses: AddressPolicy
    ) -> None:
        self.registry = registry
        self._idempotency = idempotency
        self._tickets = tickets
        self._addresses = addresses

    async def create(
        self, principal: Principal, body: CreateSessionBody, idempotency_key: str | None
    ) -> StoredResponse:
        return await self._idempotency.execute(
            principal.tenant,
            "POST /v1/sessions",
            idempotency_key,
            _as_sent(body),
            lambda record: self.registry.create(principal, body, record),
        )

    async def prompt(
        self, principal: Principal, key: SessionKey, body: PromptBody, idempotency_key: str | None
    ) -> StoredResponse:
        async def submit(session: SessionCommands, record: IdempotencyRecord | None) -> Reply:
            return await session.submit(body.text, principal.key_id, record)

        return await self._execute(key, "prompt", body, idempotency_key, submit)

    async def approve(
        self, principal: Principal, key: SessionKey, body: ApproveBody, idempotency_key: str | None
    ) -> StoredResponse:
        async def approve(session: SessionCommands, record: IdempotencyRecord | None) -> Reply:
            return await session.approve(body.approval_id, principal.key_id, body.args, body.digest, record)

        return await self._execute(key, "approve", body, idempotency_key, approve)

    async def reject(
        self, principal: Principal, key: SessionKey, body: RejectBody, idempotency_key: str | None
    ) -> StoredResponse:
        async def reject(session: SessionCommands, record: IdempotencyRecord | None) -> Reply:
            return await session.reject(body.approval_id, principal.key_id, body.reason, record)

        return await self._execute(key, "reject", body, idempotency_key, reject)

    async def respond(
        self, principal: Principal, key: SessionKey, body: RespondBody, idempotency_key: str | None
    ) -> StoredResponse:
        async def respond(session: SessionCommands, record: IdempotencyRecord | None) -> Reply:
            return await session.respond(body.ref, body.response, principal.key_id, record)

        return await self._execute(key, "respond", body, idempotency_key, respond)

    async def abort(
        self, principal: Principal, key: SessionKey, body: AbortBody, idempotency_key: str | None
    ) -> StoredResponse:
        async def abort(session: SessionCommands, record: IdempotencyRecord | None) -> Reply:
            return await session.abort(principal.key_id, body.reason, record)

        return await self._execute(key, "abort", body, idempotency_key, abort)

    async def register(
        self, principal: Principal, key: SessionKey, body: RegisterToolBody, idempotency_key: str | None
    ) -> StoredResponse:
        async def register(session: SessionCommands, record: IdempotencyRecord | None) -> Reply:
            definition = await asyncio.to_thread(define, body, self._addresses)
            generated = definition.secret if body.secret is None else None
            answer = ToolRegistered(name=body.name, status="registered", secret=generated)
            return await session.register(definition, answer, principal.key_id, record)

        return await self._execute(key, "tools", body, idempotency_key, register)

    async def ticket(
        self, principal: Principal, key: SessionKey, body: TicketBody, idempotency_key: str | None
    ) -> StoredResponse:
        async def issue(session: SessionCommands, record: IdempotencyRecord | None) -> Reply:
            name, ticket = self._tickets.issue(principal, key.session_id, body.scope)
            issued = TicketIssued(ticket=name, expires_at=ticket.expires_at)
            return await session.issue_ticket(issued, body.scope, principal.key_id, record)

        return await self._execute(key, "tickets", body, idempotency_key, issue)

    async def _execute(
        self, key: SessionKey, action: str, body: RequestBody, idempotency_key: str | None, call: SessionCall
    ) -> StoredResponse:
        async def call_session(record: IdempotencyRecord | None) -> Reply:
            return await call((await self.registry.find(key)).commands, record)

        if idempotency_key is not None:
            # Take over the session before looking for a stored response: its previous owner has then committed its own.
            with suppress(SessionNotFound, SessionDead):  # a stored response is replayed even if the session is gone
                await self.registry.find(key)
        route = f"POST /v1/sessions/{key.session_id}/{action}"
        return await self._idempotency.execute(
            key.tenant, route, idempotency_key, _as_sent(body) if idempotency_key is not None else {}, call_session
        )


def _as_sent(body: RequestBody) -> dict[str, object]:
    return body.model_dump(mode="json", by_alias=True, exclude_unset=True)
