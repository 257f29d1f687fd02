"""The store that is lost with the process: for tests, trials and gateways that need not remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, assert_never

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message
from cmdc_gateway.store.store import (
    AddUsage,
    AppendAudit,
    AppendEvents,
    AppendMessages,
    ApprovalRow,
    AuditRow,
    CreateSession,
    DeleteSession,
    Durability,
    Lease,
    LeaseLost,
    MarkDelivered,
    OwnedElsewhere,
    PutApproval,
    PutQuestion,
    PutRequest,
    PutResponse,
    PutSession,
    PutTool,
    QuestionRow,
    RemoveTool,
    RequestRow,
    SessionAlreadyExists,
    SessionKey,
    SessionRow,
    SessionState,
    StoredResponseRow,
    StoredSession,
    ToolRow,
    TrimEvents,
    UsageRow,
    Write,
)

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class _Session:
    """A session and all that belongs to it. The dictionaries that only grow are shared with its next version.

    Only its log is changed in place: there are more pieces of text than of all else together.
    """

    row: SessionRow
    first_seq: int = 1
    last_seq: int = 0
    tools: dict[str, ToolRow] = field(default_factory=dict[str, ToolRow])
    events: dict[int, LoggedEvent] = field(default_factory=dict[int, LoggedEvent])
    messages: dict[int, Message] = field(default_factory=dict[int, Message])
    requests: dict[str, RequestRow] = field(default_factory=dict[str, RequestRow])
    positions: dict[int, str] = field(default_factory=dict[int, str])
    approvals: dict[str, ApprovalRow] = field(default_factory=dict[str, ApprovalRow])
    questions: dict[str, QuestionRow] = field(default_factory=dict[str, QuestionRow])

    def shorten(self, events: int) -> None:
        """Take the newest events back."""
        for _ in range(events):
            del self.events[self.last_seq]
            self.last_seq -= 1


class UndoLog:
    """Changes to dictionaries, and how to take them back if a later write of the same commit is refused."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        if key in table:
            old = table[key]
            self._undo.append(lambda: table.update({key: old}))
        else:
            self._undo.append(lambda: table.pop(key))
        table[key] = value

    def remove(self, table: dict[K, V], key: K) -> None:
        if key in table:
            old = table.pop(key)
            self._undo.append(lambda: table.update({key: old}))

    def append(self, session: _Session, events: Sequence[LoggedEvent]) -> None:
        for event in events:
            session.events[event.seq] = event
        session.last_seq += len(events)
        self._undo.append(lambda: session.shorten(len(events)))

    def roll_back(self) -> None:
        for undo in reversed(self._undo):
            undo()


