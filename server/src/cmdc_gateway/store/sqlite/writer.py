"""The thread that writes: jobs that wait while it works are committed together.

The event loop queues jobs with `run` and passes all those of one iteration to the thread at once. The thread alone uses
the writing connection. It takes what is waiting, within limits, and runs it in one transaction (a *batch*), in order:

- A job that raises is rolled back alone, to its savepoint, and its caller gets the exception. The others are committed.
- An exception that says that the file cannot be used, or a COMMIT that fails, ends the batch: all of its callers get
  StoreUnavailable, the connection is closed, and the next batch opens a new one.
- Callers get their outcome after COMMIT only, so whatever a caller sees succeed is durable.

Between batches, and while no job is waiting, the thread flushes the journal and deletes orphans, in small transactions.
When these fail, nobody is waiting for them: they are retried later, and the next batch reports the failure.
"""

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

from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.journal import MAX_SECONDS, Append, WritingConnection
from cmdc_gateway.store.sqlite.orphans import delete_orphans

T = TypeVar("T")

MAX_JOBS = 500
MAX_BYTES = 4 << 20
"""Limits of a batch: its first caller must not wait long for its last job."""

_BATCHES_PER_ORPHAN_DELETION = 8


@dataclass(slots=True)
class _Job:
    call: Callable[[WritingConnection], Any]
    size: int
    done: asyncio.Future[Any]


@dataclass(slots=True)
class _Outcome:
    job: _Job
    value: Any = None
    failure: Exception | None = None

    def deliver(self) -> None:
        if self.job.done.done():  # the caller was cancelled
            return
        if self.failure:
            self.job.done.set_exception(self.failure)
        else:
            self.job.done.set_result(self.value)


