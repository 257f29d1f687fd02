"""Events as clients receive them, checked with the strict parser and the schemas of the conformance suite."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from cmdc_conformance import schemas
from cmdc_conformance.wire.event import Event
from cmdc_conformance.wire.sse import Comment, Frame, Malformed, StrictParser

HEARTBEAT = ": heartbeat"


class ProtocolViolation(Exception):
    """The server sent something that the protocol does not allow."""


@dataclass(frozen=True, slots=True)
class ReceivedEvent(Event):
    """An event of a gateway that implements the extended layer: it has an id and a `requestId`.

    `raw` is not compared: only event streams show an event's data byte for byte.
    """

    id: str = ""
    raw: str | None = field(default=None, compare=False)

    @property
    def epoch(self) -> str:
        return self.id.rpartition(".")[0]

    @property
    def request_id(self) -> str:
        return self.data["requestId"]


def received_event(event_id: Any, name: Any, data: Any, raw: str | None = None) -> ReceivedEvent:
    """Validate an event against the published schema (EVT-5). Raises ProtocolViolation."""
    errors = list(schemas.event_errors(extended=True)({"id": event_id, "event": name, "data": data}))
    if errors:
        raise ProtocolViolation(f"{name} {event_id}: {'; '.join(errors)}")
    return ReceivedEvent(name, data, event_id, raw)


def websocket_event(message: Mapping[str, Any]) -> ReceivedEvent:
    """Validate a WebSocket message that is an event (WS-2). Raises ProtocolViolation."""
    if set(message) != {"event", "data", "id"}:
        raise ProtocolViolation(f"a message with the members {sorted(message)}")
    return received_event(message["id"], message["event"], message["data"])


def json_object(text: str | bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON object. Raises ProtocolViolation."""
    value: object = json.loads(text)
    if not isinstance(value, dict):
        raise ProtocolViolation(f"{text[:80]!r} is not a JSON object")
    return cast("dict[str, Any]", value)


@dataclass(slots=True)
class EventParser:
    """Parses the bytes of an event stream, fed in chunks that may be split anywhere (SSE-2, SSE-3)."""

    heartbeats: int = 0
    _parser: StrictParser = field(default_factory=StrictParser)

    @property
    def between_frames(self) -> bool:
        """Whether the stream may end here."""
        return not self._parser.end()

    def feed(self, chunk: bytes) -> list[ReceivedEvent]:
        """Return the events that this chunk completes. Raises ProtocolViolation."""
        events: list[ReceivedEvent] = []
        for item in self._parser.feed(chunk):
            match item:
                case Malformed(message=message):
                    raise ProtocolViolation(message)
                case Comment(text):
                    if f": {text}" != HEARTBEAT:
                        raise ProtocolViolation(f"the comment {text!r}")
                    self.heartbeats += 1
                case Frame(name, data, event_id):
                    events.append(received_event(event_id, name, json_object(data), data))
        return events


async def parse_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[ReceivedEvent]:
    """Parse a stream to its end. Raises ProtocolViolation, also if it ends within a frame."""
    parser = EventParser()
    async for chunk in chunks:
        for event in parser.feed(chunk):
            yield event
    if not parser.between_frames:
        raise ProtocolViolation("the stream ended within a frame")


def without_ids(events: Iterable[ReceivedEvent]) -> list[tuple[str, dict[str, Any]]]:
    """The names and the data of events, without what differs between runs: the ids and the `requestId`."""
    return [
        (event.name, {name: value for name, value in event.data.items() if name != "requestId"}) for event in events
    ]


def text_of(events: Iterable[ReceivedEvent]) -> str:
    """The answer text in these events."""
    return "".join(event.data["delta"] for event in events if event.name == "message_delta")
