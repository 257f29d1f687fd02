from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.token_counts import TokenCounts


T = TypeVar("T", bound="UsageFigures")


@_attrs_define
class UsageFigures:
    """Usage figures.

    Attributes:
        prompt_count (int):
        total_tokens (int):
        cost_usd (float):
        token_usage (TokenCounts): Input, output, and total tokens.
    """

    prompt_count: int
    total_tokens: int
    cost_usd: float
    token_usage: TokenCounts

    def to_dict(self) -> dict[str, Any]:
        prompt_count = self.prompt_count

        total_tokens = self.total_tokens

        cost_usd = self.cost_usd

        token_usage = self.token_usage.to_dict()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "promptCount": prompt_count,
                "totalTokens": total_tokens,
                "costUsd": cost_usd,
                "tokenUsage": token_usage,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.token_counts import TokenCounts

        d = dict(src_dict)
        prompt_count = d.pop("promptCount")

        total_tokens = d.pop("totalTokens")

        cost_usd = d.pop("costUsd")

        token_usage = TokenCounts.from_dict(d.pop("tokenUsage"))

        usage_figures = cls(
            prompt_count=prompt_count,
            total_tokens=total_tokens,
            cost_usd=cost_usd,
            token_usage=token_usage,
        )

        return usage_figures
