# Generated from _async/stream.py by derive_sync.py; edit that file instead.
"""Iterators over a session's events and over one run, which survive lost connections."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from random import random
from time import monotonic
from types import TracebackType
from typing import Self

from cmdc_client._sync.live_events import LiveEvent, to_live_event
from cmdc_client._sync.transport import Transport
from cmdc_client.backends import sleep
from cmdc_client.errors import CmdcError
from cmdc_client.events import Event
from cmdc_client.policies import DecisionSender
from cmdc_client.resumable_stream import EventQuery, ResumableStream
from cmdc_client.transcript import Transcript


class Events(Iterator[LiveEvent]):
    """An iterator over a session's events.

    It is a context manager that closes the connection at the end. The connection is also closed when the events have
    ended, and when the iterator is garbage collected after a loop that was left early. Iterating raises ApiError,
    ProtocolError, ConnectionFailed or CannotResume.
    """

    def __init__(self, events: Generator[LiveEvent]) -> None:
        self._events = events

    def __next__(self) -> LiveEvent:
        return self._events.__next__()

    def close(self) -> None:
        """Close the connection. The run continues on the server."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Run(Events):
    """An iterator over the events of one run, from its `prompt_received` to its terminal event.

    `transcript` is the state of the run, accumulated from the events so far.
    """

    def __init__(self, events: Generator[LiveEvent], transcript: Transcript) -> None:
        super().__init__(events)
        self.transcript = transcript


def stream_events(
    transport: Transport, sender: DecisionSender, query: EventQuery, *, base_run: str | None = None
) -> Generator[LiveEvent]:
    """Yield the events that match the query, each once and in order, reconnecting as often as necessary."""
    stream = ResumableStream(query, transport.config, random, base_run=base_run)
    while True:
        error: CmdcError | None = None
        try:
            with closing(_read_connection(transport, stream)) as events:
                for event in events:
                    yield to_live_event(event, sender)
        except CmdcError as lost:
            error = lost
        if stream.ended:
            return
        sleep(stream.on_disconnected(error, monotonic()))


def _read_connection(transport: Transport, stream: ResumableStream) -> Generator[Event]:
    """Yield the events of one connection."""
    with transport.stream(stream.path, stream.params, stream.headers) as chunks:
        stream.on_connected(monotonic())
        for chunk in chunks:
            for event in stream.feed(chunk):
                yield event
            if stream.ended:
                return
