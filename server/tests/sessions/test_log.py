"""A session's log and its readers (EVT-7, EVT-8, SSE-6, SSE-7, SSE-9, SSE-10)."""

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
from cmdc_gateway.store.store import AppendEvents, CreateSession, SessionKey, SessionRow, TrimEvents
from hypothesis import given
from hypothesis import strategies as st

KEY = SessionKey("acme", "s1")
EPOCH = "k3x9"


@dataclass
class Kept:
    """A log over a store, as a session has them."""

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
async def kept() -> Kept:
    kept = Kept()
    await kept.open()
    return kept


@pytest.fixture
def tiny_ring() -> Iterator[None]:
    """Room for about two small events in memory, and in a page."""
    with patch.object(log_module, "RING_BYTES", 80), patch.object(log_module, "PAGE_BYTES", 80):
        yield


async def drained(reader: Reader) -> list[int]:
    """The seqs of everything there is for this reader now."""
    seqs: list[int] = []
    while page := await reader.take():
        seqs += [event.seq for event in page]
    return seqs


# -- numbering ---------------------------------------------------------------------------------------------------------


def test_events_are_numbered_on_from_where_they_are_put_and_not_shown_yet() -> None:
    """EVT-7, EVT-8."""
    log = EventLog(EPOCH, last_seq=7, stored=Kept().stored)

    events = log.number([AgentStart(), MessageDelta("hi")], "r1", 5, after=9)

    assert events == [
        LoggedEvent(EPOCH, 10, "agent_start", 5, b'{"requestId":"r1"}'),
        LoggedEvent(EPOCH, 11, "message_delta", 5, b'{"delta":"hi","requestId":"r1"}'),
    ]
    assert str(log.end) == "k3x9.7"


async def test_it_knows_its_edges(kept: Kept) -> None:
    """SSE-7: `earliest` is the cursor after which the first kept event comes."""
    assert (str(kept.log.earliest), str(kept.log.end)) == ("k3x9.0", "k3x9.0")

    await kept.add("a", "b", "c")
    await kept.trim(3)

    assert (str(kept.log.earliest), str(kept.log.end)) == ("k3x9.2", "k3x9.3")


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_every_reader_gets_every_event_after_its_place(kept: Kept) -> None:
    """SSE-9."""
    events = await kept.add("a", "b", "c")

    assert await kept.log.reader(0).take() == events
    assert await kept.log.reader(2).take() == events[2:]
    assert await kept.log.reader(3).take() == []
    assert kept.reads == 0


async def test_what_is_published_after_a_reader_registered_reaches_it(kept: Kept) -> None:
    """SSE-6: it is registered before it reads anything."""
    reader = kept.log.reader(0)
    assert await reader.take() == []

    events = await kept.add("a")

    async with asyncio.timeout(5):
        await reader.wait()
    assert await reader.take() == events
    assert await reader.take() == []


@pytest.mark.usefixtures("tiny_ring")
async def test_a_reader_that_is_behind_gets_the_older_events_from_the_store(kept: Kept) -> None:
    """SSE-10: what it lacks is kept for nobody in memory."""
    for n in range(10):
        await kept.add(f"{n}")

    assert await drained(kept.log.reader(0)) == list(range(1, 11))
    assert kept.reads > 0


@pytest.mark.usefixtures("tiny_ring")
async def test_the_newest_events_are_read_from_memory(kept: Kept) -> None:
    """SSE-10: as many as there is room for, however many came before them, and were trimmed."""
    for n in range(10):
        await kept.add(f"{n}")
        await kept.trim(n)

    assert await drained(kept.log.reader(8)) == [9, 10]
    assert kept.reads == 0
    assert await drained(kept.log.reader(kept.log.earliest.seq)) == [9, 10]


@pytest.mark.usefixtures("tiny_ring")
async def test_an_event_larger_than_all_there_is_room_for_is_read_too(kept: Kept) -> None:
    await kept.add("x" * 1000)
    await kept.add("y" * 1000, "z" * 1000)

    assert await drained(kept.log.reader(0)) == [1, 2, 3]
    assert await drained(kept.log.reader(1)) == [2, 3]


