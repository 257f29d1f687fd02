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

from ..types import UNSET, Unset

T = TypeVar("T", bound="ToolRegistered")


@_attrs_define
class ToolRegistered:
    """The tool was registered. A generated `secret` is returned only here.

    Attributes:
        name (str):
        status (Literal['registered']):
        secret (str | Unset):
    """

    name: str
    status: Literal["registered"]
    secret: str | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        name = self.name

        status = self.status

        secret = self.secret

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "name": name,
                "status": status,
            }
        )
        if secret is not UNSET:
            field_dict["secret"] = secret

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        name = d.pop("name")

        status = cast(Literal["registered"], d.pop("status"))
        if status != "registered":
            raise ValueError(f"status must match const 'registered', got '{status}'")

        secret = d.pop("secret", UNSET)

        tool_registered = cls(
            name=name,
            status=status,
            secret=secret,
        )

        return tool_registered
