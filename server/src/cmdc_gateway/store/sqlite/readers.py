"""A few threads that read. Each call reads from one snapshot of the file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

from cmdc_gateway.store.sqlite.database import Database

T = TypeVar("T")

_THREADS = 3


class Readers:
    """A pool of threads and connections for reading. One call at a time uses a connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-reader")
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()

    async def run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Call `read` within a read transaction and return its result. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, read)

    async def close(self) -> None:
        """Wait for the calls in progress, then close the connections."""
        await asyncio.to_thread(self._threads.shutdown)
        while connection := self._take():
            connection.close()

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        connection = None
        try:
            connection = self._take() or self._database.reader()
            connection.execute("BEGIN")
            found = read(connection)
            connection.execute("COMMIT")
        except BaseException as failure:
            if connection:
                connection.close()
            if isinstance(failure, sqlite3.Error) and self._database.is_unavailable(failure):
                raise self._database.unavailable(failure) from failure
            raise
        self._idle.put(connection)
        return found

    def _take(self) -> sqlite3.Connection | None:
        try:
            return self._idle.get_nowait()
        except Empty:
            return None
