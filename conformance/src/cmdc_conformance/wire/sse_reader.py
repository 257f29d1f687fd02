"""The reader of a session's event stream."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any, cast

import httpx

from cmdc_conformance.wire.event import Event
from cmdc_conformance.wire.reader import Observer, Reader
from cmdc_conformance.wire.sse import Comment, Frame, Item, Malformed, StrictParser
from cmdc_conformance.wire.stock_sse import stock_difference


class SseReader(Reader):
    """Reads a stream with the strict parser and, once it ends, again with a stock parser.

    `comments` holds the time at which each comment line arrived, `first_item` the kind of the first thing received.
    """

    transport = "sse"

    def __init__(
        self, response: httpx.Response, observer: Observer, key: str, *, deadline: float, filtered: bool, whole: bool
    ) -> None:
        super().__init__(observer, key, deadline=deadline, filtered=filtered, whole=whole)
        self.comments: list[float] = []
        self.first_item = "nothing"
        self._response = response
        self._received = bytearray()
        self._frames: list[Frame] = []

    async def _read(self) -> None:
        parser = StrictParser()
        try:
            async for chunk in self._response.aiter_raw():
                items = parser.feed(chunk)
                # Before the first await, so that a cancellation cannot separate the bytes from their frames.
                self._received += chunk
                self._frames += [item for item in items if isinstance(item, Frame)]
                for item in items:
                    await self._item(item)
            for item in parser.end():
                await self._item(item)
        finally:
            self._read_again()

    async def _item(self, item: Item) -> None:
        monitors, report = self._observer.monitors, self._observer.report
        if self.first_item == "nothing":
            self.first_item = type(item).__name__.lower()
        match item:
            case Comment():
                self.comments.append(monotonic())
                monitors.observed["SSE-3.harmless"] += 1
                await self._notify()
            case Malformed(kind="heartbeat", message=message):
                report("SSE-3.harmless", message)
            case Malformed(message=message):
                report("SSE-2", message)
            case Frame(event=name, data=data, id=cursor):
                monitors.observed["SSE-2"] += 1
                if monitors.extended and cursor is None:
                    report("SSE-2", f"the {name} frame has no id")
                try:
                    fields: Any = json.loads(data)
                except ValueError:
                    fields = None
                if not isinstance(fields, dict):
                    report("SSE-2", f"the data of {name} is not a JSON object: {data[:200]!r}")
                    return
                await self.receive(Event(name, cast("dict[str, Any]", fields), cursor, data))

    def _read_again(self) -> None:
        """Report an event that a stock parser reads differently."""
        self._observer.monitors.observed["SSE-2.stock"] += bool(self._frames)
        difference = stock_difference(bytes(self._received), self._frames)
        if difference is not None:
            self._observer.report("SSE-2.stock", difference)
