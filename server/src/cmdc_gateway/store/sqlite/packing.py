"""Events as the file has them: one in a row of `events`, or many that are packed together."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence

from cmdc_gateway.protocol.frames import LoggedEvent

MAX_EVENTS = 64
MAX_BYTES = 16 * 1024
"""A row has no more than so many events, and no more bytes of data unless it has only one."""

_HEAD = struct.Struct("<qqqII")  # session, seq, at, bytes of the name, bytes of the data; name and data follow


def pack(pk: int, events: Sequence[LoggedEvent]) -> bytes:
    """Events of a session, in one piece that can be joined with others."""
    parts: list[bytes] = []
    for event in events:
        name = event.name.encode()
        parts += (_HEAD.pack(pk, event.seq, event.at, len(name), len(event.data)), name, event.data)
    return b"".join(parts)


def unpack(epoch: str, data: bytes) -> Iterator[tuple[int, LoggedEvent]]:
    """The events that were packed, each with the `pk` of its session."""
    at = 0
    while at < len(data):
        pk, seq, happened, name_bytes, data_bytes = _HEAD.unpack_from(data, at)
        begin = at + _HEAD.size + name_bytes
        name = data[at + _HEAD.size : begin].decode()
        at = begin + data_bytes
        yield pk, LoggedEvent(epoch, seq, name, happened, data[begin:at])


def insert_events(connection: sqlite3.Connection, pk: int, events: Sequence[LoggedEvent]) -> None:
    """Put a session's next events into their place."""
    some: list[LoggedEvent] = []
    size = 0
    for event in events:
        size += len(event.data)
        if some and (len(some) == MAX_EVENTS or size > MAX_BYTES):
            _insert_row(connection, pk, some)
            some, size = [], len(event.data)
        some.append(event)
    if some:
        _insert_row(connection, pk, some)


def _insert_row(connection: sqlite3.Connection, pk: int, events: Sequence[LoggedEvent]) -> None:
    last = events[-1]
    name, data = (last.name, last.data) if len(events) == 1 else ("", pack(pk, events))
    connection.execute(
        "INSERT INTO events (session, seq, name, at, data, count) VALUES (?, ?, ?, ?, ?, ?)",
        (pk, last.seq, name, last.at, data, len(events)),
    )
