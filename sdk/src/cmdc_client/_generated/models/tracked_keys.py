from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="TrackedKeys")


@_attrs_define
class TrackedKeys:
    """Number of API keys with recorded usage.

    Attributes:
        tracked_keys (int):
    """

    tracked_keys: int

    def to_dict(self) -> dict[str, Any]:
        tracked_keys = self.tracked_keys

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "tracked_keys": tracked_keys,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        tracked_keys = d.pop("tracked_keys")

        tracked_keys = cls(
            tracked_keys=tracked_keys,
        )

        return tracked_keys
