"""What has happened to a session and waits for its task."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue that one task takes from: all at once, in order.

    Nearly everything in it are pieces of what a model says, and what has only those can be carried out more cheaply.
    """

    def __init__(self) -> None:
        self._items: list[T] = []
        self._only_pieces = True
        self._bell: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add what is not a piece of what a model says."""
        self._only_pieces = False
        self.put_piece(item)

    def put_piece(self, item: T) -> None:
        """Add a piece of what a model says."""
        self._items.append(item)
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def take(self, most: int) -> tuple[list[T], bool]:
        """What has gathered, once there is something: so much at most, and whether it is known to be only pieces."""
        while not self._items:
            self._bell = asyncio.get_running_loop().create_future()
            try:
                await self._bell
            finally:
                self._bell = None
        taken, only_pieces = self._items, self._only_pieces
        self._items, self._only_pieces = taken[most:], only_pieces or len(taken) <= most
        del taken[most:]
        return taken, only_pieces

    def emptied(self) -> list[T]:
        """Everything that waits, which nobody is to take any more."""
        items, self._items, self._only_pieces = self._items, [], True
        return items
