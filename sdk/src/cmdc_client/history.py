"""Pages of a session's log, which are read without a stream."""

from __future__ import annotations

from dataclasses import dataclass

from cmdc_client.events import Event, read_event
from cmdc_client.models import EventPage


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An event, and the time at which it happened, in ms since 1970."""

    at: int
    event: Event


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some consecutive entries of the log.

    `next` is the cursor with which the next page is requested; `earliest` and `latest` are the cursors of the beginning
    and of the end of the log that the server keeps.
    """

    entries: tuple[LogEntry, ...]
    next: str
    earliest: str
    latest: str

    @classmethod
    def from_model(cls, page: EventPage, where: str) -> LogPage:
        """Convert the generated model, parsing its events. Raises ProtocolError."""
        entries = tuple(
            LogEntry(entry.at, read_event(entry.event, entry.data.to_dict(), entry.id, f"event {entry.id} of {where}"))
            for entry in page.events
        )
        return cls(entries, page.next_, page.earliest, page.latest)
