from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

from ..models.decision_taken_action import (
    DecisionTakenAction,
    check_decision_taken_action,
)

T = TypeVar("T", bound="DecisionTaken")


@_attrs_define
class DecisionTaken:
    """The decision was recorded.

    Attributes:
        ok (bool):
        action (DecisionTakenAction):
        approval_id (str):
    """

    ok: bool
    action: DecisionTakenAction
    approval_id: str

    def to_dict(self) -> dict[str, Any]:
        ok = self.ok

        action: str = self.action

        approval_id = self.approval_id

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "ok": ok,
                "action": action,
                "approvalId": approval_id,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        ok = d.pop("ok")

        action = check_decision_taken_action(d.pop("action"))

        approval_id = d.pop("approvalId")

        decision_taken = cls(
            ok=ok,
            action=action,
            approval_id=approval_id,
        )

        return decision_taken
