from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.event_entry_data import EventEntryData


T = TypeVar("T", bound="EventEntry")


@_attrs_define
class EventEntry:
    """An event in a page of the log.

    Attributes:
        id (str):
        event (str):
        data (EventEntryData):
        at (int):
    """

    id: str
    event: str
    data: EventEntryData
    at: int

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        event = self.event

        data = self.data.to_dict()

        at = self.at

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "event": event,
                "data": data,
                "at": at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.event_entry_data import EventEntryData

        d = dict(src_dict)
        id = d.pop("id")

        event = d.pop("event")

        data = EventEntryData.from_dict(d.pop("data"))

        at = d.pop("at")

        event_entry = cls(
            id=id,
            event=event,
            data=data,
            at=at,
        )

        return event_entry
