"""The bytes of an event stream, in pieces of any size, made into frames.

The grammar is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. Only CR, LF and CRLF end a line:
U+2028 and its like are text, which libraries that split by `str.splitlines` forget.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")
_MOST = 64 * 1024 * 1024


class NotAStream(ValueError):
    """The bytes are no event stream."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it was sent. `id` is None where the frame named none."""

    event: str
    data: str
    id: str | None


class SseParser:
    """Takes pieces, gives frames. `retry` is the last reconnection time the server asked for, in ms."""

    def __init__(self, most: int = _MOST) -> None:
        self.retry: int | None = None
        self._most = most
        self._rest = b""
        self._size = 0
        self._begun = False
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    @property
    def in_frame(self) -> bool:
        """Something of a frame has come, but not its end."""
        return bool(
            self._data or self._event or self._id is not None or (self._rest and not self._rest.startswith(b":"))
        )

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that this piece completes. Raises NotAStream."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")  # the other half of a CRLF that was cut in two
        if not self._begun:
            piece = self._without_mark(piece)
        elif self._rest and b"\n" not in piece and b"\r" not in piece:
            self._keep(self._rest + piece)
            return
        lines = _LINE_END.split(self._rest + piece)
        self._after_cr = piece.endswith(b"\r")
        self._keep(lines.pop())
        for line in lines:
            frame = self._take(line)
            if frame is not None:
                yield frame

    def _without_mark(self, piece: bytes) -> bytes:
        """One byte order mark may stand at the very beginning."""
        start = self._rest + piece
        self._rest = b""
        if start == codecs.BOM_UTF8[: len(start)] and len(start) < 3:
            self._rest = start
            return b""
        self._begun = True
        return start.removeprefix(codecs.BOM_UTF8)

    def _keep(self, rest: bytes) -> None:
        self._rest = rest
        if self._size + len(rest) > self._most:
            raise NotAStream(f"a frame is longer than {self._most} bytes")

    def _take(self, line: bytes) -> Frame | None:
        if not line:
            return self._frame()
        if line.startswith(b":"):
            return None
        self._size += len(line)
        if self._size > self._most:
            raise NotAStream(f"a frame is longer than {self._most} bytes")
        try:
            name, _, value = line.decode().partition(":")
        except UnicodeDecodeError as flaw:
            raise NotAStream(f"a line is not UTF-8: {line[:80]!r}") from flaw
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id":
                if "\0" not in value:
                    self._id = value
            case "retry":
                if value.isascii() and value.isdigit() and len(value) < 10:
                    self.retry = int(value)
            case _:
                pass
        return None

    def _frame(self) -> Frame | None:
        """What has been gathered; a frame without data is none."""
        data, event, cursor = self._data, self._event, self._id
        self._size, self._event, self._id = 0, "", None
        if not data:
            return None
        self._data = []
        return Frame(event or "message", data[0] if len(data) == 1 else "\n".join(data), cursor)
