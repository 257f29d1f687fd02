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

T = TypeVar("T", bound="ResponseTaken")


@_attrs_define
class ResponseTaken:
    """The answer was recorded.

    Attributes:
        ok (bool):
        action (Literal['respond']):
        ref (str):
    """

    ok: bool
    action: Literal["respond"]
    ref: str

    def to_dict(self) -> dict[str, Any]:
        ok = self.ok

        action = self.action

        ref = self.ref

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "ok": ok,
                "action": action,
                "ref": ref,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        ok = d.pop("ok")

        action = cast(Literal["respond"], d.pop("action"))
        if action != "respond":
            raise ValueError(f"action must match const 'respond', got '{action}'")

        ref = d.pop("ref")

        response_taken = cls(
            ok=ok,
            action=action,
            ref=ref,
        )

        return response_taken
