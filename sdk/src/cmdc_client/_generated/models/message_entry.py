from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

from ..models.message_entry_role import MessageEntryRole, check_message_entry_role
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.tool_call_entry import ToolCallEntry


T = TypeVar("T", bound="MessageEntry")


@_attrs_define
class MessageEntry:
    """A message. A `tool_result` also has `callId`, `name`, and `isError`.

    Attributes:
        role (MessageEntryRole):
        content (str):
        tool_calls (list[ToolCallEntry] | Unset):
        call_id (str | Unset):
        name (str | Unset):
        is_error (bool | Unset):
    """

    role: MessageEntryRole
    content: str
    tool_calls: list[ToolCallEntry] | Unset = UNSET
    call_id: str | Unset = UNSET
    name: str | Unset = UNSET
    is_error: bool | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        role: str = self.role

        content = self.content

        tool_calls: list[dict[str, Any]] | Unset = UNSET
        if not isinstance(self.tool_calls, Unset):
            tool_calls = []
            for tool_calls_item_data in self.tool_calls:
                tool_calls_item = tool_calls_item_data.to_dict()
                tool_calls.append(tool_calls_item)

        call_id = self.call_id

        name = self.name

        is_error = self.is_error

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "role": role,
                "content": content,
            }
        )
        if tool_calls is not UNSET:
            field_dict["toolCalls"] = tool_calls
        if call_id is not UNSET:
            field_dict["callId"] = call_id
        if name is not UNSET:
            field_dict["name"] = name
        if is_error is not UNSET:
            field_dict["isError"] = is_error

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.tool_call_entry import ToolCallEntry

        d = dict(src_dict)
        role = check_message_entry_role(d.pop("role"))

        content = d.pop("content")

        _tool_calls = d.pop("toolCalls", UNSET)
        tool_calls: list[ToolCallEntry] | Unset = UNSET
        if _tool_calls is not UNSET:
            tool_calls = []
            for tool_calls_item_data in _tool_calls:
                tool_calls_item = ToolCallEntry.from_dict(tool_calls_item_data)

                tool_calls.append(tool_calls_item)

        call_id = d.pop("callId", UNSET)

        name = d.pop("name", UNSET)

        is_error = d.pop("isError", UNSET)

        message_entry = cls(
            role=role,
            content=content,
            tool_calls=tool_calls,
            call_id=call_id,
            name=name,
            is_error=is_error,
        )

        return message_entry
