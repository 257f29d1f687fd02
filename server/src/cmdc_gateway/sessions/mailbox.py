"""The mailbox of a session's actor."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A FIFO queue with one consumer, which takes items in batches.

    It tracks whether all items are chunks of model text: those are most of the traffic, and a batch of nothing else
    takes a shorter path.
    """

    def __init__(self) -> None:
        self._items: list[T] = []
        self._only_chunks = True
        self._arrived: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item that is not a chunk of model text."""
        self._only_chunks = False
        self.put_chunk(item)

    def put_chunk(self, item: T) -> None:
        """Add a chunk of model text."""
        self._items.append(item)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def take(self, limit: int) -> tuple[list[T], bool]:
        """Wait for items; return up to `limit` of them, and whether all of them are known to be chunks."""
        while not self._items:
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
        batch, only_chunks = self._items, self._only_chunks
        self._items, self._only_chunks = batch[limit:], only_chunks or len(batch) <= limit
        del batch[limit:]
        return batch, only_chunks

    def drain(self) -> list[T]:
        """Remove and return all items."""
        items, self._items, self._only_chunks = self._items, [], True
        return items
