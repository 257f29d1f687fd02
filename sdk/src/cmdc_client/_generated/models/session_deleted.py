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

T = TypeVar("T", bound="SessionDeleted")


@_attrs_define
class SessionDeleted:
    """The session was deleted.

    Attributes:
        session_id (str):
        status (Literal['deleted']):
    """

    session_id: str
    status: Literal["deleted"]

    def to_dict(self) -> dict[str, Any]:
        session_id = self.session_id

        status = self.status

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "sessionId": session_id,
                "status": status,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        session_id = d.pop("sessionId")

        status = cast(Literal["deleted"], d.pop("status"))
        if status != "deleted":
            raise ValueError(f"status must match const 'deleted', got '{status}'")

        session_deleted = cls(
            session_id=session_id,
            status=status,
        )

        return session_deleted
