"""What happened in a session, in order, for any number of readers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from minimal_gateway.refusals import encoded

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
    """The events of a session. A reader is a number: how many it has read."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._bells: set[asyncio.Event] = set()

    def append(self, name: str, data: dict[str, Any]) -> None:
        self.events.append(Event(name, encoded(data)))
        self.ring()

    def close(self) -> None:
        self.closed = True
        self.ring()

    def ring(self) -> None:
        """Wake every reader."""
        for bell in self._bells:
            bell.set()

    async def beyond(self, read: int, *, within: float | None = None) -> None:
        """Return when there is more than this, when the bell was rung, or after so many seconds."""
        if len(self.events) > read or self.closed:
            return
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            async with asyncio.timeout(within):
                await bell.wait()
        except TimeoutError:
            pass
        finally:
            self._bells.discard(bell)
