"""Every open stream, so that they can be ended: by their client, with their key, or with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from cmdc_gateway.sessions.session import Session

Ending = Literal["gone", "revoked", "shutdown"]


@dataclass(slots=True, eq=False)
class Connection:
    """One open stream: whose it is, and why it is to end.

    `ended` ends it at once. `released` ends it when its run, if there is one, has come to its end (DUR-3). `abort`
    ends it although its client takes nothing more.
    """

    key_id: str
    wake: Callable[[], None]
    session: Session | None
    abort: Callable[[], None]
    ended: Ending | None = None
    draining: bool = False

    @property
    def released(self) -> bool:
        return self.draining and (self.session is None or self.session.snapshot.active is None)

    def end(self, why: Ending) -> None:
        self.ended = self.ended or why
        self.wake()


class Connections:
    """The streams of this server."""

    def __init__(self, knows: Callable[[str], bool] = lambda _: True) -> None:
        """`knows` tells whether a key is still good."""
        self.draining = False
        self._knows = knows
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
        if not self._knows(connection.key_id):  # it was taken away while the stream was being opened
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
        """End the streams of idle sessions now, the others with their run."""
        self.draining = True
        for connection in self:
            connection.draining = True
            connection.wake()

    def end_all(self) -> None:
        for connection in self:
            connection.end("shutdown")

    def abort_all(self) -> None:
        """Let go of those that could not be ended."""
        for connection in self:
            connection.abort()

    async def wait_until_closed(self) -> None:
        await self._empty.wait()
