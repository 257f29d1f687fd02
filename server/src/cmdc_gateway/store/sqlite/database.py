"""The file: made private, held by one process, opened for writing and for reading."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote

from cmdc_gateway.store.sqlite.journal import AppendJournal, WritingConnection
from cmdc_gateway.store.sqlite.schema import migrate
from cmdc_gateway.store.store import StoreUnavailable

_Connection = TypeVar("_Connection", bound=sqlite3.Connection)

_OLDEST_SQLITE = (3, 37, 0)  # has STRICT tables

_PRIVATE = 0o600  # the file holds the secrets of callback tools; SQLite gives its -wal and -shm the same mode

# SQLite answers with these when something is wrong with the world and not with the statement.
_OF_THE_WORLD = (sqlite3.OperationalError, sqlite3.InternalError)


class Database:
    """A SQLite file that this process has to itself between `acquire` and `release`. Every method blocks."""

    def __init__(self, path: Path, durability: Literal["process", "disk"]) -> None:
        # Resolved, so that two names of one file meet at one lock.
        self.path = path.resolve()
        self.journal = AppendJournal()
        self._durability = durability
        self._lock: int | None = None

    def acquire(self) -> None:
        """Lock the file, make it if need be, and bring it up to date. Raises StoreDown with a sentence for the operator."""
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreUnavailable(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer is needed")
        if not self.path.parent.is_dir():
            raise StoreUnavailable(
                f"cannot keep the store in {self.path}: the folder {self.path.parent} does not exist"
            )
        try:
            self._acquire_lock()
            self._make_file()
            with closing(self.writer()) as connection:
                migrate(connection, self.path)
                self.journal.read_back(connection)
                # Nobody else has the file, so whoever held a session is gone.
                connection.execute("DELETE FROM leases")
        except BaseException as failure:
            self.release()
            if isinstance(failure, OSError):
                raise StoreUnavailable(f"cannot open the store {self.path}: {failure.strerror}") from failure
            if isinstance(failure, sqlite3.Error):
                raise self.down(failure) from failure
            raise

    def release(self) -> None:
        """Let another process have the file."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def writer(self) -> WritingConnection:
        """A connection that writes with the durability that was asked for."""
        connection = self._connect(WritingConnection)
        connection.journal = self.journal
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL syncs at checkpoints only: what was written is with the operating system. FULL syncs every commit.
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durability == 'disk' else 'NORMAL'}")
            connection.execute("PRAGMA fullfsync = ON")  # on macOS a plain fsync stops at the drive's cache
            connection.execute("PRAGMA secure_delete = ON")  # deleted means gone, not hidden in a free page
            connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        except BaseException:
            connection.close()
            raise
        return connection

    def reader(self) -> sqlite3.Connection:
        """A connection that cannot write."""
        connection = self._connect(sqlite3.Connection)
        # Not `mode=ro`: a read-only connection could not recover a write-ahead log.
        connection.execute("PRAGMA query_only = ON")
        return connection

    def is_down(self, failure: sqlite3.Error) -> bool:
        """Whether the failure says that the file cannot be used now, and not that a statement was wrong."""
        # A damaged file comes as plain DatabaseError; its subclasses are about the statement.
        return isinstance(failure, _OF_THE_WORLD) or type(failure) is sqlite3.DatabaseError

    def down(self, failure: sqlite3.Error) -> StoreUnavailable:
        """The failure as callers know it."""
        return StoreUnavailable(f"the store {self.path} cannot be used: {failure}")

    def _connect(self, kind: type[_Connection]) -> _Connection:
        return sqlite3.connect(
            f"file:{quote(str(self.path))}?mode=rw",
            uri=True,
            factory=kind,
            isolation_level=None,
            # Each connection is used by one thread at a time, and closed by another.
            check_same_thread=False,
            cached_statements=256,
        )

    def _acquire_lock(self) -> None:
        # Beside the file, not on it: closing any descriptor of the file would drop the locks SQLite has on it.
        # The operating system frees the lock with the process, however that ends.
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreUnavailable(f"the store {self.path} is in use by another gateway") from None

    def _make_file(self) -> None:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE))
        except FileExistsError:
            return
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
