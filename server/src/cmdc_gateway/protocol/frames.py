"""The forms an event takes on its way out: a log entry, its SSE frame, its WebSocket text, its entry in a page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cmdc_gateway.protocol.events import TERMINAL

# One newline: a blank line would make httpx-sse 0.4.3 deliver an empty event (SSE-3).
HEARTBEAT = b": heartbeat\n"

_CURSOR = re.compile(r"([0-9a-z]{1,32})\.(0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(slots=True)
class LoggedEvent:
    """An event as the log holds it: numbered, stamped, encoded. Never changed once made.

    `seq` is 1, 2, 3 … over all events of the session; `at` is milliseconds since 1970; `data` is one line of JSON.
    Each frame is made when the first reader wants it, and kept for the others.
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


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a session's log: just after event `seq` of this epoch (EVT-7)."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """The cursor written as `<epoch>.<seq>`, or None if it is malformed."""
        found = _CURSOR.fullmatch(text)
        return cls(found[1], int(found[2])) if found else None
