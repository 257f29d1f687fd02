"""The mailbox delivers every item once and in order."""

import asyncio

import pytest
from cmdc_gateway.sessions.mailbox import Mailbox
from hypothesis import given
from hypothesis import strategies as st


async def consumer(mailbox: Mailbox[int], limit: int = 100) -> "asyncio.Task[tuple[list[int], bool]]":
    """A task that takes a batch; it waits by now if the mailbox is empty."""
    task = asyncio.create_task(mailbox.take(limit))
    await asyncio.sleep(0)
    return task


async def test_items_that_arrive_together_are_taken_together() -> None:
    mailbox = Mailbox[int]()
    consuming = await consumer(mailbox)

    mailbox.put_chunk(1)
    mailbox.put_chunk(2)

    assert await consuming == ([1, 2], True)
    assert len(mailbox) == 0


async def test_a_batch_is_marked_if_it_holds_more_than_chunks() -> None:
    mailbox = Mailbox[int]()
    mailbox.put_chunk(1)
    mailbox.put(2)
    mailbox.put_chunk(3)

    assert await mailbox.take(2) == ([1, 2], False)
    assert await mailbox.take(2) == ([3], False)  # conservative: the other item was in the first batch
    mailbox.put_chunk(4)
    assert await mailbox.take(2) == ([4], True)


async def test_drained_items_are_not_taken() -> None:
    mailbox = Mailbox[int]()
    mailbox.put(1)
    mailbox.put_chunk(2)

    assert mailbox.drain() == [1, 2]
    consuming = await consumer(mailbox)
    assert not consuming.done()
    mailbox.put_chunk(3)
    assert await consuming == ([3], True)


async def test_a_canceled_consumer_takes_no_items() -> None:
    mailbox = Mailbox[int]()
    consuming = await consumer(mailbox)
    mailbox.put_chunk(1)
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming

    assert await mailbox.take(1) == ([1], True)


@given(st.lists(st.sampled_from(["chunk", "other", "take"]), max_size=40), st.integers(1, 4))
def test_every_item_is_taken_once_and_in_order(steps: list[str], limit: int) -> None:
    async def go() -> None:
        mailbox = Mailbox[int]()
        taken: list[int] = []
        others: set[int] = set()
        for number, step in enumerate(steps):
            if step == "chunk":
                mailbox.put_chunk(number)
            elif step == "other":
                mailbox.put(number)
                others.add(number)
            elif len(mailbox):
                items, only_chunks = await mailbox.take(limit)
                assert len(items) <= limit
                assert not (only_chunks and others & set(items))
                taken += items
        taken += mailbox.drain()
        assert taken == [number for number, step in enumerate(steps) if step != "take"]

    asyncio.run(go())
