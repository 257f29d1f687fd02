"""A store in memory, for tests, trials and gateways whose sessions need not survive a restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, assert_never

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message
from cmdc_gateway.store.errors import (
    InvalidStoreURL,
    LeaseLost,
    OwnedElsewhere,
    SessionAlreadyExists,
    StoreUnavailable,
)
from cmdc_gateway.store.rows import (
    ApprovalRow,
    AuditRow,
    QuestionRow,
    RequestRow,
    SessionKey,
    SessionRow,
    SessionState,
    StoredResponseRow,
    StoredSession,
    ToolRow,
    UsageRow,
)
from cmdc_gateway.store.store import Durability, Lease
from cmdc_gateway.store.writes import (
    AddUsage,
    AppendAudit,
    AppendEvents,
    AppendMessages,
    CreateSession,
    DeleteSession,
    MarkDelivered,
    PutApproval,
    PutQuestion,
    PutRequest,
    PutResponse,
    PutSession,
    PutTool,
    RemoveTool,
    SessionWrite,
    TrimEvents,
    Write,
)

K = TypeVar("K")
V = TypeVar("V")


def create(url: str) -> MemoryStore:
    """Create the store at `memory:`. Raises InvalidStoreURL for any other URL."""
    if url != "memory:":
        raise InvalidStoreURL(url, "nothing may follow memory:")
    return MemoryStore()


@dataclass(slots=True)
class _Session:
    """A session and everything that belongs to it.

    An update replaces this object; the dictionaries that only grow are shared by the old and the new one. The log is
    changed in place, because events are by far the most frequent write.
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

    def remove_newest(self, count: int) -> None:
        """Remove the newest events of the log."""
        for _ in range(count):
            del self.events[self.last_seq]
            self.last_seq -= 1


class UndoLog:
    """Applies the changes of one commit, and rolls them back if a later write of it fails."""

    def __init__(self) -> None:
        self._undo_steps: list[Callable[[], object]] = []

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        if key in table:
            old = table[key]
            self._undo_steps.append(lambda: table.update({key: old}))
        else:
            self._undo_steps.append(lambda: table.pop(key))
        table[key] = value

    def remove(self, table: dict[K, V], key: K) -> None:
        if key in table:
            old = table.pop(key)
            self._undo_steps.append(lambda: table.update({key: old}))

    def append(self, session: _Session, events: Sequence[LoggedEvent]) -> None:
        for event in events:
            session.events[event.seq] = event
        session.last_seq += len(events)
        self._undo_steps.append(lambda: session.remove_newest(len(events)))

    def roll_back(self) -> None:
        for undo_step in reversed(self._undo_steps):
            undo_step()