async def test_a_page_is_bounded_in_events(kept: Kept) -> None:
    """SSE-10."""
    await kept.add(*("x" for _ in range(log_module.PAGE_EVENTS + 1)))
    reader = kept.log.reader(0)

    assert len(await reader.take()) == log_module.PAGE_EVENTS
    assert len(await reader.take()) == 1


async def test_a_page_is_bounded_in_bytes(kept: Kept) -> None:
    """SSE-10."""
    half = "x" * (log_module.PAGE_BYTES // 2)
    await kept.add(half, half, half)
    reader = kept.log.reader(0)

    assert [len(await reader.take()) for _ in range(3)] == [1, 1, 1]


@pytest.mark.usefixtures("tiny_ring")
async def test_nobody_sees_what_is_stored_but_not_yet_shown(kept: Kept) -> None:
    """EVT-8: a commit is stored before it is shown."""
    for n in range(10):
        await kept.add(f"{n}")
    coming = await kept.commit(["later", "still later"])

    reader = kept.log.reader(5)
    assert await drained(reader) == [6, 7, 8, 9, 10]
    kept.log.publish(coming)
    assert await drained(reader) == [11, 12]


@pytest.mark.usefixtures("tiny_ring")
async def test_what_is_shown_while_a_reader_reads_the_store_comes_once(kept: Kept) -> None:
    """SSE-6."""
    for n in range(10):
        await kept.add(f"{n}")
    kept.while_reading = asyncio.Event()
    reader = kept.log.reader(0)
    reading = asyncio.create_task(drained(reader))
    await asyncio.sleep(0)

    await kept.add("a", "b")
    kept.while_reading.set()

    async with asyncio.timeout(5):
        seqs = await reading + await drained(reader)
    assert seqs == list(range(1, 13))


SIZES = st.sampled_from([1, 1, 5, 30, 200])
STEPS = st.lists(
    st.tuples(st.just("commit"), st.lists(SIZES, min_size=1, max_size=4))
    | st.tuples(st.sampled_from(["show", "join", "take", "take"]), st.integers(0, 20)),
    max_size=40,
)


@given(steps=STEPS)
async def test_whatever_the_order_every_reader_gets_every_event_once(steps: list[tuple[str, list[int] | int]]) -> None:
    """SSE-6, EVT-7, EVT-8: over a ring so small that most is read from the store."""
    kept, readers, taken = Kept(), list[Reader](), list[list[int]]()
    log = await kept.open()
    hidden: list[list[LoggedEvent]] = []

    async def take(index: int) -> None:
        page = await readers[index].take()
        taken[index] += [event.seq for event in page]
        assert all(len(json.loads(event.data)["delta"]) in (1, 5, 30, 200) for event in page)
        assert readers[index].seq <= log.last_seq

    with patch.object(log_module, "RING_BYTES", 100), patch.object(log_module, "PAGE_BYTES", 100):
        for step, number in steps:
            match step, number:
                case "commit", list(sizes):
                    hidden.append(await kept.commit(["x" * size for size in sizes]))
                case "show", _ if hidden:
                    log.publish(hidden.pop(0))
                case "join", int(place):
                    readers.append(log.reader(place % (log.last_seq + 1)))
                    taken.append([readers[-1].seq])
                case "take", int(which) if readers:
                    await take(which % len(readers))
                case _:
                    pass
        while hidden:
            log.publish(hidden.pop(0))
        for index, reader in enumerate(readers):
            while reader.seq < log.last_seq:
                await take(index)

    for seqs in taken:
        assert seqs == list(range(seqs[0], kept.committed + 1))


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_what_comes_between_looking_and_waiting_is_not_slept_through(kept: Kept) -> None:
    """SSE-6."""
    reader = kept.log.reader(0)
    assert await reader.take() == []
    await kept.add("a")

    async with asyncio.timeout(5):
        await reader.wait()

    assert await drained(reader) == [1]


async def test_a_reader_sleeps_until_there_is_something(kept: Kept) -> None:
    reader = kept.log.reader(0)
    await kept.add("a")
    await reader.wait()

    waiting = asyncio.create_task(reader.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    reader.wake()
    reader.wake()

    async with asyncio.timeout(5):
        await waiting


async def test_a_reader_that_gave_up_waiting_can_wait_again(kept: Kept) -> None:
    reader = kept.log.reader(0)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    await kept.add("a")

    async with asyncio.timeout(5):
        await reader.wait()
    assert await drained(reader) == [1]


async def test_publishing_nothing_wakes_nobody(kept: Kept) -> None:
    reader = kept.log.reader(0)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)

    kept.log.publish([])
    for _ in range(5):
        await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()


async def test_a_reader_that_does_not_read_delays_nobody_and_costs_a_number(kept: Kept) -> None:
    """SSE-9, SSE-10."""
    idle = kept.log.reader(0)
    seen: list[list[int]] = [[], [], []]

    async def follow(seqs: list[int], pause: int) -> None:
        reader = kept.log.reader(0)
        while len(seqs) < 500:
            seqs += [event.seq for event in await reader.take()]
            for _ in range(pause):
                await asyncio.sleep(0)
            if reader.seq == kept.log.last_seq:
                await reader.wait()
        reader.leave()

    with patch.object(log_module, "RING_BYTES", 300):
        async with asyncio.timeout(20), asyncio.TaskGroup() as readers:
            for pause, seqs in enumerate(seen):
                readers.create_task(follow(seqs, pause))
            for n in range(500):
                await kept.add(f"{n}")
                if n % 7 == 0:
                    await asyncio.sleep(0)
            while kept.log.readers > 1:
                kept.log.wake()
                await asyncio.sleep(0)

    assert seen == [list(range(1, 501))] * 3
    assert (idle.seq, kept.log.readers) == (0, 1)
    reads = kept.reads
    assert await drained(idle) == list(range(1, 501))
    assert kept.reads > reads


async def test_a_reader_that_leaves_is_forgotten(kept: Kept) -> None:
    """SSE-9: and leaving twice is harmless."""
    reader, other = kept.log.reader(0), kept.log.reader(0)

    reader.leave()
    reader.leave()

    assert kept.log.readers == 1
    assert await drained(other) == []


# -- the end of a log, and of what is kept of it -----------------------------------------------------------------------


async def test_a_closed_log_is_read_to_its_end(kept: Kept) -> None:
    """§3.4: readers get the `agent_abort`, then the end of the stream."""
    reader = kept.log.reader(0)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)

    kept.log.publish(await kept.commit(["last"]))
    kept.log.close("deleted")

    async with asyncio.timeout(5):
        await waiting
    assert kept.log.closed == "deleted"
    assert await drained(reader) == [1]


