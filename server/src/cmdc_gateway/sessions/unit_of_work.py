"""The unit of work of one batch: collected first, committed in one transaction, then published and acted on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cmdc_gateway.kernel.budget import Spend
from cmdc_gateway.kernel.effects import Effect
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message, TokenUsage
from cmdc_gateway.sessions.audit import audit_row
from cmdc_gateway.store.rows import RequestRow, SessionRow, UsageRow
from cmdc_gateway.store.writes import (
    AddUsage,
    AppendAudit,
    AppendEvents,
    AppendMessages,
    PutApproval,
    PutQuestion,
    PutRequest,
    PutSession,
    TrimEvents,
    Write,
)

# As default factories: `list[LoggedEvent]` works too, but calling a generic alias is twenty times slower.


def _list() -> list[Any]:
    return []


def _dict() -> dict[str, Any]:
    return {}


@dataclass(slots=True)
class UnitOfWork:
    """The changes of one batch. `row` and `last_seq` have the values that hold after the commit; `now` is in ms.

    `spent` and `ended` are reported after the commit. `key_id` is the API key of the command being executed, empty
    outside commands.
    """

    row: SessionRow
    last_seq: int
    now: int
    day: str
    events: list[LoggedEvent] = field(default_factory=_list)
    messages: list[Message] = field(default_factory=_list)
    effects: list[tuple[Turn, Effect]] = field(default_factory=_list)
    spent: list[tuple[str, Spend]] = field(default_factory=_list)
    ended: list[tuple[RequestRow, str]] = field(default_factory=_list)
    model_calls_ended: bool = False
    trim_before: int = 0
    deletes: bool = False
    key_id: str = ""
    _writes: list[Write] = field(default_factory=_list)
    _requests: dict[str, RequestRow] = field(default_factory=_dict)

    def write(self, write: Write) -> None:
        self._writes.append(write)

    def audit(self, action: str, subject: str = "", *, digest: str = "", **detail: Any) -> None:
        """Record a decision in the audit log, in the same transaction. `detail` must not contain payload."""
        row = audit_row(self.row.key, self.key_id, self.now, action, digest, subject=subject, **detail)
        self.write(AppendAudit(row))

    def append(self, events: list[LoggedEvent]) -> None:
        if events:
            self.events += events
            self.last_seq = events[-1].seq

    def put_request(self, row: RequestRow) -> None:
        """Write this state of a request; a later one in the same unit replaces it."""
        self._requests[row.request_id] = row

    def count_prompt(self, key_id: str) -> None:
        self.row = replace(self.row, prompts=self.row.prompts + 1)
        self.write(AddUsage(UsageRow(self.row.key.tenant, key_id, self.day, prompts=1)))

    def add_usage(self, key_id: str, usage: TokenUsage, cost_usd: float) -> None:
        """Add the usage of a model call to the session and to the API key that pays (MTR-1)."""
        if not usage.total_tokens and not cost_usd:
            return
        self.row = replace(self.row, usage=self.row.usage + usage, cost_usd=self.row.cost_usd + cost_usd)
        self.write(AddUsage(UsageRow(self.row.key.tenant, key_id, self.day, usage=usage, cost_usd=cost_usd)))
        self.spent.append((key_id, Spend(usage.total_tokens, cost_usd)))

    def writes(self, before: SessionRow) -> list[Write]:
        """The writes of the transaction; `before` is the session's row as stored."""
        key = self.row.key
        writes: list[Write] = []
        if self.row != before:
            writes.append(PutSession(self.row))
        writes += [PutRequest(key, row) for row in self._requests.values()]
        if self.events:
            writes.append(AppendEvents(key, tuple(self.events)))
        if self.trim_before:
            writes.append(TrimEvents(key, self.trim_before))
        if self.messages:
            writes.append(AppendMessages(key, tuple(self.messages)))
        return writes + _without_superseded(self._writes)


def _without_superseded(writes: list[Write]) -> list[Write]:
    """Drop states of an approval or question that a later write replaces."""
    last = {_entity(write): index for index, write in enumerate(writes)}
    return [write for index, write in enumerate(writes) if _entity(write) is None or last[_entity(write)] == index]


def _entity(write: Write) -> str | None:
    match write:
        case PutApproval(_, row):
            return row.approval_id
        case PutQuestion(_, row):
            return row.ref
        case _:
            return None
