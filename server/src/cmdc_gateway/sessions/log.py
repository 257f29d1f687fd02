"""A session's event log, and those who read it.

A reader is a number: how far it has come. What it lacks it takes from the recent ring, or, further back, from the
store; between two looks it waits to be woken. Nothing is queued for anybody, so a reader that does not read costs a
number and delays nobody (SSE-9, SSE-10).

A reader that waits may leave a way to be served on the spot: then what was published is on its way to all such readers
before anything else happens, with one call for each. A crowd of readers is not served more often than it can be: what is
published meanwhile they get together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

from cmdc_gateway.protocol.events import Event, encode_data
from cmdc_gateway.protocol.frames import Cursor, LoggedEvent, Page

RING_BYTES = 256 * 1024
PAGE_EVENTS = 1_000
PAGE_BYTES = 256 * 1024
INLINE_BYTES = 64 * 1024
MANY_READERS = 32
SECONDS_EACH = 20e-6
"""A crowd is served again after this time for each of its readers: about twice what serving one takes."""

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
        self._newest: tuple[int, Page] | None = None
        self._served_at = 0.0
        self._serving: asyncio.TimerHandle | None = None

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
        size = sum([len(event.data) for event in events])
        # Nearly every reader lacks just this.
        self._newest = (self.last_seq, Page(events)) if self._readers and size <= INLINE_BYTES else None
        self._ring += events
        self._ring_bytes += size
        self.last_seq = events[-1].seq
        while self._ring_bytes > RING_BYTES and len(self._ring) > len(events):
            self._ring_bytes -= len(self._ring.popleft().data)
        if self._readers:
            self._serve()

    def trim(self, before: int) -> None:
        """Take note that events below `before` are kept no longer."""
        self.first_seq = max(self.first_seq, before)
        while self._ring and self._ring[0].seq < self.first_seq:
            self._ring_bytes -= len(self._ring.popleft().data)

    def wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    def _serve(self) -> None:
        """Let readers have what is new; a crowd, once it has had the time for what was new before."""
        if len(self._readers) < MANY_READERS:
            self._serve_all()
        elif self._serving is None:
            loop = asyncio.get_running_loop()
            wait = self._served_at + len(self._readers) * SECONDS_EACH - loop.time()
            if wait > 0:
                self._serving = loop.call_later(wait, self._serve_all)
            else:
                self._served_at = loop.time()
                self._serve_all()

    def _serve_all(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            self._serving = None
            self._served_at = asyncio.get_running_loop().time()
        for reader in self._readers:
            reader.serve()

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

    def recent(self, after: int) -> Page | None:
        """What comes after seq `after`, if it is at hand and little; the same page for all who ask the same."""
        if self._newest is not None and self._newest[0] == after:
            return self._newest[1]
        if after >= self.last_seq or not self._ring or self._ring[0].seq > after + 1:
            return None
        page = Page(self._page(after + 1 - self._ring[0].seq, INLINE_BYTES))
        self._newest = after, page
        return page

    def _page(self, index: int, max_bytes: int = PAGE_BYTES) -> list[LoggedEvent]:
        page: list[LoggedEvent] = []
        size = 0
        ring = self._ring
        for place in range(index, min(index + PAGE_EVENTS, len(ring))):
            event = ring[place]  # found from the nearer end: what is wanted is mostly near the last one
            size += len(event.data)
            if page and size > max_bytes:
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
    """Somebody reading a log: how far they have come, and a bell.

    `at_once` is called with a page while the reader waits: it either sends all of it without waiting, or sends nothing
    and returns False; then the bell rings.
    """

    __slots__ = ("_log", "_pending", "_woken", "push", "seq")

    def __init__(self, log: EventLog, after: int) -> None:
        self.seq = after
        self.push: Callable[[Page], bool] | None = None
        self._log = log
        self._woken: asyncio.Future[None] | None = None
        self._pending = False

    async def take(self) -> list[LoggedEvent]:
        """The next page; the cursor moves on. Empty: there is nothing now. Raises Trimmed."""
        page = await self._log.read(self.seq)
        if page:
            if page[0].seq != self.seq + 1:
                raise Trimmed
            self.seq = page[-1].seq
        return page

    def serve(self) -> None:
        """There is something new."""
        bell = self._woken
        if bell is not None and self.push is not None and not bell.done():
            page = self._log.recent(self.seq)
            if page is not None and self.push(page):
                self.seq = page.events[-1].seq
                if self.seq == self._log.last_seq:
                    return
        self.wake()

    def wake(self) -> None:
        self._pending = True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> None:
        """Return when woken; at once if that has happened since the last wait."""
        if not self._pending:
            self._woken = asyncio.get_running_loop().create_future()
            try:
                await self._woken
            finally:
                self._woken = None
        self._pending = False

    def leave(self) -> None:
        self._log.leave(self)
