"""Reading a session's log over connections that may be lost: what to ask for, what to give on, when to come back.

No clock and no network: `_async/stream.py` has those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmdc_client.answers import parse_object
from cmdc_client.config import Config
from cmdc_client.cursor import Cursor, Order
from cmdc_client.errors import CannotResume, CmdcError, ConnectionFailed, ProtocolError
from cmdc_client.events import TERMINAL, Event, is_terminal, read_event
from cmdc_client.operations import events_path
from cmdc_client.retrying import Backoff, retry_after, transient
from cmdc_client.sse import Frame, NotAStream, SseParser

# A connection that has held this long was no failure, even if it brought no event: a run may wait for a person.
_STEADY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part of a session's log is read.

    It begins after `after`, or where the server lets a new reader begin. It ends with a terminal event, unless it is to
    `follow` on; with `request_id` it is that run alone. `types` are the names of the events wanted, None for all.
    """

    session_id: str
    after: str | None = None
    follow: bool = False
    request_id: str | None = None
    types: Sequence[str] | None = None


class Following:
    """A reader of a session's log, over all its connections.

    `base_run` is the request whose run is read from a server of the base protocol, which gives no ids.
    """

    def __init__(
        self, selection: Selection, config: Config, chance: Callable[[], float], *, base_run: str | None = None
    ) -> None:
        self._selection = selection
        self._patience = config.patience
        self._chance = chance
        self._base_run = base_run
        self._wanted = frozenset(selection.types) if selection.types is not None else None
        # The run asked for may begin later than where reading begins, and types may be left out on purpose.
        self._order = Order(
            _cursor(selection.after), sparse=selection.request_id is not None or self._wanted is not None
        )
        self._parser = SseParser()
        self._backoff = Backoff(chance)
        self._begun = False
        self._moved = False
        self._without_ids = base_run is not None
        self._opened_at: float | None = None
        self._lost_since: float | None = None
        self._cuts = 0
        self.path = events_path(selection.session_id)
        self.ended = False

    @property
    def where(self) -> str:
        return f"GET {self.path}"

    @property
    def params(self) -> dict[str, str]:
        selection = self._selection
        given: dict[str, str | None] = {
            "after": selection.after if self._order.at is None else None,
            "follow": "true" if selection.follow else None,
            "requestId": selection.request_id,
            # The terminal events are always asked for, since by them is known that the stream did not just break off.
            "types": ",".join(sorted({*selection.types, *TERMINAL})) if selection.types is not None else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def headers(self) -> Mapping[str, str]:
        cursor = {"Last-Event-ID": str(self._order.at)} if self._order.at is not None else {}
        return {"Accept": "text/event-stream", "Cache-Control": "no-store", **cursor}

    def opened(self, now: float) -> None:
        """A connection is open; its first byte is the next that is fed."""
        self._parser = SseParser()
        self._opened_at = now

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that this piece brings; none after the last one. Raises ProtocolError."""
        try:
            for frame in self._parser.feed(piece):
                event = self._event(frame)
                if event is None:
                    continue
                self._begun = self._moved = True
                self.ended = is_terminal(event) and not self._selection.follow
                if self._wanted is None or event.event in self._wanted:
                    yield event
                if self.ended:
                    return
        except NotAStream as flaw:
            raise ProtocolError(self.where, str(flaw)) from None

    def lost(self, failure: CmdcError | None, now: float) -> float:
        """The connection is gone, by itself if there is no failure. Seconds until the next try; raises if there is none."""
        if self._parser.retry is not None:
            self._backoff.begin_at(self._parser.retry / 1000)
        if failure is None:
            failure = self._broken_off()
        if not transient(failure):
            raise failure
        if self._without_ids and not self._may_begin_again(failure):
            raise CannotResume(
                f"{self.where}: the stream was lost before its run had ended, and it cannot be taken up again: this"
                f" server gives its events no ids ({failure})"
            ) from failure
        if self._has_got_on(now) or self._lost_since is None:
            self._lost_since = now
            self._backoff.tries = 0
        self._moved, self._opened_at = False, None
        delay = self._backoff.next(retry_after(failure))
        if now + delay - self._lost_since > self._patience:
            raise failure
        return delay

    def _has_got_on(self, now: float) -> bool:
        return self._moved or (self._opened_at is not None and now - self._opened_at >= _STEADY_SECONDS)

    def _may_begin_again(self, failure: CmdcError) -> bool:
        """A stream that was never opened has lost nothing."""
        return not self._begun and (not failure.sent if isinstance(failure, ConnectionFailed) else True)

    def _broken_off(self) -> CmdcError:
        """What a stream's end means that did not come with the terminal event."""
        if not self._parser.in_frame:
            return ConnectionFailed(f"{self.where}: the stream ended before its run did")
        cut = ProtocolError(self.where, f"the stream ended within a frame, after event {self._order.at}")
        self._cuts = 1 if self._moved else self._cuts + 1
        # Something on the way may have ended it without saying so. If it happens again in the same place, it is the server.
        return cut if self._without_ids or self._cuts > 1 else ConnectionFailed(str(cut))

    def _event(self, frame: Frame) -> Event | None:
        where = f"event {frame.id or frame.event} of {self.where}"
        data = parse_object(frame.data, where)
        if frame.id is None:
            return self._event_without_id(frame, data, where)
        try:
            cursor = Cursor.parse(frame.id)
        except ValueError as flaw:
            raise ProtocolError(where, str(flaw)) from None
        self._without_ids = False
        if self._order.judge(cursor, where) == "repeated":
            return None
        event = read_event(frame.event, data, frame.id, where)
        if self._selection.request_id not in (None, event.request_id):
            raise ProtocolError(
                where, f"it is of the run {event.request_id!r}, which is not the one that was asked for"
            )
        self._order.sparse = self._wanted is not None
        return event

    def _event_without_id(self, frame: Frame, data: Mapping[str, Any], where: str) -> Event:
        if self._order.at is not None:
            raise ProtocolError(where, f"it has no id, though {self._order.at} is known")
        self._without_ids = True
        return read_event(frame.event, data, None, where, request_id=self._base_run or "")


def _cursor(after: str | None) -> Cursor | None:
    if after is None or after in ("start", "latest"):
        return None
    return Cursor.parse(after)
