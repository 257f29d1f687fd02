"""What has happened to a session and waits for its task."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue that one task takes from: all at once, in order.

    Nearly everything in it are pieces of what a model says, and what has only those can be carried out more cheaply.
    """

    def __init__(self) -> None:
        self._items: list[T] = []
        self._only_chunks = True
        self._arrived: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add what is not a piece of what a model says."""
        self._only_chunks = False
        self.put_chunk(item)

    def put_chunk(self, item: T) -> None:
        """Add a piece of what a model says."""
        self._items.append(item)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def take(self, most: int) -> tuple[list[T], bool]:
        """What has gathered, once there is something: so much at most, and whether it is known to be only pieces."""
        while not self._items:
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
        taken, only_pieces = self._items, self._only_chunks
        self._items, self._only_chunks = taken[most:], only_pieces or len(taken) <= most
        del taken[most:]
        return taken, only_pieces

    def drain(self) -> list[T]:
        """Everything that waits, which nobody is to take any more."""
        items, self._items, self._only_chunks = self._items, [], True
        return items
