"""Pages of a session's log, as they are read without a stream."""

from __future__ import annotations

from dataclasses import dataclass

from cmdc_client.events import Event, read_event
from cmdc_client.models import EventPage


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An event, and when it happened, in ms since 1970."""

    at: int
    event: Event


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some entries of the log, in order.

    `next` is the cursor to go on with; `earliest` and `latest` are those of the beginning and the end of what is kept.
    """

    entries: tuple[LogEntry, ...]
    next: str
    earliest: str
    latest: str

    @classmethod
    def of(cls, page: EventPage, where: str) -> LogPage:
        """The page, its events as classes. Raises ProtocolError."""
        entries = tuple(
            LogEntry(entry.at, read_event(entry.event, entry.data.to_dict(), entry.id, f"event {entry.id} of {where}"))
            for entry in page.events
        )
        return cls(entries, page.next_, page.earliest, page.latest)
