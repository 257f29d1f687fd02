"""Iterating over a session's events, and over one run, across connections that are lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from random import random
from time import monotonic
from types import TracebackType
from typing import Self

from cmdc_client._async.live import AsyncLiveEvent, live
from cmdc_client._async.transport import AsyncTransport
from cmdc_client.errors import CmdcError
from cmdc_client.events import Event
from cmdc_client.following import Following, Selection
from cmdc_client.platform import async_sleep
from cmdc_client.policies import AsyncDecider
from cmdc_client.transcript import Transcript


class AsyncEvents(AsyncIterator[AsyncLiveEvent]):
    """A session's events, one after the other.

    It is a context manager, at whose end the connection is closed. It is closed as well when the events have ended, and
    after a loop that was left early, as soon as nothing refers to this any more.
    """

    def __init__(self, events: AsyncGenerator[AsyncLiveEvent]) -> None:
        self._events = events

    async def __anext__(self) -> AsyncLiveEvent:
        return await self._events.__anext__()

    async def aclose(self) -> None:
        """Stop reading. The run goes on: nobody needs to read it."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncRun(AsyncEvents):
    """One prompt's run, from its `prompt_received` to its terminal event.

    `transcript` is what its events have come to so far.
    """

    def __init__(self, events: AsyncGenerator[AsyncLiveEvent], transcript: Transcript) -> None:
        super().__init__(events)
        self.transcript = transcript


async def follow(
    transport: AsyncTransport, decider: AsyncDecider, selection: Selection, *, base_run: str | None = None
) -> AsyncGenerator[AsyncLiveEvent]:
    """The events of this part of the log, each once and in order, however often the connection is lost."""
    following = Following(selection, transport.config, random, base_run=base_run)
    while True:
        failure: CmdcError | None = None
        try:
            async with aclosing(_connection(transport, following)) as events:
                async for event in events:
                    yield live(event, decider)
        except CmdcError as lost:
            failure = lost
        if following.ended:
            return
        await async_sleep(following.lost(failure, monotonic()))


async def _connection(transport: AsyncTransport, following: Following) -> AsyncGenerator[Event]:
    """The events that one connection brings."""
    async with transport.stream(following.path, following.params, following.headers) as pieces:
        following.opened(monotonic())
        async for piece in pieces:
            for event in following.feed(piece):
                yield event
            if following.ended:
                return