class MemoryStore:
    """Keeps sessions in dictionaries. Of one event loop; needs no opening, and never raises StoreDown."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, _Session] = {}
        self._leases: dict[SessionKey, tuple[str, int]] = {}  # owner and token
        self._alive: dict[str, int] = {}
        self._last_token = 0
        self._usage: dict[tuple[str, str, str], UsageRow] = {}
        self._responses: dict[tuple[str, str, str], StoredResponseRow] = {}
        self._audit: dict[int, AuditRow] = {}

    @property
    def durability(self) -> Durability:
        return "memory"

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def ping(self) -> None: ...

    # -- ownership -----------------------------------------------------------------------------------------------------

    async def renew(self, owner: str, until: int) -> None:
        self._alive[owner] = until

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        if key not in self._sessions:
            raise KeyError(key)
        holder, _ = self._leases.get(key, (owner, 0))
        if holder != owner and self._alive.get(holder, 0) > now:
            raise OwnedElsewhere(f"{holder} has session {key.session_id!r}")
        self._last_token += 1
        self._leases[key] = (owner, self._last_token)
        return Lease(key, self._last_token)

    async def release(self, fence: Lease) -> None:
        if self._owns(fence):
            del self._leases[fence.key]

    def _owns(self, fence: Lease) -> bool:
        _, token = self._leases.get(fence.key, ("", 0))
        return token == fence.token

    # -- writing -------------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], fence: Lease | None = None) -> None:
        if fence and not self._owns(fence):
            raise LeaseLost(f"session {fence.key.session_id!r} has another owner, or none")
        journal = UndoLog()
        try:
            for write in writes:
                self._write(write, journal)
        except BaseException:
            journal.roll_back()
            raise

    def _write(self, write: Write, journal: UndoLog) -> None:
        match write:
            case CreateSession(row):
                if row.key in self._sessions:
                    raise SessionAlreadyExists(f"session {row.key.session_id!r} exists")
                journal.put(self._sessions, row.key, _Session(row))
            case PutSession(row):
                session = self._existing(row.key)
                old = session.row
                kept = replace(
                    row,
                    epoch=old.epoch,
                    created_at=old.created_at,
                    settings=old.settings,
                    delivered_seq=max(row.delivered_seq, old.delivered_seq),
                )
                journal.put(self._sessions, row.key, replace(session, row=kept))
            case MarkDelivered(key, seq):
                if (session := self._sessions.get(key)) and session.row.delivered_seq < seq:
                    journal.put(self._sessions, key, replace(session, row=replace(session.row, delivered_seq=seq)))
            case DeleteSession(key):
                self._existing(key)
                journal.remove(self._sessions, key)
                journal.remove(self._leases, key)
            case AddUsage(row):
                place = (row.tenant, row.key_id, row.day)
                journal.put(self._usage, place, _sum(self._usage.get(place), row))
            case PutResponse(row):
                journal.put(self._responses, (row.tenant, row.route, row.idempotency_key), row)
            case AppendAudit(row):
                journal.put(self._audit, len(self._audit) + 1, row)
            case _:
                self._write_within(self._existing(write.key), write, journal)

    def _write_within(
        self,
        session: _Session,
        write: (
            AppendEvents | TrimEvents | AppendMessages | PutRequest | PutApproval | PutQuestion | PutTool | RemoveTool
        ),
        journal: UndoLog,
    ) -> None:
        match write:
            case AppendEvents(_, events):
                write.must_follow(session.row.epoch, session.last_seq)
                journal.append(session, events)
            case TrimEvents(key, before):
                first_seq = max(session.first_seq, min(before, session.last_seq + 1))
                for seq in range(session.first_seq, first_seq):
                    journal.remove(session.events, seq)
                journal.put(self._sessions, key, replace(session, first_seq=first_seq))
            case AppendMessages(_, messages):
                for n, message in enumerate(messages, start=len(session.messages)):
                    journal.put(session.messages, n, message)
            case PutRequest(_, row):
                if session.positions.get(row.position, row.request_id) != row.request_id:
                    raise ValueError(f"position {row.position} of session {write.key.session_id!r} is taken")
                if old := session.requests.get(row.request_id):
                    journal.remove(session.positions, old.position)
                journal.put(session.positions, row.position, row.request_id)
                journal.put(session.requests, row.request_id, row)
            case PutApproval(_, row):
                journal.put(session.approvals, row.approval_id, row)
            case PutQuestion(_, row):
                journal.put(session.questions, row.ref, row)
            case PutTool(key, row):
                journal.put(self._sessions, key, replace(session, tools=session.tools | {row.name: row}))
            case RemoveTool(key, name):
                tools = {tool.name: tool for tool in session.tools.values() if tool.name != name}
                journal.put(self._sessions, key, replace(session, tools=tools))
            case _:
                assert_never(write)

    def _existing(self, key: SessionKey) -> _Session:
        try:
            return self._sessions[key]
        except KeyError:
            raise LeaseLost(f"there is no session {key.session_id!r}") from None

    # -- reading -------------------------------------------------------------------------------------------------------

    async def load(self, key: SessionKey) -> StoredSession | None:
        session = self._sessions.get(key)
        if session is None:
            return None
        requests = [session.requests[request_id] for _, request_id in sorted(session.positions.items())]
        newest_done = next((row for row in reversed(requests) if row.status == "done"), None)
        return StoredSession(
            row=session.row,
            messages=tuple(session.messages.values()),
            requests=tuple(row for row in requests if row.status != "done" or row is newest_done),
            approvals=tuple(row for row in session.approvals.values() if row.status == "pending"),
            questions=tuple(row for row in session.questions.values() if row.status == "pending"),
            tools=tuple(session.tools.values()),
            first_seq=session.first_seq,
            last_seq=session.last_seq,
            last_position=max(session.positions, default=0),
        )

    async def session(self, key: SessionKey) -> SessionRow | None:
        session = self._sessions.get(key)
        return session and session.row

    async def sessions(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None = None, state: SessionState | None = None
    ) -> list[SessionRow]:
        rows = [
            session.row
            for session in self._sessions.values()
            if session.row.key.tenant == tenant
            and (state is None or session.row.state == state)
            and (before is None or _age(session.row) < before)
        ]
        return sorted(rows, key=_age, reverse=True)[:limit]

    async def unfinished(self) -> list[SessionKey]:
        return [
            key
            for key, session in self._sessions.items()
            if any(row.status != "done" for row in session.requests.values())
        ]

    async def events(self, key: SessionKey, after: int, limit: int, max_bytes: int = 1 << 20) -> list[LoggedEvent]:
        found: list[LoggedEvent] = []
        if session := self._sessions.get(key):
            start = max(after + 1, session.first_seq)
            for seq in range(start, min(session.last_seq + 1, start + limit)):
                event = session.events[seq]
                max_bytes -= len(event.data)
                if found and max_bytes < 0:
                    break
                found.append(event)
        return found

    async def log_bounds(self, key: SessionKey) -> tuple[str, int, int] | None:
        session = self._sessions.get(key)
        return session and (session.row.epoch, session.first_seq, session.last_seq)

    async def messages(self, key: SessionKey, after: int = 0, limit: int | None = None) -> list[Message]:
        session = self._sessions.get(key)
        if session is None:
            return []
        end = len(session.messages) if limit is None else min(after + limit, len(session.messages))
        return [session.messages[n] for n in range(after, end)]

    async def request(self, key: SessionKey, request_id: str) -> RequestRow | None:
        session = self._sessions.get(key)
        return session and session.requests.get(request_id)

    async def approval(self, key: SessionKey, approval_id: str) -> ApprovalRow | None:
        session = self._sessions.get(key)
        return session and session.approvals.get(approval_id)

    async def question(self, key: SessionKey, ref: str) -> QuestionRow | None:
        session = self._sessions.get(key)
        return session and session.questions.get(ref)

    async def tool(self, key: SessionKey, name: str) -> ToolRow | None:
        session = self._sessions.get(key)
        return session and session.tools.get(name)

    async def usage(self, tenant: str) -> list[UsageRow]:
        return [row for _, row in sorted(self._usage.items()) if row.tenant == tenant]

    async def tracked_keys(self) -> int:
        return len({(tenant, key_id) for tenant, key_id, _ in self._usage})

    async def response(self, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None:
        return self._responses.get((tenant, route, idempotency_key))

    async def forget_responses(self, before: int) -> None:
        self._responses = {place: row for place, row in self._responses.items() if row.at >= before}

    async def audit(self, after: int, limit: int) -> list[tuple[int, AuditRow]]:
        return [(n, self._audit[n]) for n in range(after + 1, min(after + limit, len(self._audit)) + 1)]


def _sum(old: UsageRow | None, more: UsageRow) -> UsageRow:
    if old is None:
        return more
    return replace(
        old, prompts=old.prompts + more.prompts, usage=old.usage + more.usage, cost_usd=old.cost_usd + more.cost_usd
    )


def _age(row: SessionRow) -> tuple[int, str]:
    return row.created_at, row.key.session_id
