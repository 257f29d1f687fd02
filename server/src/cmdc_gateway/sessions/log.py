"""The event log of a session, and its readers.

The log is the single ordered record of a session: events numbered 1, 2, 3 … within an epoch, of which the store holds
everything kept and this object the newest part. It has one writer, the session's actor, and any number of readers.

Writing. `number` encodes events and assigns their seqs for a commit; `publish` makes them visible after it. So
`last_seq` never runs ahead of the store (EVT-8); the store may briefly be ahead of `last_seq`, and `read` hides that
part. `trim` advances `first_seq` after the store has removed the events before it.

Reading. A `Reader` is a cursor: the seq it has come to. It reads pages from the ring of recent events in memory or,
further back, from the store, and waits when it has caught up. Nothing is queued per reader, so a slow or absent reader
costs one integer and delays nobody (SSE-9, SSE-10).

    catching up --(read() returns an empty page)--> waiting
         ^                                             |
         +--(woken)------------------------------------+--(pushed: stays waiting, seq advances)

Pushing. A waiting reader may set `push`, which must send a whole page without blocking, or send nothing and return
False. `publish` then serves it in the same call, without scheduling its task. Pages are shared, so that their frames
are joined once for all readers. With many readers, pushes are rate-limited: what is published in the meantime is sent
to them in one page.

Invariants:

- A reader registers before its first read, and `wait` returns at once if it was woken since the last wait; hence no
  event between reading and waiting is missed (SSE-6).
- A reader gets every seq exactly once and in order. If the next one was trimmed, `take` raises `Trimmed`; a gap is never
  skipped silently (SSE-7).
- The ring is contiguous and ends at `last_seq`; it holds at most RING_BYTES of data, or the last published events.

Failure. Errors of the store reach the reader that caused them and no other. `close` wakes all readers; they read what is
left and find `closed` set. A log of a session that moved to another gateway closes as "lost": clients reconnect with
their cursor.
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
PUSH_BYTES = 64 * 1024
RATE_LIMITED_READERS = 32
"""From this number of readers on, pushes are rate-limited."""
SECONDS_PER_READER = 20e-6
"""The minimum time between two pushes, per reader: about twice what one push takes."""

CloseReason = Literal["deleted", "lost"]


class StoredEvents(Protocol):
    """Reads a session's stored events after a seq, up to a number of events and a number of bytes of data."""

    async def __call__(self, after: int, limit: int, max_bytes: int, /) -> list[LoggedEvent]: ...


class Trimmed(Exception):
    """The next event of a reader is no longer kept; its client must choose a new cursor (SSE-7)."""


