from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.approve_body_args import ApproveBodyArgs


T = TypeVar("T", bound="ApproveBody")


@_attrs_define
class ApproveBody:
    """Approve a tool call, as shown or with edited arguments.

    Attributes:
        approval_id (str):
        args (ApproveBodyArgs | Unset): Edited arguments, which run instead of those shown.
        digest (str | Unset): Digest of the call shown; a mismatch decides nothing.
    """

    approval_id: str
    args: ApproveBodyArgs | Unset = UNSET
    digest: str | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        approval_id = self.approval_id

        args: dict[str, Any] | Unset = UNSET
        if not isinstance(self.args, Unset):
            args = self.args.to_dict()

        digest = self.digest

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "approvalId": approval_id,
            }
        )
        if args is not UNSET:
            field_dict["args"] = args
        if digest is not UNSET:
            field_dict["digest"] = digest

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.approve_body_args import ApproveBodyArgs

        d = dict(src_dict)
        approval_id = d.pop("approvalId")

        _args = d.pop("args", UNSET)
        args: ApproveBodyArgs | Unset
        if isinstance(_args, Unset):
            args = UNSET
        else:
            args = ApproveBodyArgs.from_dict(_args)

        digest = d.pop("digest", UNSET)

        approve_body = cls(
            approval_id=approval_id,
            args=args,
            digest=digest,
        )

        return approve_body
