from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="RespondBody")


@_attrs_define
class RespondBody:
    """Answer a question of the agent.

    Attributes:
        ref (str):
        response (str):
    """

    ref: str
    response: str

    def to_dict(self) -> dict[str, Any]:
        ref = self.ref

        response = self.response

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "ref": ref,
                "response": response,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        ref = d.pop("ref")

        response = d.pop("response")

        respond_body = cls(
            ref=ref,
            response=response,
        )

        return respond_body
