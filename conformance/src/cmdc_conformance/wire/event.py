"""One event of a session, as a transport delivered it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from cmdc_conformance import schemas

Transport = Literal["sse", "ws", "page"]

CURSOR: Final = re.compile(r"([0-9a-z]{1,32})\.(0|[1-9][0-9]*)")
"""The id of an event: epoch and sequence number."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `raw` is its data byte for byte, if the transport shows it."""

    name: str
    data: Mapping[str, Any]
    id: str | None = None
    raw: str | None = None

    @property
    def seq(self) -> int:
        """The sequence number in the id; 0 without a valid id."""
        found = CURSOR.fullmatch(self.id or "")
        return int(found[2]) if found else 0

    @property
    def is_terminal(self) -> bool:
        return self.name in schemas.TERMINAL

    def __str__(self) -> str:
        return f"{self.id or '-'} {self.name} {json.dumps(self.data, ensure_ascii=False)}"


def names(events: Sequence[Event]) -> list[str]:
    """The names of events, in order."""
    return [event.name for event in events]


def text_of_last_step(events: Sequence[Event]) -> str:
    """The text of the last step of a run."""
    last = max((index for index, event in enumerate(events) if event.name == "tool_calls"), default=-1)
    return "".join(event.data["delta"] for event in events[last + 1 :] if event.name == "message_delta")
