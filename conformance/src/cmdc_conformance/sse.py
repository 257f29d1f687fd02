"""A strict reader of event streams: it says where a stream differs from what the protocol lets a server send.

Any client has to understand more than this (https://html.spec.whatwg.org/multipage/server-sent-events.html); a server
has to send no more than `id`, `event`, one `data` line and a blank line, and comments between frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it was sent. `id` is None where the frame named none."""

    event: str
    data: str
    id: str | None


@dataclass(frozen=True, slots=True)
class Comment:
    """A heartbeat."""

    text: str


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something no server may send. `kind` tells which rule it breaks."""

    kind: Literal["frame", "heartbeat"]
    message: str


@dataclass(slots=True)
class StrictParser:
    """Takes pieces of a stream, cut anywhere; gives frames, comments and flaws in order."""

    _rest: bytes = b""
    _fields: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    _after_comment: bool = False

    def feed(self, piece: bytes) -> list[Frame | Comment | Flaw]:
        """What this piece completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [found for line in lines for found in self._take(line)]

    def end(self) -> list[Frame | Comment | Flaw]:
        """What is wrong with the place where the stream has ended."""
        if self._rest or self._fields:
            return [Flaw("frame", "the stream ended in the middle of a frame")]
        return []

    def _take(self, line: bytes) -> list[Frame | Comment | Flaw]:
        after_comment, self._after_comment = self._after_comment, False
        if b"\r" in line:
            return [Flaw("frame", "a line holds a carriage return")]
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return [Flaw("frame", f"a line is not UTF-8: {line[:80]!r}")]
        if not text:
            if self._fields:
                return self._frame()
            if after_comment:
                return [Flaw("heartbeat", "a heartbeat ends in a blank line")]
            return [Flaw("frame", "a blank line ends nothing")]
        if text.startswith(":"):
            if self._fields:
                return [Flaw("heartbeat", "a comment stands inside a frame")]
            self._after_comment = True
            return [Comment(text[1:].strip())]
        name, colon, value = text.partition(": ")
        if not colon or name not in ("id", "event", "data"):
            return [Flaw("frame", f"a line is none of id, event and data: {text[:80]!r}")]
        self._fields.append((name, value))
        return []

    def _frame(self) -> list[Frame | Comment | Flaw]:
        fields, self._fields = self._fields, []
        names = [name for name, _ in fields]
        values = dict(fields)
        flaws: list[Frame | Comment | Flaw] = []
        if names not in (["id", "event", "data"], ["event", "data"]):
            flaws.append(Flaw("frame", f"a frame has the lines {', '.join(names)}, in this order"))
        if "event" in values and "data" in values:
            flaws.append(Frame(values["event"], values["data"], values.get("id")))
        return flaws
