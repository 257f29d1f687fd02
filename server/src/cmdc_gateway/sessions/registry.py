"""Every session of this gateway: those at work in memory, the others in the store until somebody wants them."""

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
from cmdc_gateway.sessions.idempotency import KEPT_MS
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.store.store import (
    AppendAudit,
    AppendMessages,
    CreateSession,
    DeleteSession,
    OwnedElsewhere,
    SessionAlreadyExists,
    SessionKey,
    SessionRow,
    StoreUnavailable,
    Write,
)
from cmdc_gateway.tenancy.keys import Principal

LEASE_MS = 15_000
IDLE_AFTER_MS = 60_000
_SWEEP_SECONDS = 5.0
_EPOCH_LETTERS = string.digits + string.ascii_lowercase
_CONCURRENT_RESUMES = 32
_DRAIN_POLL_SECONDS = 0.02

_log = structlog.get_logger(__name__)


class Registry:
    """Makes, finds and lets go of sessions."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._sessions: dict[SessionKey, Session] = {}
        self._opening: dict[SessionKey, asyncio.Task[Session]] = {}
        self._background: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> int:
        """How many sessions are in memory."""
        return len(self._sessions)

    async def start(self) -> None:
        """Become the owner, and let everything that was unfinished go on or come to its end (DUR-2)."""
        services = self.services
        await services.store.renew(services.owner, services.clock() + LEASE_MS)
        unfinished = await services.store.unfinished()
        self._spawn(self._resume_unfinished(unfinished))
        self._spawn(self._run_maintenance())

    async def create(
        self, caller: Principal, body: CreateSessionBody, remember: IdempotencyRecord | None = None
    ) -> Reply:
        """Make a session (§3.2). Raises CreateFailed, SessionExists, Unavailable."""
        services = self.services
        if services.draining:
            raise Unavailable("the server is stopping", retry_after=5)
        settings = await asyncio.to_thread(services.policy.resolve, body)
        key = SessionKey(caller.tenant, body.session_id or secrets.token_hex(16))
        epoch = "".join(secrets.choice(_EPOCH_LETTERS) for _ in range(8))
        now = services.clock()
        reply = Reply(SessionCreated(session_id=key.session_id, status="created"), 201)
        stored = settings.encode()
        made = audit_row(key, caller.key_id, now, "session_created", sha256(stored).hexdigest(), model=settings.model)
        writes: list[Write] = [CreateSession(SessionRow(key, epoch, now, stored)), AppendAudit(made)]
        if settings.system_prompt is not None:
            writes.append(AppendMessages(key, (system(settings.system_prompt),)))
        if remember is not None:
            writes.append(remember.write(reply, now))
        try:
            await services.store.commit(writes)
        except SessionAlreadyExists:
            raise SessionExists(key.session_id) from None
        self._spawn(services.policy.models.find(settings.model).prepare())  # so that the first prompt need not wait
        return reply

    async def find(self, key: SessionKey) -> Session:
        """The session, taken up from the store if need be. Raises SessionNotFound, SessionDead, Unavailable."""
        session = self._sessions.get(key)
        if session is None or session.log.closed is not None:
            opening = self._opening.get(key)
            if opening is None:
                opening = unattended(asyncio.get_running_loop().create_task(self._open(key)))
                self._opening[key] = opening
            session = await asyncio.shield(opening)
        session.last_used_at = self.services.clock()
        return session

    async def log_of(self, key: SessionKey) -> tuple[EventLog, Session | None]:
        """The session's log. Of a session that cannot be loaded, what is stored of it (§3.3)."""
        try:
            session = await self.find(key)
        except SessionDead:
            store = self.services.store
            edges = await store.log_bounds(key)
            if edges is None:
                raise SessionNotFound(key.session_id) from None
            epoch, first, last = edges
            log = EventLog(epoch, first_seq=first, last_seq=last, stored=partial(store.events, key))
            log.close("lost")
            return log, None
        return session.log, session

    async def delete(self, key: SessionKey, key_id: str) -> Reply:
        """Delete a session (§3.4)."""
        try:
            session = await self.find(key)
        except SessionDead:  # what cannot be loaded can still be removed
            deleted = audit_row(key, key_id, self.services.clock(), "session_deleted")
            await self.services.store.commit([AppendAudit(deleted), DeleteSession(key)])
            return Reply(SessionDeleted(session_id=key.session_id, status="deleted"))
        return await session.delete(key_id)

    async def drain(self, grace_seconds: float, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """Begin no new run; return when those that do not wait for a person are over, or after the grace (DUR-3).

        `hurry` says that even the grace is too long.
        """
        self.services.draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        while loop.time() < deadline and not hurry():
            if not any(session.delays_exit for session in self._sessions.values()):
                return
            await asyncio.sleep(_DRAIN_POLL_SECONDS)

    async def close(self) -> None:
        """Let go of every session."""
        for chore in self._background:
            chore.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        sessions, self._sessions = self._sessions, {}
        await asyncio.gather(*(session.stop() for session in sessions.values()))

    async def _open(self, key: SessionKey) -> Session:
        try:
            session = await Session.open(key, self.services, when_over=self._on_closed)
            self._sessions[key] = session
            return session
        except OwnedElsewhere:
            raise Unavailable("another gateway has this session") from None
        finally:
            del self._opening[key]

    def _on_closed(self, session: Session) -> None:
        """A session was deleted, or is another gateway's now."""
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]

    async def _resume_unfinished(self, keys: Iterable[SessionKey]) -> None:
        gate = asyncio.Semaphore(_CONCURRENT_RESUMES)

        async def wake(key: SessionKey) -> None:
            async with gate:
                while True:
                    try:
                        await self.find(key)
                        return
                    except (StoreUnavailable, Unavailable):
                        await asyncio.sleep(1)
                    except GatewayError as failure:
                        _log.warning("session_not_woken", session_id=key.session_id, reason=failure.message)
                        return

        await asyncio.gather(*(wake(key) for key in keys))

    async def _run_maintenance(self) -> None:
        services = self.services
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = services.clock()
            try:
                await services.store.renew(services.owner, now + LEASE_MS)
                await services.store.forget_responses(now - KEPT_MS)
            except StoreUnavailable as failure:
                _log.warning("store_down", reason=str(failure))
            await self._evict_idle(now - IDLE_AFTER_MS)

    async def _evict_idle(self, untouched_since: int) -> None:
        """Leave to the store alone what nobody has wanted since then."""
        for session in list(self._sessions.values()):
            if session.idle and session.last_used_at < untouched_since:
                self._on_closed(session)
                await session.stop()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
