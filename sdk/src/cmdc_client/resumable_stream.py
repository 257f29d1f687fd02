"""Reads a session's events over several connections, without a gap and without duplicates.

Theory of operation. A `ResumableStream` is the state of one reader. It does no I/O and reads no clock: the shell
(`_async/stream.py`) opens a connection with `path`, `params` and `headers`, then calls

    on_connected(now)      for every connection, before its first byte
    feed(chunk)            for every chunk; yields the new events
    on_disconnected(...)   when the connection has ended; returns the seconds until the next one, or raises

until `ended` is true. The invariants:

- `_sequence.at` is the cursor of the last event that was accepted. The next connection resumes after it, with
  `Last-Event-ID`, and the event that follows must be the next one, unless events are omitted on request (by type, or
  before the first event of the requested run). Duplicates are dropped; a gap raises ProtocolError.
- Only a terminal event ends a stream. A connection that ends without one was lost, so terminal events are requested
  even if the caller filters them out.
- A connection that delivered an event, or that stayed open for `_STABLE_SECONDS`, resets the backoff and the
  `reconnect_timeout`. Otherwise the delays grow until the timeout is reached, and then the last error is raised.
- A server of the base protocol sends no ids. Its stream cannot be resumed once an event has been delivered, or once the
  request may have been received.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmdc_client.config import Config
from cmdc_client.cursor import Cursor, SequenceCheck
from cmdc_client.errors import CannotResume, CmdcError, ConnectionFailed, ProtocolError
from cmdc_client.events import TERMINAL, Event, is_terminal, read_event
from cmdc_client.operations import events_path
from cmdc_client.responses import parse_object
from cmdc_client.retry import Backoff, is_transient, retry_after
from cmdc_client.sse import Frame, InvalidStream, SseParser

# A run that waits for a person sends no events, and a proxy may still close its connection now and then.
_STABLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class EventQuery:
    """The part of a session's log that is read.

    It begins after `after`, or where the server lets a new reader begin. It ends with the next terminal event, unless
    `follow` is set. `request_id` restricts it to one run. `types` are the names of the events wanted, None for all.
    """

    session_id: str
    after: str | None = None
    follow: bool = False
    request_id: str | None = None
    types: Sequence[str] | None = None


class ResumableStream:
    """One reader of a session's log, over all its connections.

    `base_run` is the request id of the run, if the server speaks the base protocol and so does not send it. `random`
    returns numbers from 0 to 1.
    """

    def __init__(
        self, query: EventQuery, config: Config, random: Callable[[], float], *, base_run: str | None = None
    ) -> None:
        self._query = query
        self._reconnect_timeout = config.reconnect_timeout
        self._base_run = base_run
        self._wanted = frozenset(query.types) if query.types is not None else None
        # The requested run may begin later than the cursor, and events are omitted if types are given.
        self._sequence = SequenceCheck(
            _cursor(query.after), allow_gaps=query.request_id is not None or self._wanted is not None
        )
        self._parser = SseParser()
        self._backoff = Backoff(random)
        self._received_any = False
        self._received_on_connection = False
        self._without_ids = base_run is not None
        self._connected_at: float | None = None
        self._failing_since: float | None = None
        self._truncations = 0
        self.path = events_path(query.session_id)
        self.ended = False

    @property
    def where(self) -> str:
        """The request, for error messages."""
        return f"GET {self.path}"

    @property
    def params(self) -> dict[str, str]:
        """The query parameters of the next connection."""
        query = self._query
        params: dict[str, str | None] = {
            "after": query.after if self._sequence.at is None else None,
            "follow": "true" if query.follow else None,
            "requestId": query.request_id,
            "types": ",".join(sorted({*query.types, *TERMINAL})) if query.types is not None else None,
        }
        return {name: value for name, value in params.items() if value is not None}

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the next connection."""
        cursor = {"Last-Event-ID": str(self._sequence.at)} if self._sequence.at is not None else {}
        return {"Accept": "text/event-stream", "Cache-Control": "no-store", **cursor}

    def on_connected(self, now: float) -> None:
        """Begin a new connection; the next chunk is its first. `now` is in seconds."""
        self._parser = SseParser()
        self._connected_at = now

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the new events in this chunk, up to the terminal event. Raises ProtocolError."""
        try:
            for frame in self._parser.feed(chunk):
                event = self._parse(frame)
                if event is None:
                    continue
                self._received_any = self._received_on_connection = True
                self.ended = is_terminal(event) and not self._query.follow
                if self._wanted is None or event.event in self._wanted:
                    yield event
                if self.ended:
                    return
        except InvalidStream as error:
            raise ProtocolError(self.where, str(error)) from None

    def on_disconnected(self, error: CmdcError | None, now: float) -> float:
        """Return the seconds until the next connection, or raise the error if the stream is not resumed.

        `error` is None if the server closed the connection normally. `now` is in seconds.
        """
        if self._parser.retry is not None:
            self._backoff.set_initial(self._parser.retry / 1000)
        if error is None:
            error = self._premature_end()
        if not is_transient(error):
            raise error
        if self._without_ids and not self._may_start_over(error):
            raise CannotResume(
                f"{self.where}: the stream was lost before the end of its run, and it cannot be resumed because this"
                f" server sends no event ids ({error})"
            ) from error
        if self._made_progress(now) or self._failing_since is None:
            self._failing_since = now
            self._backoff.attempts = 0
        self._received_on_connection, self._connected_at = False, None
        delay = self._backoff.next_delay(retry_after(error))
        if now + delay - self._failing_since > self._reconnect_timeout:
            raise error
        return delay

    def _made_progress(self, now: float) -> bool:
        stable = self._connected_at is not None and now - self._connected_at >= _STABLE_SECONDS
        return self._received_on_connection or stable

    def _may_start_over(self, error: CmdcError) -> bool:
        """Return whether no event can have been missed, because the server never began to send."""
        return not self._received_any and (not error.sent if isinstance(error, ConnectionFailed) else True)

    def _premature_end(self) -> CmdcError:
        """Return the error for a stream that the server ended without a terminal event."""
        if not self._parser.in_frame:
            return ConnectionFailed(f"{self.where}: the stream ended before its run did")
        truncated = ProtocolError(self.where, f"the stream ended within a frame, after event {self._sequence.at}")
        self._truncations = 1 if self._received_on_connection else self._truncations + 1
        # A proxy may truncate a stream once. If it happens twice at the same event, the server is at fault.
        at_fault = self._without_ids or self._truncations > 1
        return truncated if at_fault else ConnectionFailed(str(truncated))

    def _parse(self, frame: Frame) -> Event | None:
        """Return the event of a frame; None for a duplicate. Raises ProtocolError."""
        where = f"event {frame.id or frame.event} of {self.where}"
        data = parse_object(frame.data, where)
        if frame.id is None:
            return self._parse_without_id(frame, data, where)
        try:
            cursor = Cursor.parse(frame.id)
        except ValueError as error:
            raise ProtocolError(where, str(error)) from None
        self._without_ids = False
        if not self._sequence.accept(cursor, where):
            return None
        event = read_event(frame.event, data, frame.id, where)
        if self._query.request_id not in (None, event.request_id):
            raise ProtocolError(where, f"it belongs to the run {event.request_id!r}, not to the requested one")
        self._sequence.allow_gaps = self._wanted is not None
        return event

    def _parse_without_id(self, frame: Frame, data: Mapping[str, Any], where: str) -> Event:
        if self._sequence.at is not None:
            raise ProtocolError(where, f"it has no id, although event {self._sequence.at} had one")
        self._without_ids = True
        return read_event(frame.event, data, None, where, request_id=self._base_run or "")


def _cursor(after: str | None) -> Cursor | None:
    if after is None or after in ("start", "latest"):
        return None
    return Cursor.parse(after)
