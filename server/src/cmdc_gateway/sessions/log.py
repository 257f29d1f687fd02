"""A session's event log, and those who read it.

A reader is a number: how far it has come. What it lacks it takes from the recent ring, or, further back, from the
store; between two looks it waits to be woken. Nothing is queued for anybody, so a reader that does not read costs a
number and delays nobody (SSE-9, SSE-10).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal, Protocol

from cmdc_gateway.protocol.events import Event, encode_data
from cmdc_gateway.protocol.frames import Cursor, LoggedEvent

RING_BYTES = 256 * 1024
PAGE_EVENTS = 1_000
PAGE_BYTES = 256 * 1024

CloseReason = Literal["deleted", "lost"]


class StoredEvents(Protocol):
    """Reads a session's stored events after a seq: at most so many, and no more bytes of data than that."""

    async def __call__(self, after: int, limit: int, max_bytes: int, /) -> list[LoggedEvent]: ...


class Trimmed(Exception):
    """What a reader should get next is not kept any longer; it must come back with a cursor and be told so (SSE-7)."""


class EventLog:
    """The one ordered record of what happened in a session.

    Holds only what the store has accepted (EVT-8): `number` prepares events for a commit, `publish` shows them after
    it. `first_seq` and `last_seq` are the edges of what is kept.
    """

    def __init__(self, epoch: str, *, first_seq: int = 1, last_seq: int = 0, stored: StoredEvents) -> None:
        self.epoch = epoch
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.closed: CloseReason | None = None
        self._stored = stored
        self._ring: deque[LoggedEvent] = deque()
        self._ring_bytes = 0
        self._readers: dict[Reader, None] = {}  # woken in the order in which they came

    @property
    def end(self) -> Cursor:
        """Just after the newest event."""
        return Cursor(self.epoch, self.last_seq)

    @property
    def earliest(self) -> Cursor:
        """Just before the first event that is kept."""
        return Cursor(self.epoch, self.first_seq - 1)

    @property
    def readers(self) -> int:
        return len(self._readers)

    def number(self, events: Iterable[Event], request_id: str, at: int, *, after: int) -> list[LoggedEvent]:
        """Encode events and give them the numbers that follow `after`. Shows nothing to anybody."""
        return [
            LoggedEvent(self.epoch, seq, event.name, at, encode_data(event, request_id))
            for seq, event in enumerate(events, after + 1)
        ]

    def publish(self, events: Sequence[LoggedEvent]) -> None:
        """Show events that have been committed."""
        if not events:
            return
        for event in events:
            self._ring.append(event)
            self._ring_bytes += len(event.data)
        self.last_seq = events[-1].seq
        while self._ring_bytes > RING_BYTES and len(self._ring) > len(events):
            self._ring_bytes -= len(self._ring.popleft().data)
        self.wake()

    def trimmed(self, before: int) -> None:
        """Take note that events below `before` are kept no longer."""
        self.first_seq = max(self.first_seq, before)
        while self._ring and self._ring[0].seq < self.first_seq:
            self._ring_bytes -= len(self._ring.popleft().data)

    def wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    def close(self, reason: CloseReason) -> None:
        """No more events will come; readers end once they have read what there is."""
        self.closed = reason
        self.wake()

    async def read(self, after: int) -> list[LoggedEvent]:
        """What comes after seq `after`: a page at most, empty if there is nothing yet."""
        if after >= self.last_seq:
            return []
        if self._ring and self._ring[0].seq <= after + 1:
            return self._page(after + 1 - self._ring[0].seq)
        page = await self._stored(after, PAGE_EVENTS, PAGE_BYTES)
        # A commit is stored before it is shown: what the store is ahead by will be shown in its time.
        return [event for event in page if event.seq <= self.last_seq]

    def _page(self, index: int) -> list[LoggedEvent]:
        page: list[LoggedEvent] = []
        size = 0
        for event in islice(self._ring, index, index + PAGE_EVENTS):
            size += len(event.data)
            if page and size > PAGE_BYTES:
                break
            page.append(event)
        return page

    def reader(self, after: int) -> Reader:
        """A new reader, registered before it reads anything, so that it misses nothing (SSE-6)."""
        reader = Reader(self, after)
        self._readers[reader] = None
        return reader

    def leave(self, reader: Reader) -> None:
        self._readers.pop(reader, None)


class Reader:
    """Somebody reading a log: how far they have come, and a bell."""

    __slots__ = ("_bell", "_log", "_rung", "seq")

    def __init__(self, log: EventLog, after: int) -> None:
        self.seq = after
        self._log = log
        self._bell: asyncio.Future[None] | None = None
        self._rung = False

    async def take(self) -> list[LoggedEvent]:
        """The next page; the cursor moves on. Empty: there is nothing now. Raises Trimmed."""
        page = await self._log.read(self.seq)
        if page:
            if page[0].seq != self.seq + 1:
                raise Trimmed
            self.seq = page[-1].seq
        return page

    def wake(self) -> None:
        self._rung = True
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def wait(self) -> None:
        """Return when woken; at once if that has happened since the last wait."""
        if not self._rung:
            self._bell = asyncio.get_running_loop().create_future()
            try:
                await self._bell
            finally:
                self._bell = None
        self._rung = False

    def leave(self) -> None:
        self._log.leave(self)