async def test_closing_wakes_those_who_wait(kept: Kept) -> None:
    reader = kept.log.reader(0)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)

    kept.log.close("lost")

    async with asyncio.timeout(5):
        await waiting
    assert await reader.take() == []


@pytest.mark.parametrize("after", [0, 2])
async def test_a_reader_is_told_that_what_it_should_get_next_is_gone(kept: Kept, after: int) -> None:
    """SSE-7: never a partial stream."""
    await kept.add("a", "b", "c", "d")
    reader = kept.log.reader(after)
    await kept.trim(4)

    with pytest.raises(Trimmed):
        await reader.take()
    assert reader.seq == after


async def test_a_reader_at_the_edge_of_what_is_kept_misses_nothing(kept: Kept) -> None:
    """SSE-7: the cursor `earliest` is good."""
    await kept.add("a", "b", "c", "d")
    await kept.trim(4)

    assert await drained(kept.log.reader(kept.log.earliest.seq)) == [4]


async def test_trimming_never_brings_anything_back(kept: Kept) -> None:
    await kept.add("a", "b", "c")

    await kept.trim(3)
    await kept.trim(2)

    assert kept.log.first_seq == 3
    assert await drained(kept.log.reader(2)) == [3]


async def test_a_log_taken_up_again_is_read_from_the_store(kept: Kept) -> None:
    """DUR-1: the ring is empty then."""
    await kept.add("a", "b", "c")

    again = EventLog(EPOCH, first_seq=1, last_seq=3, stored=kept.stored)

    assert await drained(again.reader(1)) == [2, 3]
    assert str(again.end) == "k3x9.3"


# -- being served on the spot ------------------------------------------------------------------------------------------


