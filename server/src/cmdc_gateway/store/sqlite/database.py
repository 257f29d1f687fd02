"""The file: creates it with private permissions, locks it, and opens connections to it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote

from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.sqlite.journal import AppendJournal, WritingConnection
from cmdc_gateway.store.sqlite.schema import check_version, migrate
from cmdc_gateway.store.sqlite.tables import leases

_Connection = TypeVar("_Connection", bound=sqlite3.Connection)

_OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables

_PRIVATE = 0o600  # the file holds the secrets of callback tools; SQLite creates its -wal and -shm with the same mode

# What SQLite raises for faults of the environment rather than of the statement.
_ENVIRONMENT_ERRORS = (sqlite3.OperationalError, sqlite3.InternalError)


class Database:
    """A SQLite file. This process owns it between `open` and `release`. Every method blocks."""

    def __init__(self, path: Path, durability: Literal["process", "disk"]) -> None:
        # Resolved, so that all paths to one file share one lock.
        self.path = path.resolve()
        self.journal = AppendJournal()
        self._durability = durability
        self._lock: int | None = None

    def open(self) -> None:
        """Lock the file, create it if it does not exist, and migrate it.

        Raises:
            StoreUnavailable: this is not possible. The message is written for the operator.
        """
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreUnavailable(f"SQLite {sqlite3.sqlite_version} is too old; the gateway needs 3.37 or newer")
        if not self.path.parent.is_dir():
            raise StoreUnavailable(f"cannot open the store {self.path}: the folder {self.path.parent} does not exist")
        try:
            self._lock_file()
            self._create_file()
            with closing(self.writer()) as connection:
                migrate(connection, self.path)
                self.journal.reload(connection)
                # The lock proves that no other process holds a lease.
                leases.release_all(connection)
        except BaseException as failure:
            self.release()
            if isinstance(failure, OSError):
                raise StoreUnavailable(f"cannot open the store {self.path}: {failure.strerror}") from failure
            if isinstance(failure, sqlite3.Error):
                raise self.unavailable(failure) from failure
            raise

    def check_readable(self) -> None:
        """Check that the file can be read, without locking or changing it. Raises StoreUnavailable."""
        if not self.path.exists():
            raise StoreUnavailable(f"the store {self.path} does not exist")
        try:
            with closing(self.reader()) as connection:
                check_version(connection, self.path)
        except sqlite3.Error as failure:
            raise self.unavailable(failure) from failure

    def release(self) -> None:
        """Release the lock, so that another process can open the file."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def writer(self) -> WritingConnection:
        """A connection that writes with the configured durability."""
        connection = self._connect(WritingConnection)
        connection.journal = self.journal
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL syncs at checkpoints only: a commit is in the page cache of the OS. FULL syncs every commit.
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durability == 'disk' else 'NORMAL'}")
            connection.execute("PRAGMA fullfsync = ON")  # on macOS, fsync alone does not flush the cache of the drive
            connection.execute("PRAGMA secure_delete = ON")  # overwrites deleted rows, which may hold secrets
            connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        except BaseException:
            connection.close()
            raise
        return connection

    def reader(self) -> sqlite3.Connection:
        """A connection that cannot write."""
        connection = self._connect(sqlite3.Connection)
        # Not `mode=ro`, because a read-only connection cannot recover a write-ahead log.
        connection.execute("PRAGMA query_only = ON")
        return connection

    def is_unavailable(self, failure: sqlite3.Error) -> bool:
        """Whether the failure says that the file cannot be used now, rather than that a statement is wrong."""
        # SQLite reports a damaged file with DatabaseError itself; its subclasses are about the statement.
        return isinstance(failure, _ENVIRONMENT_ERRORS) or type(failure) is sqlite3.DatabaseError

    def unavailable(self, failure: sqlite3.Error) -> StoreUnavailable:
        """The exception of the store's interface for this failure."""
        return StoreUnavailable(f"the store {self.path} cannot be used: {failure}")

    def _connect(self, kind: type[_Connection]) -> _Connection:
        return sqlite3.connect(
            f"file:{quote(str(self.path))}?mode=rw",
            uri=True,
            factory=kind,
            isolation_level=None,
            # One thread at a time uses a connection, but not always the thread that opened it.
            check_same_thread=False,
            cached_statements=256,
        )

    def _lock_file(self) -> None:
        # A separate file, because closing any descriptor of the database would drop SQLite's own locks on it.
        # The operating system releases the lock when the process ends, however it ends.
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreUnavailable(f"the store {self.path} is in use by another gateway") from None

    def _create_file(self) -> None:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE))
        except FileExistsError:
            return
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
