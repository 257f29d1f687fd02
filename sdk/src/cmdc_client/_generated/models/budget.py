from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="Budget")


@_attrs_define
class Budget:
    """Spending limits of a session.

    Attributes:
        max_tokens (int | Unset): Input plus output tokens.
        max_cost_usd (float | Unset): Cost in US dollars.
    """

    max_tokens: int | Unset = UNSET
    max_cost_usd: float | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        max_tokens = self.max_tokens

        max_cost_usd = self.max_cost_usd

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if max_tokens is not UNSET:
            field_dict["maxTokens"] = max_tokens
        if max_cost_usd is not UNSET:
            field_dict["maxCostUsd"] = max_cost_usd

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        max_tokens = d.pop("maxTokens", UNSET)

        max_cost_usd = d.pop("maxCostUsd", UNSET)

        budget = cls(
            max_tokens=max_tokens,
            max_cost_usd=max_cost_usd,
        )

        return budget
