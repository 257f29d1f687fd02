from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

from ..models.session_summary_state import (
    SessionSummaryState,
    check_session_summary_state,
)

if TYPE_CHECKING:
    from ..models.session_summary_metadata import SessionSummaryMetadata


T = TypeVar("T", bound="SessionSummary")


@_attrs_define
class SessionSummary:
    """A session in a list.

    Attributes:
        session_id (str):
        state (SessionSummaryState):
        model (str):
        created_at (int):
        turns (int):
        tool_calls (int):
        total_tokens (int):
        metadata (SessionSummaryMetadata):
    """

    session_id: str
    state: SessionSummaryState
    model: str
    created_at: int
    turns: int
    tool_calls: int
    total_tokens: int
    metadata: SessionSummaryMetadata

    def to_dict(self) -> dict[str, Any]:
        session_id = self.session_id

        state: str = self.state

        model = self.model

        created_at = self.created_at

        turns = self.turns

        tool_calls = self.tool_calls

        total_tokens = self.total_tokens

        metadata = self.metadata.to_dict()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "sessionId": session_id,
                "state": state,
                "model": model,
                "createdAt": created_at,
                "turns": turns,
                "toolCalls": tool_calls,
                "totalTokens": total_tokens,
                "metadata": metadata,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.session_summary_metadata import SessionSummaryMetadata

        d = dict(src_dict)
        session_id = d.pop("sessionId")

        state = check_session_summary_state(d.pop("state"))

        model = d.pop("model")

        created_at = d.pop("createdAt")

        turns = d.pop("turns")

        tool_calls = d.pop("toolCalls")

        total_tokens = d.pop("totalTokens")

        metadata = SessionSummaryMetadata.from_dict(d.pop("metadata"))

        session_summary = cls(
            session_id=session_id,
            state=state,
            model=model,
            created_at=created_at,
            turns=turns,
            tool_calls=tool_calls,
            total_tokens=total_tokens,
            metadata=metadata,
        )

        return session_summary
