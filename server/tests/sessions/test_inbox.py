"""What waits for a session's task: nothing is forgotten, and nothing overtakes anything."""

import asyncio

import pytest
from cmdc_gateway.sessions.mailbox import Mailbox
from hypothesis import given
from hypothesis import strategies as st


async def taking(inbox: Mailbox[int], most: int = 100) -> "asyncio.Task[tuple[list[int], bool]]":
    """Somebody who takes, and who waits by now if there is nothing for them."""
    task = asyncio.create_task(inbox.take(most))
    await asyncio.sleep(0)
    return task


async def test_what_comes_while_somebody_waits_is_taken_together() -> None:
    inbox = Mailbox[int]()
    taker = await taking(inbox)

    inbox.put_chunk(1)
    inbox.put_chunk(2)

    assert await taker == ([1, 2], True)
    assert len(inbox) == 0


async def test_what_is_not_only_pieces_says_so() -> None:
    inbox = Mailbox[int]()
    inbox.put_chunk(1)
    inbox.put(2)
    inbox.put_chunk(3)

    assert await inbox.take(2) == ([1, 2], False)
    assert await inbox.take(2) == ([3], False)  # it is not known which of them it was
    inbox.put_chunk(4)
    assert await inbox.take(2) == ([4], True)


async def test_what_is_emptied_is_not_taken() -> None:
    inbox = Mailbox[int]()
    inbox.put(1)
    inbox.put_chunk(2)

    assert inbox.drain() == [1, 2]
    taker = await taking(inbox)
    assert not taker.done()
    inbox.put_chunk(3)
    assert await taker == ([3], True)


async def test_a_taker_that_is_cancelled_takes_nothing_away() -> None:
    inbox = Mailbox[int]()
    taker = await taking(inbox)
    inbox.put_chunk(1)
    taker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taker

    assert await inbox.take(1) == ([1], True)


@given(st.lists(st.sampled_from(["piece", "other", "take"]), max_size=40), st.integers(1, 4))
def test_everything_is_taken_once_in_order(steps: list[str], most: int) -> None:
    async def go() -> None:
        inbox = Mailbox[int]()
        taken: list[int] = []
        others: set[int] = set()
        for number, step in enumerate(steps):
            if step == "piece":
                inbox.put_chunk(number)
            elif step == "other":
                inbox.put(number)
                others.add(number)
            elif len(inbox):
                items, only_pieces = await inbox.take(most)
                assert len(items) <= most
                assert not (only_pieces and others & set(items))
                taken += items
        taken += inbox.drain()
        assert taken == [number for number, step in enumerate(steps) if step != "take"]

    asyncio.run(go())
