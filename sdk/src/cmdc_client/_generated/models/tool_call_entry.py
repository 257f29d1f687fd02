from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.tool_call_entry_arguments import ToolCallEntryArguments


T = TypeVar("T", bound="ToolCallEntry")


@_attrs_define
class ToolCallEntry:
    """A tool call in an assistant message.

    Attributes:
        call_id (str):
        name (str):
        arguments (ToolCallEntryArguments):
    """

    call_id: str
    name: str
    arguments: ToolCallEntryArguments

    def to_dict(self) -> dict[str, Any]:
        call_id = self.call_id

        name = self.name

        arguments = self.arguments.to_dict()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "callId": call_id,
                "name": name,
                "arguments": arguments,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.tool_call_entry_arguments import ToolCallEntryArguments

        d = dict(src_dict)
        call_id = d.pop("callId")

        name = d.pop("name")

        arguments = ToolCallEntryArguments.from_dict(d.pop("arguments"))

        tool_call_entry = cls(
            call_id=call_id,
            name=name,
            arguments=arguments,
        )

        return tool_call_entry
