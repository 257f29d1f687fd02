"""What a client can do to a session, the same over HTTP and over a WebSocket (WS-3, WS-4)."""

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
from cmdc_gateway.sessions.idempotency import Idempotency, StoredResponse
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.store.store import SessionKey
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.registration import define

Act = Callable[[Session, IdempotencyRecord | None], Awaitable[Reply]]


class Actions:
    """Each takes who calls, on which session, with what body and under which Idempotency-Key."""

    def __init__(
        self, registry: Registry, idempotency: Idempotency, tickets: Tickets, addresses: AddressPolicy
    ) -> None:
        self.registry = registry
        self._idempotency = idempotency
        self._tickets = tickets
        self._addresses = addresses

    async def create(self, caller: Principal, body: CreateSessionBody, once: str | None) -> StoredResponse:
        return await self._idempotency.execute(
            caller.tenant,
            "POST /v1/sessions",
            once,
            _as_sent(body),
            lambda remember: self.registry.create(caller, body, remember),
        )

    async def prompt(self, caller: Principal, key: SessionKey, body: PromptBody, once: str | None) -> StoredResponse:
        return await self._act(
            key, "prompt", body, once, lambda session, remember: session.submit(body.text, caller.key_id, remember)
        )

    async def approve(self, caller: Principal, key: SessionKey, body: ApproveBody, once: str | None) -> StoredResponse:
        return await self._act(
            key,
            "approve",
            body,
            once,
            lambda session, remember: session.approve(
                body.approval_id, caller.key_id, body.args, body.digest, remember
            ),
        )

    async def reject(self, caller: Principal, key: SessionKey, body: RejectBody, once: str | None) -> StoredResponse:
        return await self._act(
            key,
            "reject",
            body,
            once,
            lambda session, remember: session.reject(body.approval_id, caller.key_id, body.reason, remember),
        )

    async def respond(self, caller: Principal, key: SessionKey, body: RespondBody, once: str | None) -> StoredResponse:
        return await self._act(
            key,
            "respond",
            body,
            once,
            lambda session, remember: session.respond(body.ref, body.response, caller.key_id, remember),
        )

    async def abort(self, caller: Principal, key: SessionKey, body: AbortBody, once: str | None) -> StoredResponse:
        return await self._act(
            key, "abort", body, once, lambda session, remember: session.abort(caller.key_id, body.reason, remember)
        )

    async def register(
        self, caller: Principal, key: SessionKey, body: RegisterToolBody, once: str | None
    ) -> StoredResponse:
        async def register(session: Session, remember: IdempotencyRecord | None) -> Reply:
            definition = await asyncio.to_thread(define, body, self._addresses)
            made = definition.secret if body.secret is None else None
            answer = ToolRegistered(name=body.name, status="registered", secret=made)
            return await session.register(definition, answer, caller.key_id, remember)

        return await self._act(key, "tools", body, once, register)

    async def ticket(self, caller: Principal, key: SessionKey, body: TicketBody, once: str | None) -> StoredResponse:
        async def issue(session: Session, remember: IdempotencyRecord | None) -> Reply:
            name, ticket = self._tickets.issue(caller, key.session_id, body.scope)
            issued = TicketIssued(ticket=name, expires_at=ticket.expires_at)
            return await session.issue_ticket(issued, body.scope, caller.key_id, remember)

        return await self._act(key, "tickets", body, once, issue)

    async def _act(self, key: SessionKey, action: str, body: RequestBody, once: str | None, act: Act) -> StoredResponse:
        async def found(remember: IdempotencyRecord | None) -> Reply:
            return await act(await self.registry.find(key), remember)

        if once is not None:
            # First of all become its owner: what its last one has answered under this key is in the store by then.
            with suppress(SessionNotFound, SessionDead):  # an answer that was given before is given again all the same
                await self.registry.find(key)
        route = f"POST /v1/sessions/{key.session_id}/{action}"
        return await self._idempotency.execute(
            key.tenant, route, once, _as_sent(body) if once is not None else {}, found
        )


def _as_sent(body: RequestBody) -> dict[str, object]:
    return body.model_dump(mode="json", by_alias=True, exclude_unset=True)
