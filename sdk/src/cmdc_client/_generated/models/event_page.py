from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.event_entry import EventEntry


T = TypeVar("T", bound="EventPage")


@_attrs_define
class EventPage:
    """A page of the event log; `next` is the cursor of the next page.

    Attributes:
        events (list[EventEntry]):
        next_ (str):
        earliest (str):
        latest (str):
    """

    events: list[EventEntry]
    next_: str
    earliest: str
    latest: str

    def to_dict(self) -> dict[str, Any]:
        events = []
        for events_item_data in self.events:
            events_item = events_item_data.to_dict()
            events.append(events_item)

        next_ = self.next_

        earliest = self.earliest

        latest = self.latest

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "events": events,
                "next": next_,
                "earliest": earliest,
                "latest": latest,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.event_entry import EventEntry

        d = dict(src_dict)
        events = []
        _events = d.pop("events")
        for events_item_data in _events:
            events_item = EventEntry.from_dict(events_item_data)

            events.append(events_item)

        next_ = d.pop("next")

        earliest = d.pop("earliest")

        latest = d.pop("latest")

        event_page = cls(
            events=events,
            next_=next_,
            earliest=earliest,
            latest=latest,
        )

        return event_page
