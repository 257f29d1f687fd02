"""The store interface on one SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.rows import (
    ApprovalRow,
    AuditRow,
    QuestionRow,
    RequestRow,
    SessionKey,
    SessionRow,
    SessionState,
    StoredResponseRow,
    StoredSession,
    UsageRow,
)
from cmdc_gateway.store.sqlite import jobs, loading
from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.journal import Append
from cmdc_gateway.store.sqlite.readers import Readers
from cmdc_gateway.store.sqlite.tables import (
    approvals,
    audit,
    events,
    health,
    messages,
    questions,
    requests,
    responses,
    sessions,
    usage,
)
from cmdc_gateway.store.sqlite.writer import Writer
from cmdc_gateway.store.store import Durability, Lease
from cmdc_gateway.store.writes import AppendEvents, Write

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Open:
    database: Database
    readers: Readers
    writer: Writer | None
    """None if the store was opened read-only."""


class SqliteStore:
    """Keeps sessions in one file, which one process at a time may write. Belongs to one event loop, and never blocks it.

    Durability `process` survives `kill -9`; `disk` survives power loss too, and is slower. `open` creates the file, but
    not its folder.
    """

    def __init__(self, path: Path, *, durability: Literal["process", "disk"] = "process") -> None:
        self.path = path
        self._durability: Literal["process", "disk"] = durability
        self._opening = asyncio.Lock()
        self._open: _Open | None = None
        self._expiry: dict[str, int] = {}  # of the leases of each owner

    @property
    def durability(self) -> Durability:
        return self._durability

    async def open(self, *, read_only: bool = False) -> None:
        async with self._opening:
            if self._open is None:
                database = Database(self.path, self._durability)
                await asyncio.to_thread(database.check_readable if read_only else database.open)
                self._open = _Open(database, Readers(database), None if read_only else Writer(database))

    async def close(self) -> None:
        async with self._opening:
            if opened := self._open:
                self._open = None
                self._expiry.clear()
                await opened.readers.close()
                # Last, because closing the last connection moves the write-ahead log into the file.
                if opened.writer:
                    await opened.writer.close()
                opened.database.release()

    async def ping(self) -> None:
        await self._writer.run(health.check)

    @property
    def _writer(self) -> Writer:
        writer = self._opened().writer
        if writer is None:
            raise StoreUnavailable(f"the store {self.path} is open read-only")
        return writer

    def _opened(self) -> _Open:
        if self._open is None:
            raise StoreUnavailable(f"the store {self.path} is not open")
        return self._open

    async def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return await self._opened().readers.run(read)

    async def _read_log(self, key: SessionKey, read: Callable[[sqlite3.Connection, Sequence[LoggedEvent]], T]) -> T:
        """Read a log, with its events that are only in the journal."""
        opened = self._opened()
        if opened.writer is None:
            return await opened.readers.run(lambda connection: read(connection, events.find_journaled(connection, key)))
        unflushed = opened.database.journal.unflushed(key)
        return await opened.readers.run(lambda connection: read(connection, unflushed))

    # -- leases --------------------------------------------------------------------------------------------------------

    async def renew(self, owner: str, until: int) -> None:
        # In memory, because only this process can hold leases, and the next one ends them when it opens the file.
        _ = self._writer
        self._expiry[owner] = until

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        live_owners = {name for name, until in self._expiry.items() if until > now}
        return await self._writer.run(lambda connection: jobs.acquire(connection, key, owner, live_owners))

    async def release(self, lease: Lease) -> None:
        await self._writer.run(lambda connection: jobs.release(connection, lease))

    # -- writing -------------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], lease: Lease | None = None) -> None:
        # Copied, because a caller that was cancelled may change its list while the commit still waits.
        as_called = tuple(writes)
        job: Append | partial[None] = partial(jobs.commit, writes=as_called, lease=lease)
        if len(as_called) == 1 and lease is not None:  # the most frequent commit by far
            (write,) = as_called
            if isinstance(write, AppendEvents) and write.key == lease.key:
                job = Append(write, lease)
        await self._writer.run(job, jobs.size(as_called))

    async def forget_responses(self, before: int) -> None:
        # In slices, so that no commit waits behind the responses of a whole day.
        while await self._writer.run(lambda connection: responses.forget(connection, before)):
            pass

    # -- reading -------------------------------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> StoredSession | None:
        return await self._read_log(key, lambda connection, unflushed: loading.load(connection, key, unflushed))

    async def sessions(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None = None, state: SessionState | None = None
    ) -> list[SessionRow]:
        return await self._read(lambda connection: sessions.find_page(connection, tenant, limit, before, state))

    async def unfinished(self) -> list[SessionKey]:
        return await self._read(requests.find_unfinished_sessions)

    async def events(self, key: SessionKey, after: int, limit: int, max_bytes: int = 1 << 20) -> list[LoggedEvent]:
        return await self._read_log(
            key,
            lambda connection, unflushed: events.find_page(
                connection, key, unflushed, after=after, limit=limit, max_bytes=max_bytes
            ),
        )

    async def log_bounds(self, key: SessionKey) -> tuple[str, int, int] | None:
        return await self._read_log(key, lambda connection, unflushed: events.find_bounds(connection, key, unflushed))

    async def messages(self, key: SessionKey, after: int = 0, limit: int | None = None) -> list[Message]:
        return await self._read(lambda connection: messages.find_page(connection, key, after, limit))

    async def request(self, key: SessionKey, request_id: str) -> RequestRow | None:
        return await self._read(lambda connection: requests.find(connection, key, request_id))

    async def approval(self, key: SessionKey, approval_id: str) -> ApprovalRow | None:
        return await self._read(lambda connection: approvals.find(connection, key, approval_id))

    async def question(self, key: SessionKey, ref: str) -> QuestionRow | None:
        return await self._read(lambda connection: questions.find(connection, key, ref))

    async def usage(self, tenant: str) -> list[UsageRow]:
        return await self._read(lambda connection: usage.find(connection, tenant))

    async def tracked_keys(self) -> int:
        return await self._read(usage.count_keys)

    async def response(self, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None:
        return await self._read(lambda connection: responses.find(connection, tenant, route, idempotency_key))

    async def audit(self, after: int, limit: int) -> list[tuple[int, AuditRow]]:
        return await self._read(lambda connection: audit.find_page(connection, after, limit))