class Served:
    """A reader that is served on the spot, as long as it `takes` what it is offered."""

    def __init__(self, kept: Kept, *, takes: bool = True) -> None:
        self.takes = takes
        self.pages: list[Page] = []
        self.again = asyncio.Event()
        self.reader = kept.log.reader(0)
        self.reader.push = self._at_once
        self.waiting = asyncio.create_task(self.reader.wait())

    @property
    def seqs(self) -> list[list[int]]:
        return [[event.seq for event in page.events] for page in self.pages]

    def _at_once(self, page: Page) -> bool:
        if self.takes:
            self.pages.append(page)
        if len(self.pages) > 1:
            self.again.set()
        return self.takes


async def test_a_reader_that_waits_is_served_before_publishing_returns_and_sleeps_on(kept: Kept) -> None:
    served = Served(kept)
    await asyncio.sleep(0)

    await kept.add("a")
    await kept.add("b", "c")

    assert (served.seqs, served.reader.seq) == ([[1], [2, 3]], 3)
    assert not served.waiting.done()
    served.waiting.cancel()


async def test_readers_at_one_place_are_served_the_same_page(kept: Kept) -> None:
    both = Served(kept), Served(kept)
    await asyncio.sleep(0)

    await kept.add("a")

    assert both[0].pages[0] is both[1].pages[0]
    for served in both:
        served.waiting.cancel()


async def test_more_than_is_sent_at_once_is_sent_in_parts(kept: Kept) -> None:
    """SSE-10: what a reader is given at once is bounded, however much was committed together."""
    served = Served(kept)
    await asyncio.sleep(0)

    await kept.add(*["x" * (log_module.PUSH_BYTES // 4)] * 6)

    async with asyncio.timeout(5):
        await served.waiting
    assert served.seqs == [[1, 2, 3]]
    assert await drained(served.reader) == [4, 5, 6]


async def test_a_reader_that_lacks_more_than_the_newest_events_is_served_all_of_it(kept: Kept) -> None:
    late, prompt = Served(kept, takes=False), Served(kept)
    await asyncio.sleep(0)
    await kept.add("a")
    async with asyncio.timeout(5):
        await late.waiting
    late.takes, late.waiting = True, asyncio.create_task(late.reader.wait())
    await asyncio.sleep(0)

    await kept.add("b", "c")

    assert (late.seqs, prompt.seqs) == ([[1, 2, 3]], [[1], [2, 3]])
    for served in (late, prompt):
        served.waiting.cancel()


async def test_a_reader_that_cannot_be_served_on_the_spot_is_woken_and_misses_nothing(kept: Kept) -> None:
    served = Served(kept, takes=False)
    await asyncio.sleep(0)

    await kept.add("a")

    async with asyncio.timeout(5):
        await served.waiting
    assert (served.pages, await drained(served.reader)) == ([], [1])


async def test_a_reader_that_is_at_work_is_not_served_between(kept: Kept) -> None:
    """What it is at work with comes first."""
    served = Served(kept)
    await kept.add("a")  # it does not wait yet

    async with asyncio.timeout(5):
        await served.waiting
    assert (served.pages, await drained(served.reader)) == ([], [1])


@pytest.mark.usefixtures("tiny_ring")
async def test_a_reader_far_behind_is_not_served_from_the_ring(kept: Kept) -> None:
    served = Served(kept, takes=False)
    await asyncio.sleep(0)
    await kept.add(*"abcdefgh")
    await served.waiting
    served.takes, served.waiting = True, asyncio.create_task(served.reader.wait())
    await asyncio.sleep(0)

    await kept.add("i")

    async with asyncio.timeout(5):
        await served.waiting
    assert (served.pages, await drained(served.reader)) == ([], [1, 2, 3, 4, 5, 6, 7, 8, 9])


async def test_what_comes_while_a_crowd_is_served_it_gets_together(kept: Kept) -> None:
    with patch.object(log_module, "RATE_LIMITED_READERS", 2), patch.object(log_module, "SECONDS_PER_READER", 0.01):
        crowd = Served(kept), Served(kept)
        await asyncio.sleep(0)
        await kept.add("a")
        await kept.add("b")
        await kept.add("c", "d")

        assert [served.seqs for served in crowd] == [[[1]], [[1]]]
        async with asyncio.timeout(5):
            await asyncio.gather(*(served.again.wait() for served in crowd))

    assert [served.seqs for served in crowd] == [[[1], [2, 3, 4]]] * 2
    for served in crowd:
        served.waiting.cancel()
