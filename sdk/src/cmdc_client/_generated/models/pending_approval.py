from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.pending_approval_args import PendingApprovalArgs


T = TypeVar("T", bound="PendingApproval")


@_attrs_define
class PendingApproval:
    """A pending approval: the `data` of its `approval_required` event.

    Attributes:
        approval_id (str):
        tool_name (str):
        args (PendingApprovalArgs):
        hint (str):
        requested_at (int):
        call_id (str):
        digest (str):
        expires_at (int | None):
        request_id (str):
    """

    approval_id: str
    tool_name: str
    args: PendingApprovalArgs
    hint: str
    requested_at: int
    call_id: str
    digest: str
    expires_at: int | None
    request_id: str

    def to_dict(self) -> dict[str, Any]:
        approval_id = self.approval_id

        tool_name = self.tool_name

        args = self.args.to_dict()

        hint = self.hint

        requested_at = self.requested_at

        call_id = self.call_id

        digest = self.digest

        expires_at: int | None
        expires_at = self.expires_at

        request_id = self.request_id

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "approvalId": approval_id,
                "toolName": tool_name,
                "args": args,
                "hint": hint,
                "requestedAt": requested_at,
                "callId": call_id,
                "digest": digest,
                "expiresAt": expires_at,
                "requestId": request_id,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.pending_approval_args import PendingApprovalArgs

        d = dict(src_dict)
        approval_id = d.pop("approvalId")

        tool_name = d.pop("toolName")

        args = PendingApprovalArgs.from_dict(d.pop("args"))

        hint = d.pop("hint")

        requested_at = d.pop("requestedAt")

        call_id = d.pop("callId")

        digest = d.pop("digest")

        def _parse_expires_at(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        expires_at = _parse_expires_at(d.pop("expiresAt"))

        request_id = d.pop("requestId")

        pending_approval = cls(
            approval_id=approval_id,
            tool_name=tool_name,
            args=args,
            hint=hint,
            requested_at=requested_at,
            call_id=call_id,
            digest=digest,
            expires_at=expires_at,
            request_id=request_id,
        )

        return pending_approval
