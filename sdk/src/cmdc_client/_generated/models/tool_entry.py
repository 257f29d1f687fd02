from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

from ..models.tool_entry_kind import ToolEntryKind, check_tool_entry_kind
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.tool_entry_parameters import ToolEntryParameters


T = TypeVar("T", bound="ToolEntry")


@_attrs_define
class ToolEntry:
    """A tool of the session.

    Attributes:
        name (str):
        kind (ToolEntryKind):
        description (str):
        parameters (ToolEntryParameters):
        requires_approval (bool):
        idempotent (bool):
        callback_url (str | Unset):
        timeout_ms (int | Unset):
    """

    name: str
    kind: ToolEntryKind
    description: str
    parameters: ToolEntryParameters
    requires_approval: bool
    idempotent: bool
    callback_url: str | Unset = UNSET
    timeout_ms: int | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        name = self.name

        kind: str = self.kind

        description = self.description

        parameters = self.parameters.to_dict()

        requires_approval = self.requires_approval

        idempotent = self.idempotent

        callback_url = self.callback_url

        timeout_ms = self.timeout_ms

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "name": name,
                "kind": kind,
                "description": description,
                "parameters": parameters,
                "requiresApproval": requires_approval,
                "idempotent": idempotent,
            }
        )
        if callback_url is not UNSET:
            field_dict["callbackUrl"] = callback_url
        if timeout_ms is not UNSET:
            field_dict["timeoutMs"] = timeout_ms

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.tool_entry_parameters import ToolEntryParameters

        d = dict(src_dict)
        name = d.pop("name")

        kind = check_tool_entry_kind(d.pop("kind"))

        description = d.pop("description")

        parameters = ToolEntryParameters.from_dict(d.pop("parameters"))

        requires_approval = d.pop("requiresApproval")

        idempotent = d.pop("idempotent")

        callback_url = d.pop("callbackUrl", UNSET)

        timeout_ms = d.pop("timeoutMs", UNSET)

        tool_entry = cls(
            name=name,
            kind=kind,
            description=description,
            parameters=parameters,
            requires_approval=requires_approval,
            idempotent=idempotent,
            callback_url=callback_url,
            timeout_ms=timeout_ms,
        )

        return tool_entry
