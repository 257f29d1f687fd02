from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.error_detail import ErrorDetail


T = TypeVar("T", bound="ErrorBody")


@_attrs_define
class ErrorBody:
    """Body of every error response. Some codes add members of their own.

    Attributes:
        error (str): Error code.
        message (str): Human-readable message.
        details (list[ErrorDetail] | Unset):
        status (str | Unset): With `already_resolved`: the decision that applies.
        retry_after (int | Unset): With `rate_limited`: whole seconds to wait.
        earliest (str | Unset): With `cursor_expired`: the cursor just before the first kept event.
        latest (str | Unset): With `cursor_expired`: the cursor at the end of the log.
    """

    error: str
    message: str
    details: list[ErrorDetail] | Unset = UNSET
    status: str | Unset = UNSET
    retry_after: int | Unset = UNSET
    earliest: str | Unset = UNSET
    latest: str | Unset = UNSET
    additional_properties: dict[str, Any] = _attrs_field(init=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        error = self.error

        message = self.message

        details: list[dict[str, Any]] | Unset = UNSET
        if not isinstance(self.details, Unset):
            details = []
            for details_item_data in self.details:
                details_item = details_item_data.to_dict()
                details.append(details_item)

        status = self.status

        retry_after = self.retry_after

        earliest = self.earliest

        latest = self.latest

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "error": error,
                "message": message,
            }
        )
        if details is not UNSET:
            field_dict["details"] = details
        if status is not UNSET:
            field_dict["status"] = status
        if retry_after is not UNSET:
            field_dict["retryAfter"] = retry_after
        if earliest is not UNSET:
            field_dict["earliest"] = earliest
        if latest is not UNSET:
            field_dict["latest"] = latest

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.error_detail import ErrorDetail

        d = dict(src_dict)
        error = d.pop("error")

        message = d.pop("message")

        _details = d.pop("details", UNSET)
        details: list[ErrorDetail] | Unset = UNSET
        if _details is not UNSET:
            details = []
            for details_item_data in _details:
                details_item = ErrorDetail.from_dict(details_item_data)

                details.append(details_item)

        status = d.pop("status", UNSET)

        retry_after = d.pop("retryAfter", UNSET)

        earliest = d.pop("earliest", UNSET)

        latest = d.pop("latest", UNSET)

        error_body = cls(
            error=error,
            message=message,
            details=details,
            status=status,
            retry_after=retry_after,
            earliest=earliest,
            latest=latest,
        )

        error_body.additional_properties = d
        return error_body

    @property
    def additional_keys(self) -> list[str]:
        return list(self.additional_properties.keys())

    def __getitem__(self, key: str) -> Any:
        return self.additional_properties[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.additional_properties[key] = value

    def __delitem__(self, key: str) -> None:
        del self.additional_properties[key]

    def __contains__(self, key: str) -> bool:
        return key in self.additional_properties
