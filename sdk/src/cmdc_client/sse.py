"""An incremental parser for event streams (SSE).

The grammar is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. Only CR, LF and CRLF end a line.
U+2028 and similar characters are text, so `str.splitlines` must not be used here.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")
_MAX_FRAME_BYTES = 64 * 1024 * 1024


class InvalidStream(ValueError):
    """The bytes are not a valid event stream."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of the stream. `id` is None if the frame has no `id` field."""

    event: str
    data: str
    id: str | None


class SseParser:
    """Turns chunks of bytes into frames. `retry` is the last reconnection time that the server sent, in ms."""

    def __init__(self, max_frame_bytes: int = _MAX_FRAME_BYTES) -> None:
        self.retry: int | None = None
        self._max_frame_bytes = max_frame_bytes
        self._buffer = b""  # the beginning of a line
        self._frame_bytes = 0
        self._started = False
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    @property
    def in_frame(self) -> bool:
        """Whether the bytes so far end inside a frame."""
        partial_line = self._buffer and not self._buffer.startswith(b":")
        return bool(self._data or self._event or self._id is not None or partial_line)

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the frames that this chunk completes. Raises InvalidStream."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF that two chunks share
        if not self._started:
            chunk = self._without_byte_order_mark(chunk)
        elif self._buffer and b"\n" not in chunk and b"\r" not in chunk:
            self._keep(self._buffer + chunk)
            return
        lines = _LINE_END.split(self._buffer + chunk)
        self._after_cr = chunk.endswith(b"\r")
        self._keep(lines.pop())
        for line in lines:
            frame = self._parse_line(line)
            if frame is not None:
                yield frame

    def _without_byte_order_mark(self, chunk: bytes) -> bytes:
        """Remove the byte order mark that the stream may begin with, also if it comes in several chunks."""
        start = self._buffer + chunk
        self._buffer = b""
        if start == codecs.BOM_UTF8[: len(start)] and len(start) < 3:
            self._buffer = start
            return b""
        self._started = True
        return start.removeprefix(codecs.BOM_UTF8)

    def _keep(self, partial_line: bytes) -> None:
        self._buffer = partial_line
        self._check_size(len(partial_line))

    def _check_size(self, more: int) -> None:
        if self._frame_bytes + more > self._max_frame_bytes:
            raise InvalidStream(f"a frame is longer than {self._max_frame_bytes} bytes")

    def _parse_line(self, line: bytes) -> Frame | None:
        if not line:
            return self._end_frame()
        if line.startswith(b":"):
            return None
        self._check_size(len(line))
        self._frame_bytes += len(line)
        try:
            name, _, value = line.decode().partition(":")
        except UnicodeDecodeError as error:
            raise InvalidStream(f"a line is not UTF-8: {line[:80]!r}") from error
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

    def _end_frame(self) -> Frame | None:
        """Return the frame that an empty line ends; None if it has no data."""
        data, event, cursor = self._data, self._event, self._id
        self._frame_bytes, self._event, self._id = 0, "", None
        if not data:
            return None
        self._data = []
        return Frame(event or "message", data[0] if len(data) == 1 else "\n".join(data), cursor)
