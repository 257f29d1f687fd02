"""Sessions in one SQLite file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message
from cmdc_gateway.store.sqlite import writing
from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.journal import Append
from cmdc_gateway.store.sqlite.readers import Readers
from cmdc_gateway.store.sqlite.reading import Snapshot
from cmdc_gateway.store.sqlite.writer import Writer
from cmdc_gateway.store.store import (
    AppendEvents,
    ApprovalRow,
    AuditRow,
    Durability,
    Lease,
    QuestionRow,
    RequestRow,
    SessionKey,
    SessionRow,
    SessionState,
    StoredResponseRow,
    StoredSession,
    StoreUnavailable,
    ToolRow,
    UsageRow,
    Write,
)


@dataclass(frozen=True, slots=True)
class _Open:
    database: Database
    writer: Writer
    readers: Readers


class SqliteStore:
    """Keeps sessions in one file, which one process has at a time. Of one event loop, which it never blocks.

    `process` survives the end of the process, however it ends; `disk` survives power loss too, and is slower.
    The file is made if it is not there; its folder is not.
    """

    def __init__(self, path: Path, *, durability: Literal["process", "disk"] = "process") -> None:
        self.path = path
        self._durability: Literal["process", "disk"] = durability
        self._opening = asyncio.Lock()
        self._open: _Open | None = None
        self._alive: dict[str, int] = {}

    @property
    def durability(self) -> Durability:
        return self._durability

    async def open(self) -> None:
        async with self._opening:
            if self._open is None:
                database = Database(self.path, self._durability)
                await asyncio.to_thread(database.acquire)
                self._open = _Open(database, Writer(database), Readers(database))

    async def close(self) -> None:
        async with self._opening:
            if is_open := self._open:
                self._open = None
                self._alive.clear()
                await is_open.readers.close()
                # Last, because the last connection that is closed moves the write-ahead log into the file.
                await is_open.writer.close()
                is_open.database.release()

    async def ping(self) -> None:
        await self._writer.run(writing.check_health)

    @property
    def _writer(self) -> Writer:
        return self._opened().writer

    @property
    def _readers(self) -> Readers:
        return self._opened().readers

    def _newest(self, key: SessionKey) -> list[LoggedEvent]:
        # Asked before the file is: what is moved in between is found twice, and not missed.
        return self._opened().database.journal.newest(key)

    def _opened(self) -> _Open:
        if self._open is None:
            raise StoreUnavailable(f"the store {self.path} is not open")
        return self._open

    # -- ownership -----------------------------------------------------------------------------------------------------

    async def renew(self, owner: str, until: int) -> None:
        # Only this process has the file: who is alive need not outlive it.
        self._opened()
        self._alive[owner] = until

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        alive = {other for other, until in self._alive.items() if until > now}
        return await self._writer.run(lambda connection: writing.acquire(connection, key, owner, alive))

    async def release(self, fence: Lease) -> None:
        await self._writer.run(lambda connection: writing.release(connection, fence))

    # -- writing -------------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], fence: Lease | None = None) -> None:
        # A caller that was cancelled may change its list while the commit still waits.
        as_called = tuple(writes)
        work: Append | partial[None] = partial(writing.commit, writes=as_called, fence=fence)
        if len(as_called) == 1 and fence is not None:  # the commonest
            (write,) = as_called
            if isinstance(write, AppendEvents) and write.key == fence.key:
                work = Append(write, fence)
        await self._writer.run(work, writing.size(as_called))

    # -- reading -------------------------------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> StoredSession | None:
        newest = self._newest(key)
        return await self._readers.run(lambda snapshot: snapshot.load(key, newest))

    async def session(self, key: SessionKey) -> SessionRow | None:
        return await self._readers.run(lambda snapshot: snapshot.session(key))

    async def sessions(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None = None, state: SessionState | None = None
    ) -> list[SessionRow]:
        return await self._readers.run(lambda snapshot: snapshot.sessions(tenant, limit, before, state))

    async def unfinished(self) -> list[SessionKey]:
        return await self._readers.run(Snapshot.unfinished)

    async def events(self, key: SessionKey, after: int, limit: int, max_bytes: int = 1 << 20) -> list[LoggedEvent]:
        newest = self._newest(key)
        return await self._readers.run(lambda snapshot: snapshot.events(key, after, limit, max_bytes, newest))

    async def log_bounds(self, key: SessionKey) -> tuple[str, int, int] | None:
        newest = self._newest(key)
        return await self._readers.run(lambda snapshot: snapshot.log_bounds(key, newest))

    async def messages(self, key: SessionKey, after: int = 0, limit: int | None = None) -> list[Message]:
        return await self._readers.run(lambda snapshot: snapshot.messages(key, after, limit))

    async def request(self, key: SessionKey, request_id: str) -> RequestRow | None:
        return await self._readers.run(lambda snapshot: snapshot.request(key, request_id))

    async def approval(self, key: SessionKey, approval_id: str) -> ApprovalRow | None:
        return await self._readers.run(lambda snapshot: snapshot.approval(key, approval_id))

    async def question(self, key: SessionKey, ref: str) -> QuestionRow | None:
        return await self._readers.run(lambda snapshot: snapshot.question(key, ref))

    async def tool(self, key: SessionKey, name: str) -> ToolRow | None:
        return await self._readers.run(lambda snapshot: snapshot.tool(key, name))

    async def usage(self, tenant: str) -> list[UsageRow]:
        return await self._readers.run(lambda snapshot: snapshot.usage(tenant))

    async def tracked_keys(self) -> int:
        return await self._readers.run(Snapshot.tracked_keys)

    async def response(self, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None:
        return await self._readers.run(lambda snapshot: snapshot.response(tenant, route, idempotency_key))

    async def forget_responses(self, before: int) -> None:
        # In slices, so that no commit waits behind a day's worth of answers.
        while await self._writer.run(lambda connection: writing.forget_responses(connection, before)):
            pass

    async def audit(self, after: int, limit: int) -> list[tuple[int, AuditRow]]:
        return await self._readers.run(lambda snapshot: snapshot.audit(after, limit))
