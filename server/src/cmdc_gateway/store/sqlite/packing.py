"""The binary format of events in the file.

A packed event is a header (the `pk` of its session, seq, time in ms, lengths of name and data), its name and its data.
Packed events are concatenated: a row of `journal` holds events of many sessions, a row of `events` consecutive events of
one session.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence

from cmdc_gateway.protocol.frames import LoggedEvent

MAX_EVENTS = 64
MAX_BYTES = 16 * 1024
"""A row of `events` holds at most this many events, and at most this much data unless it holds a single event."""

_HEADER = struct.Struct("<qqqII")


def pack(pk: int, events: Iterable[LoggedEvent]) -> bytes:
    """Pack events of the session with this `pk`."""
    parts: list[bytes] = []
    for event in events:
        name = event.name.encode()
        parts += (_HEADER.pack(pk, event.seq, event.at, len(name), len(event.data)), name, event.data)
    return b"".join(parts)


def unpack(epoch: str, packed: bytes) -> Iterator[tuple[int, LoggedEvent]]:
    """Unpack events, each with the `pk` of its session. The epoch is not part of the format.

    Raises:
        sqlite3.DatabaseError: the bytes are damaged; SQLite raises the same for a damaged page.
    """
    position = 0
    try:
        while position < len(packed):
            pk, seq, at, name_size, data_size = _HEADER.unpack_from(packed, position)
            data_start = position + _HEADER.size + name_size
            name = packed[position + _HEADER.size : data_start].decode()
            position = data_start + data_size
            if position > len(packed):
                raise sqlite3.DatabaseError("packed events are truncated")
            yield pk, LoggedEvent(epoch, seq, name, at, packed[data_start:position])
    except (struct.error, UnicodeDecodeError) as failure:
        raise sqlite3.DatabaseError("packed events are damaged") from failure


def split(events: Iterable[LoggedEvent]) -> Iterator[Sequence[LoggedEvent]]:
    """Divide consecutive events among rows of `events`, within the limits above."""
    row: list[LoggedEvent] = []
    size = 0
    for event in events:
        size += len(event.data)
        if row and (len(row) == MAX_EVENTS or size > MAX_BYTES):
            yield row
            row, size = [], len(event.data)
        row.append(event)
    if row:
        yield row
