"""Places in a session's log, and the check that nothing between two of them is missing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cmdc_client.errors import ProtocolError

_CURSOR = re.compile(r"([0-9a-z]{1,32})\.(0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a session's log: just after event `seq` of this epoch. `str()` gives it as it is sent."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor written as `<epoch>.<seq>`. Raises ValueError."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:80]!r} is no cursor: one looks like '3f2a.17'")
        return cls(found[1], int(found[2]))


Place = Cursor | str
"""Where reading begins: a cursor, as such or as text, or `start` or `latest`."""

Standing = Literal["new", "repeated"]


class Order:
    """Where a reader of the log stands, and whether the next event is the one that comes there.

    While `sparse` is set, events may have been left out on purpose, and only their order is looked at.
    """

    def __init__(self, at: Cursor | None, *, sparse: bool = False) -> None:
        self.at = at
        self.sparse = sparse

    def judge(self, cursor: Cursor, where: str) -> Standing:
        """Move to this event, unless it has been here before. Raises ProtocolError where one is missing."""
        at = self.at
        if at is not None:
            if cursor.epoch != at.epoch:
                raise ProtocolError(where, f"event {cursor} is of another log than {at}, the event before it")
            if cursor.seq <= at.seq:
                return "repeated"
            if cursor.seq > at.seq + 1 and not self.sparse:
                raise ProtocolError(where, f"event {cursor} came after {at}: what is between them is missing")
        self.at = cursor
        return "new"
