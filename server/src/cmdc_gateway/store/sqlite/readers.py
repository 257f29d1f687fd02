"""A few threads that read, each call from one snapshot of the whole file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

from cmdc_gateway.store.sqlite.database import Database
from cmdc_gateway.store.sqlite.reading import Snapshot

T = TypeVar("T")

_THREADS = 3


class Readers:
    """Connections for reading, used by one call at a time and kept for the next."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-reader")
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()

    async def run(self, read: Callable[[Snapshot], T]) -> T:
        """What the function reads. Raises StoreDown."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, read)

    async def close(self) -> None:
        """Let the calls under way finish, then close the connections."""
        await asyncio.to_thread(self._threads.shutdown)
        while connection := self._take():
            connection.close()

    def _read(self, read: Callable[[Snapshot], T]) -> T:
        connection = None
        try:
            connection = self._take() or self._database.reader()
            connection.execute("BEGIN")
            found = read(Snapshot(connection))
            connection.execute("COMMIT")
        except BaseException as failure:
            if connection:
                connection.close()
            if isinstance(failure, sqlite3.Error) and self._database.is_down(failure):
                raise self._database.down(failure) from failure
            raise
        self._idle.put(connection)
        return found

    def _take(self) -> sqlite3.Connection | None:
        try:
            return self._idle.get_nowait()
        except Empty:
            return None
