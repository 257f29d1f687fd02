"""A strict parser of event streams, which reports every deviation from the frames that the protocol allows.

A client has to accept everything that https://html.spec.whatwg.org/multipage/server-sent-events.html defines. A server
sends only a subset: `id`, `event`, one `data` line and a blank line, with comments between frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it was sent. `id` is None if the frame has no id line."""

    event: str
    data: str
    id: str | None


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment line, which serves as a heartbeat."""

    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """Something that a server must not send. `kind` is the rule it violates: that of frames or that of heartbeats."""

    kind: Literal["frame", "heartbeat"]
    message: str


Item = Frame | Comment | Malformed


@dataclass(slots=True)
class StrictParser:
    """Parses a stream that is fed in chunks, split anywhere."""

    _rest: bytes = b""
    _fields: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    _after_comment: bool = False

    def feed(self, chunk: bytes) -> list[Item]:
        """Return the items that this chunk completes, in order."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [item for line in lines for item in self._line(line)]

    def end(self) -> list[Item]:
        """Return what is malformed about the point at which the stream ended."""
        if self._rest or self._fields:
            return [Malformed("frame", "the stream ended in the middle of a frame")]
        return []

    def _line(self, line: bytes) -> list[Item]:
        after_comment, self._after_comment = self._after_comment, False
        if b"\r" in line:
            return [Malformed("frame", "a line contains a carriage return")]
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return [Malformed("frame", f"a line is not UTF-8: {line[:80]!r}")]
        if not text:
            if self._fields:
                return self._frame()
            if after_comment:
                return [Malformed("heartbeat", "a heartbeat is followed by a blank line")]
            return [Malformed("frame", "a blank line does not end a frame")]
        if text.startswith(":"):
            if self._fields:
                return [Malformed("heartbeat", "a comment is inside a frame")]
            self._after_comment = True
            return [Comment(text[1:].strip())]
        name, colon, value = text.partition(": ")
        if not colon or name not in ("id", "event", "data"):
            return [Malformed("frame", f"a line is not an id, event or data line: {text[:80]!r}")]
        self._fields.append((name, value))
        return []

    def _frame(self) -> list[Item]:
        fields, self._fields = self._fields, []
        names = [name for name, _ in fields]
        values = dict(fields)
        items: list[Item] = []
        if names not in (["id", "event", "data"], ["event", "data"]):
            items.append(Malformed("frame", f"a frame has the lines {', '.join(names)}, in this order"))
        if "event" in values and "data" in values:
            items.append(Frame(values["event"], values["data"], values.get("id")))
        return items
