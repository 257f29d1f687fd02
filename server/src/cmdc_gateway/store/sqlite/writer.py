"""The one thread that writes: what waits while it works is committed together."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.sweep import sweep
from cmdc_gateway.store.store import StoreDown

T = TypeVar("T")

MAX_JOBS = 500
MAX_BYTES = 4 << 20
"""One transaction carries out no more than this, so that the first in it do not wait long for the last."""

_BATCHES_PER_SWEEP = 8


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    size: int
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
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
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()  # None ends the thread
        self._connection: sqlite3.Connection | None = None
        self._closing = False
        self.transactions = 0
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[sqlite3.Connection], T], size: int = 0) -> T:
        """Have the work done in a transaction; return, or raise, what it did once that is durable.

        `size` is about how many bytes it writes. Cancelling the call does not undo it.
        """
        if self._closing:
            raise StoreDown("the store is closed")
        done: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put(_Job(cast(Callable[[sqlite3.Connection], Any], work), size, done))
        return await done

    async def close(self) -> None:
        """Do what was given so far, then stop."""
        self._closing = True
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
                if self.transactions % _BATCHES_PER_SWEEP == 0:
                    self._sweep()
        self._disconnect()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """What waits, as much as goes into one transaction, and whether to go on after it."""
        batch: list[_Job] = []
        size = 0
        job = self._first_job()
        while job:
            batch.append(job)
            size += job.size
            if len(batch) >= MAX_JOBS or size >= MAX_BYTES:
                return batch, True
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _first_job(self) -> _Job | None:
        while True:
            with suppress(Empty):
                return self._jobs.get_nowait()
            if not self._sweep():
                return self._jobs.get()

    def _carry_out(self, batch: list[_Job]) -> list[_Outcome]:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            if len(batch) == 1:
                return [self._attempt_alone(batch[0], connection)]
            outcomes = [self._attempt(job, connection) for job in batch]
            connection.execute("COMMIT")
        except sqlite3.Error as failure:
            # Closing rolls back what SQLite has not rolled back by itself.
            self._disconnect()
            return [_Outcome(job, failure=self._database.down(failure)) for job in batch]
        return outcomes

    def _attempt_alone(self, job: _Job, connection: sqlite3.Connection) -> _Outcome:
        """With nothing to tell it from, a job is undone with its transaction."""
        try:
            outcome = _Outcome(job, job.work(connection))
        except Exception as failure:
            if isinstance(failure, sqlite3.Error) and self._database.is_down(failure):
                raise
            connection.execute("ROLLBACK")
            return _Outcome(job, failure=failure)
        connection.execute("COMMIT")
        return outcome

    def _attempt(self, job: _Job, connection: sqlite3.Connection) -> _Outcome:
        connection.execute("SAVEPOINT job")
        try:
            outcome = _Outcome(job, job.work(connection))
        except Exception as failure:
            if isinstance(failure, sqlite3.Error) and self._database.is_down(failure):
                raise
            # Whatever it is, it is the business of the job's caller alone.
            connection.execute("ROLLBACK TO job")
            outcome = _Outcome(job, failure=failure)
        connection.execute("RELEASE job")
        return outcome

    def _hand_over(self, outcomes: list[_Outcome]) -> None:
        # A closed loop has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_hand_over_all, outcomes)

    def _sweep(self) -> bool:
        """Remove a little of what deleted sessions left; return whether there is more."""
        try:
            return sweep(self._connected())
        except sqlite3.Error:
            # Nobody waits for it: the next job will tell its caller what is wrong.
            self._disconnect()
            return False

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._database.writer()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


def _hand_over_all(outcomes: Iterable[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.hand_over()
