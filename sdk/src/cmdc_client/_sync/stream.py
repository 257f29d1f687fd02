# Derived from _async/stream.py by derive_sync.py: change that, and run this again.
"""Iterating over a session's events, and over one run, across connections that are lost."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from random import random
from time import monotonic
from types import TracebackType
from typing import Self

from cmdc_client._sync.live import LiveEvent, live
from cmdc_client._sync.transport import Transport
from cmdc_client.errors import CmdcError
from cmdc_client.events import Event
from cmdc_client.following import Following, Selection
from cmdc_client.platform import sleep
from cmdc_client.policies import Decider
from cmdc_client.transcript import Transcript


class Events(Iterator[LiveEvent]):
    """A session's events, one after the other.

    It is a context manager, at whose end the connection is closed. It is closed as well when the events have ended, and
    after a loop that was left early, as soon as nothing refers to this any more.
    """

    def __init__(self, events: Generator[LiveEvent]) -> None:
        self._events = events

    def __next__(self) -> LiveEvent:
        return self._events.__next__()

    def close(self) -> None:
        """Stop reading. The run goes on: nobody needs to read it."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Run(Events):
    """One prompt's run, from its `prompt_received` to its terminal event.

    `transcript` is what its events have come to so far.
    """

    def __init__(self, events: Generator[LiveEvent], transcript: Transcript) -> None:
        super().__init__(events)
        self.transcript = transcript


def follow(
    transport: Transport, decider: Decider, selection: Selection, *, base_run: str | None = None
) -> Generator[LiveEvent]:
    """The events of this part of the log, each once and in order, however often the connection is lost."""
    following = Following(selection, transport.config, random, base_run=base_run)
    while True:
        failure: CmdcError | None = None
        try:
            with closing(_connection(transport, following)) as events:
                for event in events:
                    yield live(event, decider)
        except CmdcError as lost:
            failure = lost
        if following.ended:
            return
        sleep(following.lost(failure, monotonic()))


def _connection(transport: Transport, following: Following) -> Generator[Event]:
    """The events that one connection brings."""
    with transport.stream(following.path, following.params, following.headers) as pieces:
        following.opened(monotonic())
        for piece in pieces:
            for event in following.feed(piece):
                yield event
            if following.ended:
                return
