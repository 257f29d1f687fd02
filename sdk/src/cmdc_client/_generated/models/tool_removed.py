from __future__ import annotations

from collections.abc import Mapping
from typing import (
    Any,
    Literal,
    Self,
    TypeVar,
    cast,
)

from attrs import define as _attrs_define

T = TypeVar("T", bound="ToolRemoved")


@_attrs_define
class ToolRemoved:
    """The tool was deleted.

    Attributes:
        name (str):
        status (Literal['removed']):
    """

    name: str
    status: Literal["removed"]

    def to_dict(self) -> dict[str, Any]:
        name = self.name

        status = self.status

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "name": name,
                "status": status,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        name = d.pop("name")

        status = cast(Literal["removed"], d.pop("status"))
        if status != "removed":
            raise ValueError(f"status must match const 'removed', got '{status}'")

        tool_removed = cls(
            name=name,
            status=status,
        )

        return tool_removed
