"""The changes that `Store.commit` applies, one class per kind of change."""

from __future__ import annotations

from dataclasses import dataclass

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message
from cmdc_gateway.store.rows import (
    ApprovalRow,
    AuditRow,
    QuestionRow,
    RequestRow,
    SessionKey,
    SessionRow,
    StoredResponseRow,
    ToolRow,
    UsageRow,
)


@dataclass(frozen=True, slots=True)
class CreateSession:
    """Insert a session. `commit` raises SessionAlreadyExists if one with this key exists."""

    row: SessionRow


@dataclass(frozen=True, slots=True)
class PutSession:
    """Update a session. Key, epoch, created_at and settings are never changed; `delivered_seq` is never lowered."""

    row: SessionRow


@dataclass(frozen=True, slots=True)
class MarkDelivered:
    """Raise a session's `delivered_seq` to `seq`; never lower it. No effect if the session does not exist."""

    key: SessionKey
    seq: int


@dataclass(frozen=True, slots=True)
class DeleteSession:
    """Delete a session and everything that belongs to it. Usage, stored responses and the audit log are kept."""

    key: SessionKey


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Append to the log. The events have the session's epoch and continue the log's seqs without a gap."""

    key: SessionKey
    events: tuple[LoggedEvent, ...]

    def check_continues(self, epoch: str, last_seq: int) -> None:
        """Raise ValueError if these events do not continue a log of this epoch that ends at `last_seq`."""
        for seq, event in enumerate(self.events, start=last_seq + 1):
            if (event.epoch, event.seq) != (epoch, seq):
                raise ValueError(f"the log continues with event {epoch}.{seq}, not {event.cursor}")


@dataclass(frozen=True, slots=True)
class TrimEvents:
    """Delete the events with a seq below `before`. The seqs of later events are not affected."""

    key: SessionKey
    before: int


@dataclass(frozen=True, slots=True)
class AppendMessages:
    """Append to the message history."""

    key: SessionKey
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class PutRequest:
    """Insert the request, or replace the one with this id. No two requests of a session share a position."""

    key: SessionKey
    row: RequestRow


@dataclass(frozen=True, slots=True)
class PutApproval:
    """Insert the approval, or replace the one with this id."""

    key: SessionKey
    row: ApprovalRow


@dataclass(frozen=True, slots=True)
class PutQuestion:
    """Insert the question, or replace the one with this ref."""

    key: SessionKey
    row: QuestionRow


@dataclass(frozen=True, slots=True)
class PutTool:
    """Insert the tool, or replace the one with this name, which keeps its place in the order."""

    key: SessionKey
    row: ToolRow


@dataclass(frozen=True, slots=True)
class RemoveTool:
    """Delete the tool. No effect if the session has no tool with this name."""

    key: SessionKey
    name: str


@dataclass(frozen=True, slots=True)
class AddUsage:
    """Add to the usage of this tenant, key and day."""

    row: UsageRow


@dataclass(frozen=True, slots=True)
class PutResponse:
    """Insert the response, or replace the one with this tenant, route and idempotency key."""

    row: StoredResponseRow


@dataclass(frozen=True, slots=True)
class AppendAudit:
    """Append to the audit log, which is never changed or shortened, not even when its session is deleted."""

    row: AuditRow


SessionWrite = (
    AppendEvents | TrimEvents | AppendMessages | PutRequest | PutApproval | PutQuestion | PutTool | RemoveTool
)
"""Changes to what belongs to an existing session."""

Write = CreateSession | PutSession | MarkDelivered | DeleteSession | SessionWrite | AddUsage | PutResponse | AppendAudit
