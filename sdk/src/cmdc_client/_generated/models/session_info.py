from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

from ..models.session_info_state import SessionInfoState, check_session_info_state

if TYPE_CHECKING:
    from ..models.pending_approval import PendingApproval
    from ..models.pending_question import PendingQuestion
    from ..models.queued_prompt import QueuedPrompt
    from ..models.session_info_metadata import SessionInfoMetadata


T = TypeVar("T", bound="SessionInfo")


@_attrs_define
class SessionInfo:
    """Current state of a session. Times are in milliseconds.

    Attributes:
        session_id (str):
        state (SessionInfoState):
        turns (int): Number of model calls so far.
        tool_calls (int): Number of tool calls that ran.
        total_tokens (int):
        uptime_ms (int):
        model (str):
        created_at (int):
        metadata (SessionInfoMetadata):
        queue (list[QueuedPrompt]):
        pending_approvals (list[PendingApproval]):
        pending_questions (list[PendingQuestion]):
        cursor (str): Cursor at the end of the event log.
    """

    session_id: str
    state: SessionInfoState
    turns: int
    tool_calls: int
    total_tokens: int
    uptime_ms: int
    model: str
    created_at: int
    metadata: SessionInfoMetadata
    queue: list[QueuedPrompt]
    pending_approvals: list[PendingApproval]
    pending_questions: list[PendingQuestion]
    cursor: str

    def to_dict(self) -> dict[str, Any]:
        session_id = self.session_id

        state: str = self.state

        turns = self.turns

        tool_calls = self.tool_calls

        total_tokens = self.total_tokens

        uptime_ms = self.uptime_ms

        model = self.model

        created_at = self.created_at

        metadata = self.metadata.to_dict()

        queue = []
        for queue_item_data in self.queue:
            queue_item = queue_item_data.to_dict()
            queue.append(queue_item)

        pending_approvals = []
        for pending_approvals_item_data in self.pending_approvals:
            pending_approvals_item = pending_approvals_item_data.to_dict()
            pending_approvals.append(pending_approvals_item)

        pending_questions = []
        for pending_questions_item_data in self.pending_questions:
            pending_questions_item = pending_questions_item_data.to_dict()
            pending_questions.append(pending_questions_item)

        cursor = self.cursor

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "sessionId": session_id,
                "state": state,
                "turns": turns,
                "toolCalls": tool_calls,
                "totalTokens": total_tokens,
                "uptimeMs": uptime_ms,
                "model": model,
                "createdAt": created_at,
                "metadata": metadata,
                "queue": queue,
                "pendingApprovals": pending_approvals,
                "pendingQuestions": pending_questions,
                "cursor": cursor,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.pending_approval import PendingApproval
        from ..models.pending_question import PendingQuestion
        from ..models.queued_prompt import QueuedPrompt
        from ..models.session_info_metadata import SessionInfoMetadata

        d = dict(src_dict)
        session_id = d.pop("sessionId")

        state = check_session_info_state(d.pop("state"))

        turns = d.pop("turns")

        tool_calls = d.pop("toolCalls")

        total_tokens = d.pop("totalTokens")

        uptime_ms = d.pop("uptimeMs")

        model = d.pop("model")

        created_at = d.pop("createdAt")

        metadata = SessionInfoMetadata.from_dict(d.pop("metadata"))

        queue = []
        _queue = d.pop("queue")
        for queue_item_data in _queue:
            queue_item = QueuedPrompt.from_dict(queue_item_data)

            queue.append(queue_item)

        pending_approvals = []
        _pending_approvals = d.pop("pendingApprovals")
        for pending_approvals_item_data in _pending_approvals:
            pending_approvals_item = PendingApproval.from_dict(pending_approvals_item_data)

            pending_approvals.append(pending_approvals_item)

        pending_questions = []
        _pending_questions = d.pop("pendingQuestions")
        for pending_questions_item_data in _pending_questions:
            pending_questions_item = PendingQuestion.from_dict(pending_questions_item_data)

            pending_questions.append(pending_questions_item)

        cursor = d.pop("cursor")

        session_info = cls(
            session_id=session_id,
            state=state,
            turns=turns,
            tool_calls=tool_calls,
            total_tokens=total_tokens,
            uptime_ms=uptime_ms,
            model=model,
            created_at=created_at,
            metadata=metadata,
            queue=queue,
            pending_approvals=pending_approvals,
            pending_questions=pending_questions,
            cursor=cursor,
        )

        return session_info
