"""Where a reader begins: its cursor, checked against the session's log (SSE-6, SSE-7)."""

from __future__ import annotations

from cmdc_gateway.errors import CursorExpired, InvalidCursor
from cmdc_gateway.protocol.frames import Cursor
from cmdc_gateway.sessions.log import EventLog


def position(log: EventLog, text: str) -> int:
    """Return the seq after which to read. `text` is a cursor of this log, `start` or `latest`.

    Raises:
        InvalidCursor: the cursor is malformed or names a future event.
        CursorExpired: the cursor belongs to another log, or events after it have been trimmed.
    """
    if text == "latest":
        return log.last_seq
    cursor = log.earliest if text == "start" else Cursor.parse(text)
    if cursor is None:
        raise InvalidCursor(f"{text[:80]!r} is not a cursor; use one such as {log.end}, or `start` or `latest`")
    if cursor.epoch != log.epoch or cursor.seq < log.earliest.seq:
        raise CursorExpired(text[:80], str(log.earliest), str(log.end))
    if cursor.seq > log.last_seq:
        raise InvalidCursor(f"cursor {text[:80]!r} names a future event; the log ends at {log.end}")
    return cursor.seq


def page_position(log: EventLog, text: str | None) -> int:
    """Return the seq after which a page of events begins; without a cursor, the start of the kept log (SSE-11)."""
    return log.earliest.seq if text is None else position(log, text)