class Writer:
    """Runs jobs in the order of the calls, many per transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._queued: list[_Job] = []  # in this iteration of the event loop
        self._inbox: SimpleQueue[list[_Job] | None] = SimpleQueue()  # None stops the thread
        self._waiting: deque[_Job] = deque()
        self._connection: WritingConnection | None = None
        self._closing = False
        self.transactions = 0
        self._thread = threading.Thread(target=self._run_thread, name="store-writer", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[WritingConnection], T], size: int = 0) -> T:
        """Call `job` within a transaction; return its result, or raise its exception, once the transaction is durable.

        `size` is roughly how many bytes it writes. Cancelling the call does not undo it.

        Raises:
            StoreUnavailable: the transaction failed, or the store is closed.
        """
        if self._closing:
            raise StoreUnavailable("the store is closed")
        done: asyncio.Future[Any] = self._loop.create_future()
        if not self._queued:
            self._loop.call_soon(self._send)
        self._queued.append(_Job(job, size, done))
        return await done

    def _send(self) -> None:
        """Send the queued jobs to the thread together: each time it wakes, it has to acquire the GIL."""
        if self._queued:
            self._inbox.put(self._queued)
            self._queued = []

    async def close(self) -> None:
        """Run the jobs that were queued so far, then stop."""
        self._closing = True
        self._send()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- everything below runs in the thread ---------------------------------------------------------------------------

    def _run_thread(self) -> None:
        running = True
        while running:
            batch, running = self._next_batch()
            if batch:
                outcomes = self._run_batch(batch)
                self.transactions += 1
                self._deliver(outcomes)
                if self._database.journal.is_due:
                    self._flush_journal()
                if self.transactions % _BATCHES_PER_ORPHAN_DELETION == 0:
                    self._delete_orphans()
        while self._flush_journal():
            pass
        self._disconnect()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """The waiting jobs, within the limits of a batch, and whether the thread is to continue after them."""
        running = True
        if not self._waiting:
            running = self._receive(self._wait_for_jobs())
        with suppress(Empty):
            while running and len(self._waiting) < MAX_JOBS:
                running = self._receive(self._inbox.get_nowait())
        batch: list[_Job] = []
        size = 0
        while self._waiting and len(batch) < MAX_JOBS and size < MAX_BYTES:
            job = self._waiting.popleft()
            batch.append(job)
            size += job.size
        if not running and self._waiting:
            self._inbox.put(None)
            running = True
        return batch, running

    def _receive(self, jobs: list[_Job] | None) -> bool:
        self._waiting.extend(jobs or ())
        return jobs is not None

    def _wait_for_jobs(self) -> list[_Job] | None:
        """Wait for jobs. Meanwhile, flush the journal and delete orphans in small steps."""
        while True:
            with suppress(Empty):
                return self._inbox.get_nowait()
            journal = self._database.journal
            if (journal.is_due and self._flush_journal()) or self._delete_orphans():
                continue
            with suppress(Empty):
                return self._inbox.get(timeout=MAX_SECONDS if journal.rows else None)

    def _run_batch(self, batch: list[_Job]) -> list[_Outcome]:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            if len(batch) == 1:
                return [self._run_single(batch[0], connection)]
            outcomes: list[_Outcome] = []
            for are_appends, group in groupby(batch, lambda job: isinstance(job.call, Append)):
                run = self._run_appends if are_appends else self._run_each
                outcomes += run(list(group), connection)
            self._commit(connection)
        except sqlite3.Error as failure:
            self._disconnect()
            return [_Outcome(job, failure=self._database.unavailable(failure)) for job in batch]
        return outcomes

    def _run_single(self, job: _Job, connection: WritingConnection) -> _Outcome:
        """Run the only job of a batch. It needs no savepoint, because the whole transaction can be rolled back."""
        try:
            outcome = _Outcome(job, job.call(connection))
        except Exception as failure:
            if isinstance(failure, sqlite3.Error) and self._database.is_unavailable(failure):
                raise
            connection.execute("ROLLBACK")
            connection.journal.roll_back()
            return _Outcome(job, failure=failure)
        self._commit(connection)
        return outcome

    def _run_appends(self, jobs: list[_Job], connection: WritingConnection) -> list[_Outcome]:
        """Run all appends as one. If one of them fails, none has had an effect, and each is run by itself."""
        try:
            connection.journal.append(connection, [job.call for job in jobs if isinstance(job.call, Append)])
        except Exception as failure:
            if isinstance(failure, sqlite3.Error) and self._database.is_unavailable(failure):
                raise
            return self._run_each(jobs, connection)
        return [_Outcome(job) for job in jobs]

    def _run_each(self, jobs: list[_Job], connection: WritingConnection) -> list[_Outcome]:
        return [self._run_in_savepoint(job, connection) for job in jobs]

    def _run_in_savepoint(self, job: _Job, connection: WritingConnection) -> _Outcome:
        connection.execute("SAVEPOINT job")
        connection.journal.begin_job()
        try:
            outcome = _Outcome(job, job.call(connection))
        except Exception as failure:
            if isinstance(failure, sqlite3.Error) and self._database.is_unavailable(failure):
                raise
            connection.execute("ROLLBACK TO job")
            connection.journal.roll_back()
            outcome = _Outcome(job, failure=failure)
        connection.execute("RELEASE job")
        return outcome

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        # RuntimeError: the event loop is closed, and its callers with it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_deliver_all, outcomes)

    def _commit(self, connection: WritingConnection) -> None:
        connection.execute("COMMIT")
        connection.journal.commit()

    def _flush_journal(self) -> bool:
        """Flush some of the journal; return whether there may be more."""
        if not self._database.journal.rows:
            return False
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            connection.journal.flush_step(connection)
            self._commit(connection)
        except sqlite3.Error:
            # The events stay in the journal. A full disk may still have room for small commits.
            self._disconnect()
            self._database.journal.postpone()
            return False
        return True

    def _delete_orphans(self) -> bool:
        """Delete some orphans; return whether there may be more."""
        try:
            return delete_orphans(self._connected())
        except sqlite3.Error:
            self._disconnect()
            return False

    def _connected(self) -> WritingConnection:
        if self._connection is None:
            connection = self._database.writer()
            try:
                self._database.journal.reload(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        """Close the connection, which rolls back an open transaction."""
        if self._connection:
            self._connection.close()
            self._connection = None
            self._database.journal.discard()


def _deliver_all(outcomes: Iterable[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.deliver()
