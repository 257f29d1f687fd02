"""A second reading of every event stream, with `httpx_sse` as a stock parser.

A stream may consist of frames that our strict parser accepts and still mean something else to the parsers that clients
use: a blank line after a heartbeat becomes an empty event, and a frame without an id repeats the previous one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import httpx
from httpx_sse import EventSource, ServerSentEvent

from cmdc_conformance.wire.sse import Frame

_END_OF_FRAME = b"\n\n"
_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8"}


def stock_difference(stream: bytes, frames: Sequence[Frame]) -> str | None:
    """Describe the first event that a stock parser reads differently from `frames`; None if it reads the same.

    `stream` holds the bytes received so far. An incomplete frame at its end is ignored.
    """
    complete = stream[: stream.rfind(_END_OF_FRAME) + len(_END_OF_FRAME)] if _END_OF_FRAME in stream else b""
    response = httpx.Response(200, headers=_HEADERS, content=complete)
    for frame, event in zip_longest(frames, EventSource(response).iter_sse()):
        if event is None:
            return f"{_of_frame(frame)} is not an event for a stock parser"
        if frame is None:
            return f"a stock parser reads an additional event: {_of_event(event)}"
        if (frame.id or "", frame.event, frame.data) != (event.id, event.event, event.data):
            return f"the frame has {_of_frame(frame)}, and a stock parser reads {_of_event(event)}"
    return None


def _of_frame(frame: Frame) -> str:
    return f"id {frame.id or ''!r}, event {frame.event!r}, data {frame.data[:200]!r}"


def _of_event(event: ServerSentEvent) -> str:
    return f"id {event.id!r}, event {event.event!r}, data {event.data[:200]!r}"
