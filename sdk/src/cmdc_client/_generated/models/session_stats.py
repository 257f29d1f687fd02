from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.token_counts import TokenCounts


T = TypeVar("T", bound="SessionStats")


@_attrs_define
class SessionStats:
    """Usage of a session.

    Attributes:
        session_id (str):
        turns (int):
        total_tokens (int):
        cost_usd (float):
        prompt_count (int):
        token_usage (TokenCounts): Input, output, and total tokens.
    """

    session_id: str
    turns: int
    total_tokens: int
    cost_usd: float
    prompt_count: int
    token_usage: TokenCounts

    def to_dict(self) -> dict[str, Any]:
        session_id = self.session_id

        turns = self.turns

        total_tokens = self.total_tokens

        cost_usd = self.cost_usd

        prompt_count = self.prompt_count

        token_usage = self.token_usage.to_dict()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "sessionId": session_id,
                "turns": turns,
                "totalTokens": total_tokens,
                "costUsd": cost_usd,
                "promptCount": prompt_count,
                "tokenUsage": token_usage,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.token_counts import TokenCounts

        d = dict(src_dict)
        session_id = d.pop("sessionId")

        turns = d.pop("turns")

        total_tokens = d.pop("totalTokens")

        cost_usd = d.pop("costUsd")

        prompt_count = d.pop("promptCount")

        token_usage = TokenCounts.from_dict(d.pop("tokenUsage"))

        session_stats = cls(
            session_id=session_id,
            turns=turns,
            total_tokens=total_tokens,
            cost_usd=cost_usd,
            prompt_count=prompt_count,
            token_usage=token_usage,
        )

        return session_stats
