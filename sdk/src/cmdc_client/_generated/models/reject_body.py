from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="RejectBody")


@_attrs_define
class RejectBody:
    """Reject a tool call.

    Attributes:
        approval_id (str):
        reason (str | Unset): Passed to the model.
    """

    approval_id: str
    reason: str | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        approval_id = self.approval_id

        reason = self.reason

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "approvalId": approval_id,
            }
        )
        if reason is not UNSET:
            field_dict["reason"] = reason

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        approval_id = d.pop("approvalId")

        reason = d.pop("reason", UNSET)

        reject_body = cls(
            approval_id=approval_id,
            reason=reason,
        )

        return reject_body
