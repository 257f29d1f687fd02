"""The registry of sessions: opens them on demand, evicts idle ones, and keeps this process's leases alive."""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from hashlib import sha256
from typing import Any

import structlog

from cmdc_gateway.errors import GatewayError, SessionDead, SessionExists, SessionNotFound, Unavailable
from cmdc_gateway.protocol.history import system
from cmdc_gateway.protocol.sessions import CreateSessionBody, SessionCreated, SessionDeleted
from cmdc_gateway.sessions.audit import audit_row
from cmdc_gateway.sessions.command import IdempotencyRecord, Reply, unattended
from cmdc_gateway.sessions.idempotency import RETENTION_MS
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.store.errors import OwnedElsewhere, SessionAlreadyExists, StoreUnavailable
from cmdc_gateway.store.rows import SessionKey, SessionRow
from cmdc_gateway.store.writes import AppendAudit, AppendMessages, CreateSession, DeleteSession, Write
from cmdc_gateway.tenancy.keys import Principal

LEASE_MS = 15_000
IDLE_AFTER_MS = 60_000
_MAINTENANCE_SECONDS = 5.0
_EPOCH_ALPHABET = string.digits + string.ascii_lowercase
_CONCURRENT_RESUMES = 32
_DRAIN_POLL_SECONDS = 0.02

_log = structlog.get_logger(__name__)


class Registry:
    """Creates, finds, deletes and evicts sessions."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._sessions: dict[SessionKey, Session] = {}
        self._opening: dict[SessionKey, asyncio.Task[Session]] = {}
        self._background: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> int:
        """The number of sessions in memory."""
        return len(self._sessions)

    async def start(self) -> None:
        """Register as an owner; resume or end every unfinished run in the background (DUR-2)."""
        services = self.services
        await services.store.renew(services.owner, services.clock() + LEASE_MS)
        unfinished = await services.store.unfinished()
        self._spawn(self._resume_unfinished(unfinished))
        self._spawn(self._run_maintenance())

    async def create(
        self, principal: Principal, body: CreateSessionBody, idempotency: IdempotencyRecord | None = None
    ) -> Reply:
        """Create a session (EP-create).

        Raises:
            CreateFailed, BadRequest: see `SessionPolicy.resolve`.
            SessionExists: the sessionId is in use.
            Unavailable: the server is stopping.
        """
        services = self.services
        if services.draining:
            raise Unavailable("the server is stopping", retry_after=5)
        settings = await asyncio.to_thread(services.policy.resolve, body)
        key = SessionKey(principal.tenant, body.session_id or secrets.token_hex(16))
        epoch = "".join(secrets.choice(_EPOCH_ALPHABET) for _ in range(8))
        now = services.clock()
        reply = Reply(SessionCreated(session_id=key.session_id, status="created"), 201)
        encoded = settings.encode()
        digest = sha256(encoded).hexdigest()
        created = audit_row(key, principal.key_id, now, "session_created", digest, model=settings.model)
        writes: list[Write] = [CreateSession(SessionRow(key, epoch, now, encoded)), AppendAudit(created)]
        if settings.system_prompt is not None:
            writes.append(AppendMessages(key, (system(settings.system_prompt),)))
        if idempotency is not None:
            writes.append(idempotency.write(reply, now))
        try:
            await services.store.commit(writes)
        except SessionAlreadyExists:
            raise SessionExists(key.session_id) from None
        self._spawn(services.policy.models.find(settings.model).prepare())  # warm up for the first prompt
        return reply

    async def find(self, key: SessionKey) -> Session:
        """Return the session, opening it if it is not in memory.

        Raises:
            SessionNotFound, SessionDead, StoreUnavailable.
            Unavailable: another gateway owns the session.
        """
        session = self._sessions.get(key)
        if session is None or session.log.closed is not None:
            opening = self._opening.get(key)
            if opening is None:
                opening = unattended(asyncio.get_running_loop().create_task(self._open(key)))
                self._opening[key] = opening
            session = await asyncio.shield(opening)
        session.touch()
        return session

    async def log_of(self, key: SessionKey) -> tuple[EventLog, Session | None]:
        """Return the session and its log. A session that cannot be loaded (SessionDead) still has its stored log."""
        try:
            session = await self.find(key)
        except SessionDead:
            store = self.services.store
            bounds = await store.log_bounds(key)
            if bounds is None:
                raise SessionNotFound(key.session_id) from None
            epoch, first_seq, last_seq = bounds
            log = EventLog(epoch, first_seq=first_seq, last_seq=last_seq, stored=partial(store.events, key))
            log.close("lost")
            return log, None
        return session.log, session

    async def delete(self, key: SessionKey, key_id: str) -> Reply:
        """Delete a session, also one that cannot be loaded (EP-delete)."""
        try:
            session = await self.find(key)
        except SessionDead:
            deleted = audit_row(key, key_id, self.services.clock(), "session_deleted")
            await self.services.store.commit([AppendAudit(deleted), DeleteSession(key)])
            return Reply(SessionDeleted(session_id=key.session_id, status="deleted"))
        return await session.commands.delete(key_id)

    async def drain(self, grace_seconds: float, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """Start no new runs; return once none is active that is not blocked on the user (DUR-3).

        Returns after `grace_seconds` at the latest, or as soon as `hurry` returns True.
        """
        self.services.draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        while loop.time() < deadline and not hurry():
            if not any(session.delays_exit for session in self._sessions.values()):
                return
            await asyncio.sleep(_DRAIN_POLL_SECONDS)

    async def close(self) -> None:
        """Stop every session and release its lease."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        sessions, self._sessions = self._sessions, {}
        await asyncio.gather(*(session.stop() for session in sessions.values()))

    async def _open(self, key: SessionKey) -> Session:
        try:
            session = await Session.open(key, self.services, on_closed=self._on_closed)
            self._sessions[key] = session
            return session
        except OwnedElsewhere:
            raise Unavailable("another gateway owns this session; retry") from None
        finally:
            del self._opening[key]

    def _on_closed(self, session: Session) -> None:
        """Forget a session that was deleted, evicted, or is owned by another gateway."""
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]

    async def _resume_unfinished(self, keys: Iterable[SessionKey]) -> None:
        slots = asyncio.Semaphore(_CONCURRENT_RESUMES)

        async def resume(key: SessionKey) -> None:
            async with slots:
                while True:
                    try:
                        await self.find(key)
                        return
                    except (StoreUnavailable, Unavailable):
                        await asyncio.sleep(1)
                    except GatewayError as failure:
                        _log.warning("session_resume_failed", session_id=key.session_id, reason=failure.message)
                        return

        await asyncio.gather(*(resume(key) for key in keys))

    async def _run_maintenance(self) -> None:
        services = self.services
        while True:
            await asyncio.sleep(_MAINTENANCE_SECONDS)
            now = services.clock()
            try:
                await services.store.renew(services.owner, now + LEASE_MS)
                await services.store.forget_responses(now - RETENTION_MS)
            except StoreUnavailable as failure:
                _log.warning("store_unavailable", reason=str(failure))
            await self._evict_idle(now - IDLE_AFTER_MS)

    async def _evict_idle(self, unused_since: int) -> None:
        """Remove from memory the idle sessions that nobody has used since then (ms)."""
        for session in list(self._sessions.values()):
            if session.idle and session.last_used_at < unused_since:
                self._on_closed(session)
                await session.stop()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
