"""The open streams of this server, so that they can be ended: with their key, with the server, or by their client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from cmdc_gateway.sessions.session import Session

EndReason = Literal["disconnected", "revoked", "shutdown"]


@dataclass(slots=True, eq=False)
class Connection:
    """One open stream.

    `end_reason` is set when the stream has to end immediately, `draining` when it has to end with its session's current
    run (DUR-3). `abort` closes the connection of a client that does not read.
    """

    key_id: str
    wake: Callable[[], None]
    session: Session | None
    abort: Callable[[], None]
    end_reason: EndReason | None = None
    draining: bool = False

    @property
    def drained(self) -> bool:
        """Whether the server is stopping and no run is active that the stream would have to show."""
        return self.draining and (self.session is None or self.session.snapshot.active is None)

    def end(self, reason: EndReason) -> None:
        """Wake the stream so that it ends; the first reason counts."""
        self.end_reason = self.end_reason or reason
        self.wake()


class Connections:
    """All open streams."""

    def __init__(self, is_valid_key: Callable[[str], bool] = lambda _: True) -> None:
        """`is_valid_key` returns whether a key id is still valid."""
        self.draining = False
        self._is_valid_key = is_valid_key
        self._open: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._open))

    def add(self, connection: Connection) -> None:
        connection.draining = self.draining
        self._open.add(connection)
        self._empty.clear()
        if not self._is_valid_key(connection.key_id):  # revoked while the stream was being opened
            connection.end("revoked")

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._empty.set()

    def revoke(self, key_ids: set[str]) -> None:
        """End the streams that were opened with these keys."""
        for connection in self:
            if connection.key_id in key_ids:
                connection.end("revoked")

    def drain(self) -> None:
        """End the streams of idle sessions now, and the others with their run."""
        self.draining = True
        for connection in self:
            connection.draining = True
            connection.wake()

    def end_all(self) -> None:
        """End every stream now."""
        for connection in self:
            connection.end("shutdown")

    def abort_all(self) -> None:
        """Close the connections that are still open, without waiting for their clients."""
        for connection in self:
            connection.abort()

    async def wait_until_closed(self) -> None:
        await self._empty.wait()
