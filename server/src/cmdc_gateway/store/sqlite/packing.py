"""Events as the file has them: one in a row of `events`, or many that are packed together."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain

from cmdc_gateway.protocol.frames import LoggedEvent

MAX_EVENTS = 64
MAX_BYTES = 16 * 1024
"""A row has no more than so many events, and no more bytes of data unless it has only one."""

_ROWS_AT_ONCE = 32

_Row = tuple[int, int, str, int, bytes, int]

_HEAD = struct.Struct("<qqqII")  # session, seq, at, bytes of the name, bytes of the data; name and data follow


def pack(pk: int, events: Sequence[LoggedEvent]) -> bytes:
    """Events of a session, in one piece that can be joined with others."""
    parts: list[bytes] = []
    for event in events:
        name = event.name.encode()
        parts += (_HEAD.pack(pk, event.seq, event.at, len(name), len(event.data)), name, event.data)
    return b"".join(parts)


def unpack(epoch: str, data: bytes) -> Iterator[tuple[int, LoggedEvent]]:
    """The events that were packed, each with the `pk` of its session.

    Raises:
        sqlite3.DatabaseError: they are damaged, which is told as SQLite tells of a page that is.
    """
    at = 0
    try:
        while at < len(data):
            pk, seq, happened, name_bytes, data_bytes = _HEAD.unpack_from(data, at)
            begin = at + _HEAD.size + name_bytes
            name = data[at + _HEAD.size : begin].decode()
            at = begin + data_bytes
            if at > len(data):
                raise sqlite3.DatabaseError("the last of some packed events is cut off")
            yield pk, LoggedEvent(epoch, seq, name, happened, data[begin:at])
    except (struct.error, UnicodeDecodeError) as failure:
        raise sqlite3.DatabaseError("packed events are damaged") from failure


def insert_events(connection: sqlite3.Connection, logs: Iterable[tuple[int, Sequence[LoggedEvent]]]) -> None:
    """Put the next events of sessions, each named by its `pk`, into their place.

    With few statements: each gives up Python's lock, and has to win it back from a busy event loop.
    """
    rows = [row for pk, events in logs for row in _rows(pk, events)]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        connection.execute(_insertion(len(some)), tuple(chain.from_iterable(some)))


def _rows(pk: int, events: Sequence[LoggedEvent]) -> Iterator[_Row]:
    some: list[LoggedEvent] = []
    size = 0
    for event in events:
        size += len(event.data)
        if some and (len(some) == MAX_EVENTS or size > MAX_BYTES):
            yield _row(pk, some)
            some, size = [], len(event.data)
        some.append(event)
    if some:
        yield _row(pk, some)


def _row(pk: int, events: Sequence[LoggedEvent]) -> _Row:
    last = events[-1]
    name, data = (last.name, last.data) if len(events) == 1 else ("", pack(pk, events))
    return pk, last.seq, name, last.at, data, len(events)


@cache
def _insertion(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * rows)
    return "INSERT INTO events (session, seq, name, at, data, count) VALUES " + values  # noqa: S608 - only marks
