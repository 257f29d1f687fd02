"""Where a reader begins: the cursor it sent, judged against the log there is (SSE-6, SSE-7)."""

from __future__ import annotations

from cmdc_gateway.errors import CursorExpired, InvalidCursor
from cmdc_gateway.protocol.frames import Cursor
from cmdc_gateway.sessions.log import EventLog


def position(log: EventLog, text: str) -> int:
    """The seq after which to read: `start`, `latest`, or a cursor of this log.

    Raises:
        InvalidCursor: it is malformed, or names an event that has not happened yet.
        CursorExpired: it is of another log, or what follows it has been trimmed.
    """
    if text == "latest":
        return log.last_seq
    cursor = log.earliest if text == "start" else Cursor.parse(text)
    if cursor is None:
        raise InvalidCursor(f"{text[:80]!r} is no cursor; one looks like {log.end}, or is `start` or `latest`")
    if cursor.epoch != log.epoch or cursor.seq < log.earliest.seq:
        raise CursorExpired(text[:80], str(log.earliest), str(log.end))
    if cursor.seq > log.last_seq:
        raise InvalidCursor(f"cursor {text[:80]!r} names an event that has not happened yet; the log ends at {log.end}")
    return cursor.seq


def page_position(log: EventLog, text: str | None) -> int:
    """As `position`, for a page of events: the beginning of what is kept, where no cursor is given (SSE-11)."""
    return log.earliest.seq if text is None else position(log, text)
