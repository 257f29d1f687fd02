"""Positions in a session's log, and the check that no event between two of them is missing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cmdc_client.base_errors import ProtocolError

_CURSOR = re.compile(r"([0-9a-z]{1,32})\.(0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a session's log: directly after event `seq` of the log `epoch`.

    `str(cursor)` is its form on the wire.
    """

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Parse a cursor of the form `<epoch>.<seq>`. Raises ValueError."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:80]!r} is not a cursor; an example of one is '3f2a.17'")
        return cls(found[1], int(found[2]))


Position = Cursor | str
"""Where reading begins: a cursor, as an object or as text, or `start` or `latest`."""


class SequenceCheck:
    """Checks that the events of a log arrive in order, without a gap.

    `at` is the cursor of the last event. While `allow_gaps` is set, only the order is checked, because the server omits
    events on request.
    """

    def __init__(self, at: Cursor | None, *, allow_gaps: bool = False) -> None:
        self.at = at
        self.allow_gaps = allow_gaps

    def accept(self, cursor: Cursor, where: str) -> bool:
        """Advance to this event. Return False if it is a duplicate; raise ProtocolError if an event is missing."""
        at = self.at
        if at is not None:
            if cursor.epoch != at.epoch:
                raise ProtocolError(where, f"event {cursor} belongs to another log than {at}, the previous event")
            if cursor.seq <= at.seq:
                return False
            if cursor.seq > at.seq + 1 and not self.allow_gaps:
                raise ProtocolError(where, f"event {cursor} follows {at}; the events between them are missing")
        self.at = cursor
        return True
