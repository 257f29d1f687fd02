"""The one thread that writes: what waits while it works is committed together."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.journal import MAX_SECONDS, Append, WritingConnection
from cmdc_gateway.store.sqlite.orphans import remove_orphans
from cmdc_gateway.store.store import StoreUnavailable

T = TypeVar("T")

MAX_JOBS = 500
MAX_BYTES = 4 << 20
"""One transaction carries out no more than this, so that the first in it do not wait long for the last."""

_BATCHES_PER_SWEEP = 8


@dataclass(slots=True)
class _Job:
    work: Callable[[WritingConnection], Any]
    size: int
    done: asyncio.Future[Any]


@dataclass(slots=True)
class _Outcome:
    job: _Job
    value: Any = None
    failure: Exception | None = None

    def hand_over(self) -> None:
        # A caller that was cancelled does not wait any more.
        if self.job.done.done():
            return
        if self.failure:
            self.job.done.set_exception(self.failure)
        else:
            self.job.done.set_result(self.value)


class Writer:
    """Carries out jobs in the order they were given, many in one transaction.

    A job that raises is undone alone. When the transaction itself fails, all of its jobs are undone and get StoreDown,
    and the next ones get a new connection.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._gathered: list[_Job] = []
        self._jobs: SimpleQueue[list[_Job] | None] = SimpleQueue()  # None ends the thread
        self._left: deque[_Job] = deque()
        self._connection: WritingConnection | None = None
        self._closing = False
        self.transactions = 0
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[WritingConnection], T], size: int = 0) -> T:
        """Have the work done in a transaction; return, or raise, what it did once that is durable.

        `size` is about how many bytes it writes. Cancelling the call does not undo it.
        """
        if self._closing:
            raise StoreUnavailable("the store is closed")
        done: asyncio.Future[Any] = self._loop.create_future()
        if not self._gathered:
            self._loop.call_soon(self._pass_on)
        self._gathered.append(_Job(work, size, done))
        return await done

    def _pass_on(self) -> None:
        """Give the thread what was called for meanwhile, all at once: each time it has to win Python's lock."""
        if self._gathered:
            self._jobs.put(self._gathered)
            self._gathered = []

    async def close(self) -> None:
        """Do what was given so far, then stop."""
        self._closing = True
        self._pass_on()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- everything below runs in the thread ---------------------------------------------------------------------------

    def _serve(self) -> None:
        going_on = True
        while going_on:
            batch, going_on = self._next_batch()
            if batch:
                outcomes = self._carry_out(batch)
                self.transactions += 1
                self._hand_over(outcomes)
                if self._database.journal.is_due:
                    self._move_journal()
                if self.transactions % _BATCHES_PER_SWEEP == 0:
                    self._remove_orphans()
        while self._move_journal():
            pass
        self._disconnect()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """What waits, as much as goes into one transaction, and whether to go on after it."""
        going_on = True
        if not self._left:
            going_on = self._receive(self._first_jobs())
        with suppress(Empty):
            while going_on and len(self._left) < MAX_JOBS:
                going_on = self._receive(self._jobs.get_nowait())
        batch: list[_Job] = []
        size = 0
        while self._left and len(batch) < MAX_JOBS and size < MAX_BYTES:
            job = self._left.popleft()
            batch.append(job)
            size += job.size
        if not going_on and self._left:
            self._jobs.put(None)
            going_on = True
        return batch, going_on

    def _receive(self, jobs: list[_Job] | None) -> bool:
        self._left.extend(jobs or ())
        return jobs is not None

    def _first_jobs(self) -> list[_Job] | None:
        """The next jobs. While there are none, what was left for later is done, a little at a time."""
        while True:
            with suppress(Empty):
                return self._jobs.get_nowait()
            journal = self._database.journal
            if (journal.is_due and self._move_journal()) or self._remove_orphans():
                continue
            with suppress(Empty):
                return self._jobs.get(timeout=MAX_SECONDS if journal.rows else None)

    def _carry_out(self, batch: list[_Job]) -> list[_Outcome]:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            if len(batch) == 1:
                return [self._attempt_alone(batch[0], connection)]
            outcomes: list[_Outcome] = []
            for are_appends, alike in groupby(batch, lambda job: isinstance(job.work, Append)):
                carry_out = self._append if are_appends else self._attempt_each
                outcomes += carry_out(list(alike), connection)
            self._commit(connection)
        except sqlite3.Error as failure:
            self._disconnect()
            return [_Outcome(job, failure=self._database.down(failure)) for job in batch]
        return outcomes

    def _attempt_alone(self, job: _Job, connection: WritingConnection) -> _Outcome:
        """With nothing to tell it from, a job is undone with its transaction."""
        try:
            outcome = _Outcome(job, job.work(connection))
        except Exception as failure:
            if isinstance(failure, sqlite3.Error) and self._database.is_down(failure):
                raise
            connection.execute("ROLLBACK")
            connection.journal.rolled_back()
            return _Outcome(job, failure=failure)
        self._commit(connection)
        return outcome

    def _append(self, jobs: list[_Job], connection: WritingConnection) -> list[_Outcome]:
        """All of them together, if none fails: then nothing of them has been done, and nothing need be undone."""
        try:
            connection.journal.append(connection, [job.work for job in jobs if isinstance(job.work, Append)])
        except Exception as failure:
            if isinstance(failure, sqlite3.Error) and self._database.is_down(failure):
                raise
            return self._attempt_each(jobs, connection)
        return [_Outcome(job) for job in jobs]

    def _attempt_each(self, jobs: list[_Job], connection: WritingConnection) -> list[_Outcome]:
        return [_Outcome(job, *self._attempt(job.work, connection)) for job in jobs]

    def _attempt(
        self, work: Callable[[WritingConnection], T], connection: WritingConnection
    ) -> tuple[T | None, Exception | None]:
        """What the work did, or why it could not be done and was undone."""
        connection.execute("SAVEPOINT job")
        connection.journal.begin_job()
        value, failure = None, None
        try:
            value = work(connection)
        except Exception as raised:
            if isinstance(raised, sqlite3.Error) and self._database.is_down(raised):
                raise
            # Whatever it is, it is the business of the job's caller alone.
            connection.execute("ROLLBACK TO job")
            connection.journal.rolled_back()
            failure = raised
        connection.execute("RELEASE job")
        return value, failure

    def _hand_over(self, outcomes: list[_Outcome]) -> None:
        # A closed loop has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_hand_over_all, outcomes)

    def _commit(self, connection: WritingConnection) -> None:
        connection.execute("COMMIT")
        connection.journal.committed()

    def _move_journal(self) -> bool:
        """Move a little of the journal to its place; return whether there may be more."""
        if not self._database.journal.rows:
            return False
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            connection.journal.flush_some(connection)
            self._commit(connection)
        except sqlite3.Error:
            # What is in the journal stays there. Other jobs may still be carried out, and tell their callers if not.
            self._disconnect()
            self._database.journal.postpone()
            return False
        return True

    def _remove_orphans(self) -> bool:
        """Remove a little of what deleted sessions left; return whether there is more."""
        try:
            return remove_orphans(self._connected())
        except sqlite3.Error:
            # Nobody waits for it: the next job will tell its caller what is wrong.
            self._disconnect()
            return False

    def _connected(self) -> WritingConnection:
        if self._connection is None:
            connection = self._database.writer()
            try:
                self._database.journal.read_back(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        """Let go of the connection. What was not committed is undone, if SQLite has not done so by itself."""
        if self._connection:
            self._connection.close()
            self._connection = None
            self._database.journal.discard()


def _hand_over_all(outcomes: Iterable[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.hand_over()