class MemoryStore:
    """Keeps sessions in dictionaries. Belongs to one event loop, and works without being opened."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, _Session] = {}
        self._leases: dict[SessionKey, tuple[str, int]] = {}  # owner and token
        self._expiry: dict[str, int] = {}  # of the leases of each owner
        self._last_token = 0
        self._usage: dict[tuple[str, str, str], UsageRow] = {}
        self._responses: dict[tuple[str, str, str], StoredResponseRow] = {}
        self._audit: dict[int, AuditRow] = {}

    @property
    def durability(self) -> Durability:
        return "memory"

    async def open(self, *, read_only: bool = False) -> None:
        if read_only:
            raise StoreUnavailable("a memory: store cannot be read from outside the process of its gateway")

    async def close(self) -> None: ...

    async def ping(self) -> None: ...

    # -- leases --------------------------------------------------------------------------------------------------------

    async def renew(self, owner: str, until: int) -> None:
        self._expiry[owner] = until

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        if key not in self._sessions:
            raise KeyError(key)
        holder, _ = self._leases.get(key, (owner, 0))
        if holder != owner and self._expiry.get(holder, 0) > now:
            raise OwnedElsewhere(f"session {key.session_id!r} is leased to {holder}")
        self._last_token += 1
        self._leases[key] = (owner, self._last_token)
        return Lease(key, self._last_token)

    async def release(self, lease: Lease) -> None:
        if self._is_valid(lease):
            del self._leases[lease.key]

    def _is_valid(self, lease: Lease) -> bool:
        _, token = self._leases.get(lease.key, ("", 0))
        return token == lease.token

    # -- writing -------------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[Write], lease: Lease | None = None) -> None:
        if lease and not self._is_valid(lease):
            raise LeaseLost(f"the lease of session {lease.key.session_id!r} is stale")
        undo = UndoLog()
        try:
            for write in writes:
                self._write(write, undo)
        except BaseException:
            undo.roll_back()
            raise

    def _write(self, write: Write, undo: UndoLog) -> None:
        match write:
            case CreateSession(row):
                if row.key in self._sessions:
                    raise SessionAlreadyExists(f"session {row.key.session_id!r} exists")
                undo.put(self._sessions, row.key, _Session(row))
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
                undo.put(self._sessions, row.key, replace(session, row=kept))
            case MarkDelivered(key, seq):
                if (session := self._sessions.get(key)) and session.row.delivered_seq < seq:
                    undo.put(self._sessions, key, replace(session, row=replace(session.row, delivered_seq=seq)))
            case DeleteSession(key):
                self._existing(key)
                undo.remove(self._sessions, key)
                undo.remove(self._leases, key)
            case AddUsage(row):
                usage_key = (row.tenant, row.key_id, row.day)
                undo.put(self._usage, usage_key, _added(self._usage.get(usage_key), row))
            case PutResponse(row):
                undo.put(self._responses, (row.tenant, row.route, row.idempotency_key), row)
            case AppendAudit(row):
                undo.put(self._audit, len(self._audit) + 1, row)
            case _:
                self._write_within(self._existing(write.key), write, undo)

    def _write_within(
        self,
        session: _Session,
        write: SessionWrite,
        undo: UndoLog,
    ) -> None:
        match write:
            case AppendEvents(_, events):
                write.check_continues(session.row.epoch, session.last_seq)
                undo.append(session, events)
            case TrimEvents(key, before):
                first_seq = max(session.first_seq, min(before, session.last_seq + 1))
                for seq in range(session.first_seq, first_seq):
                    undo.remove(session.events, seq)
                undo.put(self._sessions, key, replace(session, first_seq=first_seq))
            case AppendMessages(_, messages):
                for n, message in enumerate(messages, start=len(session.messages)):
                    undo.put(session.messages, n, message)
            case PutRequest(_, row):
                if session.positions.get(row.position, row.request_id) != row.request_id:
                    raise ValueError(f"position {row.position} of session {write.key.session_id!r} is in use")
                if old := session.requests.get(row.request_id):
                    undo.remove(session.positions, old.position)
                undo.put(session.positions, row.position, row.request_id)
                undo.put(session.requests, row.request_id, row)
            case PutApproval(_, row):
                undo.put(session.approvals, row.approval_id, row)
            case PutQuestion(_, row):
                undo.put(session.questions, row.ref, row)
            case PutTool(key, row):
                undo.put(self._sessions, key, replace(session, tools=session.tools | {row.name: row}))
            case RemoveTool(key, name):
                tools = {tool.name: tool for tool in session.tools.values() if tool.name != name}
                undo.put(self._sessions, key, replace(session, tools=tools))
            case _:
                assert_never(write)

    def _existing(self, key: SessionKey) -> _Session:
        try:
            return self._sessions[key]
        except KeyError:
            raise LeaseLost(f"session {key.session_id!r} does not exist") from None

    async def forget_responses(self, before: int) -> None:
        self._responses = {response_key: row for response_key, row in self._responses.items() if row.at >= before}

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

    async def sessions(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None = None, state: SessionState | None = None
    ) -> list[SessionRow]:
        rows = [
            session.row
            for session in self._sessions.values()
            if session.row.key.tenant == tenant
            and (state is None or session.row.state == state)
            and (before is None or _sort_key(session.row) < before)
        ]
        return sorted(rows, key=_sort_key, reverse=True)[:limit]

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

    async def usage(self, tenant: str) -> list[UsageRow]:
        return [row for _, row in sorted(self._usage.items()) if row.tenant == tenant]

    async def tracked_keys(self) -> int:
        return len({(tenant, key_id) for tenant, key_id, _ in self._usage})

    async def response(self, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None:
        return self._responses.get((tenant, route, idempotency_key))

    async def audit(self, after: int, limit: int) -> list[tuple[int, AuditRow]]:
        return [(n, self._audit[n]) for n in range(after + 1, min(after + limit, len(self._audit)) + 1)]


def _added(old: UsageRow | None, more: UsageRow) -> UsageRow:
    if old is None:
        return more
    return replace(
        old, prompts=old.prompts + more.prompts, usage=old.usage + more.usage, cost_usd=old.cost_usd + more.cost_usd
    )


def _sort_key(row: SessionRow) -> tuple[int, str]:
    return row.created_at, row.key.session_id
