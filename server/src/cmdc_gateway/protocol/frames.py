"""The wire forms of a logged event: its SSE frame, its WebSocket message, its entry in a page."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from cmdc_gateway.protocol.events import TERMINAL

# A single newline: after a blank line, httpx-sse 0.4.3 would deliver an empty event (SSE-3).
HEARTBEAT = b": heartbeat\n"

_CURSOR = re.compile(r"([0-9a-z]{1,32})\.(0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(slots=True)
class LoggedEvent:
    """An event in the log: numbered, timestamped and encoded. Treated as immutable.

    `seq` counts all events of the session from 1; `at` is ms since 1970; `data` is one line of JSON. Each wire form is
    built when first needed and shared by all readers.
    """

    epoch: str
    seq: int
    name: str
    at: int
    data: bytes
    _sse: bytes | None = field(default=None, init=False, repr=False, compare=False)
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.epoch, self.seq)

    @property
    def terminal(self) -> bool:
        return self.name in TERMINAL

    @property
    def sse(self) -> bytes:
        """The SSE frame (SSE-2)."""
        if self._sse is None:
            head = f"id: {self.epoch}.{self.seq}\nevent: {self.name}\ndata: ".encode()
            self._sse = b"%b%b\n\n" % (head, self.data)
        return self._sse

    @property
    def text(self) -> str:
        """The WebSocket text message (WS-2)."""
        if self._text is None:
            self._text = f'{{"event":"{self.name}","data":{self.data.decode()},"id":"{self.epoch}.{self.seq}"}}'
        return self._text

    @property
    def entry(self) -> bytes:
        """The JSON object in a page of events (SSE-11)."""
        head = f'{{"id":"{self.epoch}.{self.seq}","event":"{self.name}","data":'.encode()
        return b'%b%b,"at":%d}' % (head, self.data, self.at)


@dataclass(slots=True)
class Page:
    """Consecutive events. Their frames are joined once per transport and shared by all readers of the page."""

    events: Sequence[LoggedEvent]
    _terminal: bool | None = field(default=None, init=False, repr=False, compare=False)
    _chunk: bytes | None = field(default=None, init=False, repr=False, compare=False)
    _messages: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def terminal(self) -> bool:
        """Whether it contains the end of a run."""
        if self._terminal is None:
            self._terminal = not TERMINAL.isdisjoint([event.name for event in self.events])
        return self._terminal

    @property
    def chunk(self) -> bytes:
        """The SSE frames as one chunk of a chunked HTTP/1.1 body."""
        if self._chunk is None:
            frames = b"".join([event.sse for event in self.events])
            self._chunk = b"%x\r\n%b\r\n" % (len(frames), frames)
        return self._chunk

    @property
    def messages(self) -> bytes:
        """The WebSocket messages, each in one unmasked frame (RFC 6455, section 5.2)."""
        if self._messages is None:
            self._messages = b"".join([_text_frame(event.text.encode()) for event in self.events])
        return self._messages


def _text_frame(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a session's log: after event `seq` of this epoch (EVT-7)."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Parse `<epoch>.<seq>`; return None if it is malformed."""
        found = _CURSOR.fullmatch(text)
        return cls(found[1], int(found[2])) if found else None