class EventLog:
    """The event log of a session. `first_seq` and `last_seq` bound the kept events that are visible to readers."""

    def __init__(self, epoch: str, *, first_seq: int = 1, last_seq: int = 0, stored: StoredEvents) -> None:
        self.epoch = epoch
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.closed: CloseReason | None = None
        self._stored = stored
        self._ring: deque[LoggedEvent] = deque()
        self._ring_bytes = 0
        self._readers: dict[Reader, None] = {}  # a dict, because they are woken in order of arrival
        self._recent_page: tuple[int, Page] | None = None
        self._pushed_at = 0.0
        self._push_timer: asyncio.TimerHandle | None = None

    @property
    def end(self) -> Cursor:
        """The cursor after the newest event."""
        return Cursor(self.epoch, self.last_seq)

    @property
    def earliest(self) -> Cursor:
        """The cursor before the oldest kept event."""
        return Cursor(self.epoch, self.first_seq - 1)

    @property
    def readers(self) -> int:
        return len(self._readers)

    # -- writing -------------------------------------------------------------------------------------------------------

    def number(self, events: Iterable[Event], request_id: str, at: int, *, after: int) -> list[LoggedEvent]:
        """Encode events and assign the seqs that follow `after`; `at` is in ms. The events are not visible yet."""
        return [
            LoggedEvent(self.epoch, seq, event.name, at, encode_data(event, request_id))
            for seq, event in enumerate(events, after + 1)
        ]

    def publish(self, events: Sequence[LoggedEvent]) -> None:
        """Make committed events visible to readers."""
        if not events:
            return
        size = sum([len(event.data) for event in events])
        # Nearly every reader has caught up and needs exactly this page.
        self._recent_page = (self.last_seq, Page(events)) if self._readers and size <= PUSH_BYTES else None
        self._ring += events
        self._ring_bytes += size
        self.last_seq = events[-1].seq
        while self._ring_bytes > RING_BYTES and len(self._ring) > len(events):
            self._ring_bytes -= len(self._ring.popleft().data)
        if self._readers:
            self._schedule_push()

    def trim(self, before: int) -> None:
        """Forget the events before this seq, which the store has removed."""
        self.first_seq = max(self.first_seq, before)
        while self._ring and self._ring[0].seq < self.first_seq:
            self._ring_bytes -= len(self._ring.popleft().data)

    def close(self, reason: CloseReason) -> None:
        """Declare the log complete; readers end once they have read the rest."""
        self.closed = reason
        self.wake()

    def wake(self) -> None:
        """Wake every reader."""
        for reader in self._readers:
            reader.wake()

    def _schedule_push(self) -> None:
        if len(self._readers) < RATE_LIMITED_READERS:
            self._push_to_all()
        elif self._push_timer is None:
            loop = asyncio.get_running_loop()
            delay = self._pushed_at + len(self._readers) * SECONDS_PER_READER - loop.time()
            if delay > 0:
                self._push_timer = loop.call_later(delay, self._push_to_all)
            else:
                self._pushed_at = loop.time()
                self._push_to_all()

    def _push_to_all(self) -> None:
        if self._push_timer is not None:
            self._push_timer.cancel()
            self._push_timer = None
            self._pushed_at = asyncio.get_running_loop().time()
        for reader in self._readers:
            reader.push_or_wake()

    # -- reading -------------------------------------------------------------------------------------------------------

    def reader(self, after: int) -> Reader:
        """Register a reader that starts after seq `after` (SSE-6)."""
        reader = Reader(self, after)
        self._readers[reader] = None
        return reader

    def leave(self, reader: Reader) -> None:
        """Unregister a reader; no effect if it has left before."""
        self._readers.pop(reader, None)

    async def read(self, after: int) -> list[LoggedEvent]:
        """Return up to a page of the events after seq `after`; empty if there are none yet."""
        if after >= self.last_seq:
            return []
        if self._ring and self._ring[0].seq <= after + 1:
            return self._ring_page(after + 1 - self._ring[0].seq)
        page = await self._stored(after, PAGE_EVENTS, PAGE_BYTES)
        # The store may hold events that are committed but not published yet.
        return [event for event in page if event.seq <= self.last_seq]

    def recent(self, after: int) -> Page | None:
        """Return a small page of the events after seq `after` if they are in memory. The page is shared by readers."""
        if self._recent_page is not None and self._recent_page[0] == after:
            return self._recent_page[1]
        if after >= self.last_seq or not self._ring or self._ring[0].seq > after + 1:
            return None
        page = Page(self._ring_page(after + 1 - self._ring[0].seq, PUSH_BYTES))
        self._recent_page = after, page
        return page

    def _ring_page(self, index: int, max_bytes: int = PAGE_BYTES) -> list[LoggedEvent]:
        page: list[LoggedEvent] = []
        size = 0
        ring = self._ring
        for place in range(index, min(index + PAGE_EVENTS, len(ring))):
            event = ring[place]  # a deque is indexed from its nearer end, and most reads are near the end
            size += len(event.data)
            if page and size > max_bytes:
                break
            page.append(event)
        return page


class Reader:
    """A cursor into a log. `seq` is the newest event it has read.

    `push`, if set, is called with a page while the reader waits. It must send all of the page without blocking and
    return True, or send nothing and return False, which wakes the reader.
    """

    __slots__ = ("_log", "_pending", "_woken", "push", "seq")

    def __init__(self, log: EventLog, after: int) -> None:
        self.seq = after
        self.push: Callable[[Page], bool] | None = None
        self._log = log
        self._woken: asyncio.Future[None] | None = None
        self._pending = False

    async def take(self) -> list[LoggedEvent]:
        """Return the next page and advance past it; empty if the reader has caught up.

        Raises:
            Trimmed: the next event is no longer kept.
        """
        page = await self._log.read(self.seq)
        if page:
            if page[0].seq != self.seq + 1:
                raise Trimmed
            self.seq = page[-1].seq
        return page

    def push_or_wake(self) -> None:
        """Push the new events if the reader waits and accepts them, else wake it."""
        woken = self._woken
        if woken is not None and self.push is not None and not woken.done():
            page = self._log.recent(self.seq)
            if page is not None and self.push(page):
                self.seq = page.events[-1].seq
                if self.seq == self._log.last_seq:
                    return
        self.wake()

    def wake(self) -> None:
        """Make the current `wait`, or the next one, return."""
        self._pending = True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> None:
        """Return when woken; immediately if that has happened since the last `wait`."""
        if not self._pending:
            self._woken = asyncio.get_running_loop().create_future()
            try:
                await self._woken
            finally:
                self._woken = None
        self._pending = False

    def leave(self) -> None:
        """Unregister from the log."""
        self._log.leave(self)
