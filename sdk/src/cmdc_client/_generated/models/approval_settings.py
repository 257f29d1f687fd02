from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="ApprovalSettings")


@_attrs_define
class ApprovalSettings:
    """Tools that require approval. `*` means every tool except `ask_user`.

    Attributes:
        tools (list[str] | Unset): Names of tools that require approval, or `*`.
        timeout_ms (int | Unset): Time limit of an approval, in ms; 0: none. Default: 0.
    """

    tools: list[str] | Unset = UNSET
    timeout_ms: int | Unset = 0

    def to_dict(self) -> dict[str, Any]:
        tools: list[str] | Unset = UNSET
        if not isinstance(self.tools, Unset):
            tools = self.tools

        timeout_ms = self.timeout_ms

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if tools is not UNSET:
            field_dict["tools"] = tools
        if timeout_ms is not UNSET:
            field_dict["timeoutMs"] = timeout_ms

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        tools = cast(list[str], d.pop("tools", UNSET))

        timeout_ms = d.pop("timeoutMs", UNSET)

        approval_settings = cls(
            tools=tools,
            timeout_ms=timeout_ms,
        )

        return approval_settings
