from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.message_entry import MessageEntry


T = TypeVar("T", bound="MessageList")


@_attrs_define
class MessageList:
    """The message history. `nextCursor` is present only in pages; it is null on the last page.

    Attributes:
        session_id (str):
        messages (list[MessageEntry]):
        next_cursor (None | str | Unset):
    """

    session_id: str
    messages: list[MessageEntry]
    next_cursor: None | str | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        session_id = self.session_id

        messages = []
        for messages_item_data in self.messages:
            messages_item = messages_item_data.to_dict()
            messages.append(messages_item)

        next_cursor: None | str | Unset
        if isinstance(self.next_cursor, Unset):
            next_cursor = UNSET
        else:
            next_cursor = self.next_cursor

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "sessionId": session_id,
                "messages": messages,
            }
        )
        if next_cursor is not UNSET:
            field_dict["nextCursor"] = next_cursor

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.message_entry import MessageEntry

        d = dict(src_dict)
        session_id = d.pop("sessionId")

        messages = []
        _messages = d.pop("messages")
        for messages_item_data in _messages:
            messages_item = MessageEntry.from_dict(messages_item_data)

            messages.append(messages_item)

        def _parse_next_cursor(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        next_cursor = _parse_next_cursor(d.pop("nextCursor", UNSET))

        message_list = cls(
            session_id=session_id,
            messages=messages,
            next_cursor=next_cursor,
        )

        return message_list
