"""The events of a session, for any number of readers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from minimal_gateway.errors import encode

TERMINAL = ("agent_end", "agent_abort")


@dataclass(frozen=True, slots=True)
class Event:
    """An event, encoded once."""

    name: str
    data: bytes

    @property
    def sse(self) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (self.name.encode(), self.data)

    @property
    def text(self) -> str:
        return f'{{"event":"{self.name}","data":{self.data.decode()}}}'


class Log:
    """The event log of a session. The position of a reader is the number of events that it has read."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._waiters: set[asyncio.Event] = set()

    def append(self, name: str, data: dict[str, Any]) -> None:
        self.events.append(Event(name, encode(data)))
        self.notify()

    def close(self) -> None:
        self.closed = True
        self.notify()

    def notify(self) -> None:
        """Wake every reader."""
        for waiter in self._waiters:
            waiter.set()

    async def wait_beyond(self, read: int, *, within: float | None = None) -> None:
        """Wait for an event after this position, a notification, or a timeout in seconds."""
        if len(self.events) > read or self.closed:
            return
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(within):
                await waiter.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)
