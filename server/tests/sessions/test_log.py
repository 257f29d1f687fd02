"""The event log and its readers (EVT-7, EVT-8, SSE-6, SSE-7, SSE-9, SSE-10)."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from cmdc_gateway.protocol.events import AgentStart, MessageDelta
from cmdc_gateway.protocol.frames import LoggedEvent, Page
from cmdc_gateway.sessions import log as log_module
from cmdc_gateway.sessions.log import EventLog, Reader, Trimmed
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import SessionKey, SessionRow
from cmdc_gateway.store.writes import AppendEvents, CreateSession, TrimEvents
from hypothesis import given
from hypothesis import strategies as st

KEY = SessionKey("acme", "s1")
EPOCH = "k3x9"


@dataclass
class StoredLog:
    """An event log with its store."""

    store: MemoryStore = field(default_factory=MemoryStore)
    reads: int = 0
    while_reading: asyncio.Event | None = None

    async def open(self) -> EventLog:
        await self.store.commit([CreateSession(SessionRow(KEY, EPOCH, 0, b"{}"))])
        self.log = EventLog(EPOCH, stored=self.stored)
        self.committed = 0
        return self.log

    async def stored(self, after: int, limit: int, max_bytes: int, /) -> list[LoggedEvent]:
        self.reads += 1
        page = await self.store.events(KEY, after, limit, max_bytes)
        if self.while_reading is not None:
            await self.while_reading.wait()
        return page

    async def commit(self, texts: list[str]) -> list[LoggedEvent]:
        events = self.log.number([MessageDelta(text) for text in texts], "r1", 5, after=self.committed)
        await self.store.commit([AppendEvents(KEY, tuple(events))])
        self.committed += len(events)
        return events

    async def add(self, *texts: str) -> list[LoggedEvent]:
        events = await self.commit(list(texts))
        self.log.publish(events)
        return events

    async def trim(self, before: int) -> None:
        await self.store.commit([TrimEvents(KEY, before)])
        self.log.trim(before)


@pytest.fixture
async def stored_log() -> StoredLog:
    stored_log = StoredLog()
    await stored_log.open()
    return stored_log


@pytest.fixture
def tiny_ring() -> Iterator[None]:
    """Limit the ring and a page to about two small events."""
    with patch.object(log_module, "RING_BYTES", 80), patch.object(log_module, "PAGE_BYTES", 80):
        yield


async def drained(reader: Reader) -> list[int]:
    """Read everything available; return the seqs."""
    seqs: list[int] = []
    while page := await reader.take():
        seqs += [event.seq for event in page]
    return seqs


# -- numbering ---------------------------------------------------------------------------------------------------------


def test_numbered_events_are_not_visible_yet() -> None:
    """EVT-7, EVT-8."""
    log = EventLog(EPOCH, last_seq=7, stored=StoredLog().stored)

    events = log.number([AgentStart(), MessageDelta("hi")], "r1", 5, after=9)

    assert events == [
        LoggedEvent(EPOCH, 10, "agent_start", 5, b'{"requestId":"r1"}'),
        LoggedEvent(EPOCH, 11, "message_delta", 5, b'{"delta":"hi","requestId":"r1"}'),
    ]
    assert str(log.end) == "k3x9.7"


async def test_its_bounds_follow_publishing_and_trimming(stored_log: StoredLog) -> None:
    """SSE-7: `earliest` is the cursor before the first kept event."""
    assert (str(stored_log.log.earliest), str(stored_log.log.end)) == ("k3x9.0", "k3x9.0")

    await stored_log.add("a", "b", "c")
    await stored_log.trim(3)

    assert (str(stored_log.log.earliest), str(stored_log.log.end)) == ("k3x9.2", "k3x9.3")


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_every_reader_gets_every_event_after_its_cursor(stored_log: StoredLog) -> None:
    """SSE-9."""
    events = await stored_log.add("a", "b", "c")

    assert await stored_log.log.reader(0).take() == events
    assert await stored_log.log.reader(2).take() == events[2:]
    assert await stored_log.log.reader(3).take() == []
    assert stored_log.reads == 0


async def test_an_event_published_after_a_reader_registered_reaches_it(stored_log: StoredLog) -> None:
    """SSE-6: readers register before their first read."""
    reader = stored_log.log.reader(0)
    assert await reader.take() == []

    events = await stored_log.add("a")

    async with asyncio.timeout(5):
        await reader.wait()
    assert await reader.take() == events
    assert await reader.take() == []


@pytest.mark.usefixtures("tiny_ring")
async def test_a_reader_that_is_behind_reads_older_events_from_the_store(stored_log: StoredLog) -> None:
    """SSE-10: nothing is kept in memory for slow readers."""
    for n in range(10):
        await stored_log.add(f"{n}")

    assert await drained(stored_log.log.reader(0)) == list(range(1, 11))
    assert stored_log.reads > 0


@pytest.mark.usefixtures("tiny_ring")
async def test_the_newest_events_are_read_from_memory(stored_log: StoredLog) -> None:
    """SSE-10: up to the size of the ring, also after earlier events were trimmed."""
    for n in range(10):
        await stored_log.add(f"{n}")
        await stored_log.trim(n)

    assert await drained(stored_log.log.reader(8)) == [9, 10]
    assert stored_log.reads == 0
    assert await drained(stored_log.log.reader(stored_log.log.earliest.seq)) == [9, 10]


@pytest.mark.usefixtures("tiny_ring")
async def test_an_event_larger_than_the_ring_can_be_read(stored_log: StoredLog) -> None:
    await stored_log.add("x" * 1000)
    await stored_log.add("y" * 1000, "z" * 1000)

    assert await drained(stored_log.log.reader(0)) == [1, 2, 3]
    assert await drained(stored_log.log.reader(1)) == [2, 3]


async def test_a_page_is_bounded_in_events(stored_log: StoredLog) -> None:
    """SSE-10."""
    await stored_log.add(*("x" for _ in range(log_module.PAGE_EVENTS + 1)))
    reader = stored_log.log.reader(0)

    assert len(await reader.take()) == log_module.PAGE_EVENTS
    assert len(await reader.take()) == 1


async def test_a_page_is_bounded_in_bytes(stored_log: StoredLog) -> None:
    """SSE-10."""
    half = "x" * (log_module.PAGE_BYTES // 2)
    await stored_log.add(half, half, half)
    reader = stored_log.log.reader(0)

    assert [len(await reader.take()) for _ in range(3)] == [1, 1, 1]


@pytest.mark.usefixtures("tiny_ring")
async def test_committed_events_are_invisible_until_published(stored_log: StoredLog) -> None:
    """EVT-8: the store may be ahead of what is published."""
    for n in range(10):
        await stored_log.add(f"{n}")
    coming = await stored_log.commit(["later", "still later"])

    reader = stored_log.log.reader(5)
    assert await drained(reader) == [6, 7, 8, 9, 10]
    stored_log.log.publish(coming)
    assert await drained(reader) == [11, 12]


@pytest.mark.usefixtures("tiny_ring")
async def test_an_event_published_during_a_read_from_the_store_is_read_once(stored_log: StoredLog) -> None:
    """SSE-6."""
    for n in range(10):
        await stored_log.add(f"{n}")
    stored_log.while_reading = asyncio.Event()
    reader = stored_log.log.reader(0)
    reading = asyncio.create_task(drained(reader))
    await asyncio.sleep(0)

    await stored_log.add("a", "b")
    stored_log.while_reading.set()

    async with asyncio.timeout(5):
        seqs = await reading + await drained(reader)
    assert seqs == list(range(1, 13))


SIZES = st.sampled_from([1, 1, 5, 30, 200])
STEPS = st.lists(
    st.tuples(st.just("commit"), st.lists(SIZES, min_size=1, max_size=4))
    | st.tuples(st.sampled_from(["publish", "join", "take", "take"]), st.integers(0, 20)),
    max_size=40,
)


@given(steps=STEPS)
async def test_every_reader_gets_every_event_once_in_any_interleaving(steps: list[tuple[str, list[int] | int]]) -> None:
    """SSE-6, EVT-7, EVT-8: with a ring so small that most reads go to the store."""
    stored_log, readers, taken = StoredLog(), list[Reader](), list[list[int]]()
    log = await stored_log.open()
    unpublished: list[list[LoggedEvent]] = []

    async def take(index: int) -> None:
        page = await readers[index].take()
        taken[index] += [event.seq for event in page]
        assert all(len(json.loads(event.data)["delta"]) in (1, 5, 30, 200) for event in page)
        assert readers[index].seq <= log.last_seq

    with patch.object(log_module, "RING_BYTES", 100), patch.object(log_module, "PAGE_BYTES", 100):
        for step, number in steps:
            match step, number:
                case "commit", list(sizes):
                    unpublished.append(await stored_log.commit(["x" * size for size in sizes]))
                case "publish", _ if unpublished:
                    log.publish(unpublished.pop(0))
                case "join", int(place):
                    readers.append(log.reader(place % (log.last_seq + 1)))
                    taken.append([readers[-1].seq])
                case "take", int(which) if readers:
                    await take(which % len(readers))
                case _:
                    pass
        while unpublished:
            log.publish(unpublished.pop(0))
        for index, reader in enumerate(readers):
            while reader.seq < log.last_seq:
                await take(index)

    for seqs in taken:
        assert seqs == list(range(seqs[0], stored_log.committed + 1))


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_an_event_between_reading_and_waiting_is_not_missed(stored_log: StoredLog) -> None:
    """SSE-6."""
    reader = stored_log.log.reader(0)
    assert await reader.take() == []
    await stored_log.add("a")

    async with asyncio.timeout(5):
        await reader.wait()

    assert await drained(reader) == [1]


async def test_a_reader_waits_until_it_is_woken(stored_log: StoredLog) -> None:
    reader = stored_log.log.reader(0)
    await stored_log.add("a")
    await reader.wait()

    waiting = asyncio.create_task(reader.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    reader.wake()
    reader.wake()

    async with asyncio.timeout(5):
        await waiting


async def test_a_canceled_wait_can_be_repeated(stored_log: StoredLog) -> None:
    reader = stored_log.log.reader(0)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    await stored_log.add("a")

    async with asyncio.timeout(5):
        await reader.wait()
    assert await drained(reader) == [1]


async def test_publishing_no_events_wakes_no_reader(stored_log: StoredLog) -> None:
    reader = stored_log.log.reader(0)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)

    stored_log.log.publish([])
    for _ in range(5):
        await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()


async def test_an_idle_reader_delays_no_other(stored_log: StoredLog) -> None:
    """SSE-9, SSE-10."""
    idle = stored_log.log.reader(0)
    seen: list[list[int]] = [[], [], []]

    async def follow(seqs: list[int], pause: int) -> None:
        reader = stored_log.log.reader(0)
        while len(seqs) < 500:
            seqs += [event.seq for event in await reader.take()]
            for _ in range(pause):
                await asyncio.sleep(0)
            if reader.seq == stored_log.log.last_seq:
                await reader.wait()
        reader.leave()

    with patch.object(log_module, "RING_BYTES", 300):
        async with asyncio.timeout(20), asyncio.TaskGroup() as readers:
            for pause, seqs in enumerate(seen):
                readers.create_task(follow(seqs, pause))
            for n in range(500):
                await stored_log.add(f"{n}")
                if n % 7 == 0:
                    await asyncio.sleep(0)
            while stored_log.log.readers > 1:
                stored_log.log.wake()
                await asyncio.sleep(0)

    assert seen == [list(range(1, 501))] * 3
    assert (idle.seq, stored_log.log.readers) == (0, 1)
    reads = stored_log.reads
    assert await drained(idle) == list(range(1, 501))
    assert stored_log.reads > reads


async def test_a_reader_that_leaves_is_unregistered(stored_log: StoredLog) -> None:
    """SSE-9. Leaving twice is harmless."""
    reader, other = stored_log.log.reader(0), stored_log.log.reader(0)

    reader.leave()
    reader.leave()

    assert stored_log.log.readers == 1
    assert await drained(other) == []


# -- closing and trimming ----------------------------------------------------------------------------------------------


async def test_a_closed_log_is_read_to_its_end(stored_log: StoredLog) -> None:
    """EP-delete: readers get the `agent_abort`, then the end of the stream."""
    reader = stored_log.log.reader(0)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)

    stored_log.log.publish(await stored_log.commit(["last"]))
    stored_log.log.close("deleted")

    async with asyncio.timeout(5):
        await waiting
    assert stored_log.log.closed == "deleted"
    assert await drained(reader) == [1]


async def test_closing_wakes_waiting_readers(stored_log: StoredLog) -> None:
    reader = stored_log.log.reader(0)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)

    stored_log.log.close("lost")

    async with asyncio.timeout(5):
        await waiting
    assert await reader.take() == []


@pytest.mark.parametrize("after", [0, 2])
async def test_a_reader_whose_next_event_was_trimmed_gets_an_error(stored_log: StoredLog, after: int) -> None:
    """SSE-7: a gap is never skipped silently."""
    await stored_log.add("a", "b", "c", "d")
    reader = stored_log.log.reader(after)
    await stored_log.trim(4)

    with pytest.raises(Trimmed):
        await reader.take()
    assert reader.seq == after


async def test_a_reader_at_the_earliest_cursor_misses_nothing(stored_log: StoredLog) -> None:
    """SSE-7: `earliest` is a valid cursor."""
    await stored_log.add("a", "b", "c", "d")
    await stored_log.trim(4)

    assert await drained(stored_log.log.reader(stored_log.log.earliest.seq)) == [4]


async def test_trimming_at_an_earlier_seq_has_no_effect(stored_log: StoredLog) -> None:
    await stored_log.add("a", "b", "c")

    await stored_log.trim(3)
    await stored_log.trim(2)

    assert stored_log.log.first_seq == 3
    assert await drained(stored_log.log.reader(2)) == [3]


async def test_a_reloaded_log_is_read_from_the_store(stored_log: StoredLog) -> None:
    """DUR-1: its ring is empty."""
    await stored_log.add("a", "b", "c")

    reloaded = EventLog(EPOCH, first_seq=1, last_seq=3, stored=stored_log.stored)

    assert await drained(reloaded.reader(1)) == [2, 3]
    assert str(reloaded.end) == "k3x9.3"


# -- pushing -----------------------------------------------------------------------------------------------------------


class PushReader:
    """A waiting reader that accepts pushed pages while `accepts` is True."""

    def __init__(self, stored_log: StoredLog, *, accepts: bool = True) -> None:
        self.accepts = accepts
        self.pages: list[Page] = []
        self.pushed_twice = asyncio.Event()
        self.reader = stored_log.log.reader(0)
        self.reader.push = self._push
        self.waiting = asyncio.create_task(self.reader.wait())

    @property
    def seqs(self) -> list[list[int]]:
        return [[event.seq for event in page.events] for page in self.pages]

    def _push(self, page: Page) -> bool:
        if self.accepts:
            self.pages.append(page)
        if len(self.pages) > 1:
            self.pushed_twice.set()
        return self.accepts


async def test_a_waiting_reader_is_pushed_to_before_publish_returns_and_keeps_waiting(stored_log: StoredLog) -> None:
    pushed = PushReader(stored_log)
    await asyncio.sleep(0)

    await stored_log.add("a")
    await stored_log.add("b", "c")

    assert (pushed.seqs, pushed.reader.seq) == ([[1], [2, 3]], 3)
    assert not pushed.waiting.done()
    pushed.waiting.cancel()


async def test_readers_at_the_same_cursor_share_a_page(stored_log: StoredLog) -> None:
    both = PushReader(stored_log), PushReader(stored_log)
    await asyncio.sleep(0)

    await stored_log.add("a")

    assert both[0].pages[0] is both[1].pages[0]
    for pushed in both:
        pushed.waiting.cancel()


async def test_a_push_is_bounded_in_bytes(stored_log: StoredLog) -> None:
    """SSE-10: however much was committed together."""
    pushed = PushReader(stored_log)
    await asyncio.sleep(0)

    await stored_log.add(*["x" * (log_module.PUSH_BYTES // 4)] * 6)

    async with asyncio.timeout(5):
        await pushed.waiting
    assert pushed.seqs == [[1, 2, 3]]
    assert await drained(pushed.reader) == [4, 5, 6]


async def test_a_reader_slightly_behind_is_pushed_everything_it_lacks(stored_log: StoredLog) -> None:
    late, prompt = PushReader(stored_log, accepts=False), PushReader(stored_log)
    await asyncio.sleep(0)
    await stored_log.add("a")
    async with asyncio.timeout(5):
        await late.waiting
    late.accepts, late.waiting = True, asyncio.create_task(late.reader.wait())
    await asyncio.sleep(0)

    await stored_log.add("b", "c")

    assert (late.seqs, prompt.seqs) == ([[1, 2, 3]], [[1], [2, 3]])
    for pushed in (late, prompt):
        pushed.waiting.cancel()


async def test_a_reader_that_declines_a_push_is_woken_and_misses_nothing(stored_log: StoredLog) -> None:
    pushed = PushReader(stored_log, accepts=False)
    await asyncio.sleep(0)

    await stored_log.add("a")

    async with asyncio.timeout(5):
        await pushed.waiting
    assert (pushed.pages, await drained(pushed.reader)) == ([], [1])


async def test_a_reader_that_is_not_waiting_is_not_pushed_to(stored_log: StoredLog) -> None:
    """The page it is processing comes first."""
    pushed = PushReader(stored_log)
    await stored_log.add("a")  # it does not wait yet

    async with asyncio.timeout(5):
        await pushed.waiting
    assert (pushed.pages, await drained(pushed.reader)) == ([], [1])


@pytest.mark.usefixtures("tiny_ring")
async def test_a_reader_far_behind_is_woken_instead_of_pushed_to(stored_log: StoredLog) -> None:
    pushed = PushReader(stored_log, accepts=False)
    await asyncio.sleep(0)
    await stored_log.add(*"abcdefgh")
    await pushed.waiting
    pushed.accepts, pushed.waiting = True, asyncio.create_task(pushed.reader.wait())
    await asyncio.sleep(0)

    await stored_log.add("i")

    async with asyncio.timeout(5):
        await pushed.waiting
    assert (pushed.pages, await drained(pushed.reader)) == ([], [1, 2, 3, 4, 5, 6, 7, 8, 9])


async def test_with_many_readers_pushes_are_rate_limited_and_coalesced(stored_log: StoredLog) -> None:
    with patch.object(log_module, "RATE_LIMITED_READERS", 2), patch.object(log_module, "SECONDS_PER_READER", 0.01):
        readers = PushReader(stored_log), PushReader(stored_log)
        await asyncio.sleep(0)
        await stored_log.add("a")
        await stored_log.add("b")
        await stored_log.add("c", "d")

        assert [pushed.seqs for pushed in readers] == [[[1]], [[1]]]
        async with asyncio.timeout(5):
            await asyncio.gather(*(pushed.pushed_twice.wait() for pushed in readers))

    assert [pushed.seqs for pushed in readers] == [[[1], [2, 3, 4]]] * 2
    for pushed in readers:
        pushed.waiting.cancel()
