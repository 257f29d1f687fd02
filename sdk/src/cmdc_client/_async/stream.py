"""Iterators over a session's events and over one run, which survive lost connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from random import random
from time import monotonic
from types import TracebackType
from typing import Self

from cmdc_client._async.live_events import AsyncLiveEvent, to_live_event
from cmdc_client._async.transport import AsyncTransport
from cmdc_client.backends import async_sleep
from cmdc_client.errors import CmdcError
from cmdc_client.events import Event
from cmdc_client.policies import AsyncDecisionSender
from cmdc_client.resumable_stream import EventQuery, ResumableStream
from cmdc_client.transcript import Transcript


class AsyncEvents(AsyncIterator[AsyncLiveEvent]):
    """An iterator over a session's events.

    It is a context manager that closes the connection at the end. The connection is also closed when the events have
    ended, and when the iterator is garbage collected after a loop that was left early. Iterating raises ApiError,
    ProtocolError, ConnectionFailed or CannotResume.
    """

    def __init__(self, events: AsyncGenerator[AsyncLiveEvent]) -> None:
        self._events = events

    async def __anext__(self) -> AsyncLiveEvent:
        return await self._events.__anext__()

    async def aclose(self) -> None:
        """Close the connection. The run continues on the server."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncRun(AsyncEvents):
    """An iterator over the events of one run, from its `prompt_received` to its terminal event.

    `transcript` is the state of the run, accumulated from the events so far.
    """

    def __init__(self, events: AsyncGenerator[AsyncLiveEvent], transcript: Transcript) -> None:
        super().__init__(events)
        self.transcript = transcript


async def stream_events(
    transport: AsyncTransport, sender: AsyncDecisionSender, query: EventQuery, *, base_run: str | None = None
) -> AsyncGenerator[AsyncLiveEvent]:
    """Yield the events that match the query, each once and in order, reconnecting as often as necessary."""
    stream = ResumableStream(query, transport.config, random, base_run=base_run)
    while True:
        error: CmdcError | None = None
        try:
            async with aclosing(_read_connection(transport, stream)) as events:
                async for event in events:
                    yield to_live_event(event, sender)
        except CmdcError as lost:
            error = lost
        if stream.ended:
            return
        await async_sleep(stream.on_disconnected(error, monotonic()))


async def _read_connection(transport: AsyncTransport, stream: ResumableStream) -> AsyncGenerator[Event]:
    """Yield the events of one connection."""
    async with transport.stream(stream.path, stream.params, stream.headers) as chunks:
        stream.on_connected(monotonic())
        async for chunk in chunks:
            for event in stream.feed(chunk):
                yield event
            if stream.ended:
                return
