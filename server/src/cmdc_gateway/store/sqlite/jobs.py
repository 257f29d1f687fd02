"""What the writer runs inside a transaction. A job that raises is rolled back.

Only `Append` of the journal may leave events in the journal. Every job here flushes the events of a session before it
touches the session, so that its SQL finds the whole log in `events`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import assert_never

from cmdc_gateway.store.errors import LeaseLost
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.sqlite.journal import WritingConnection
from cmdc_gateway.store.sqlite.tables import (
    approvals,
    audit,
    events,
    leases,
    messages,
    questions,
    requests,
    responses,
    sessions,
    tools,
    usage,
)
from cmdc_gateway.store.store import Lease
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


def acquire(connection: WritingConnection, key: SessionKey, owner: str, live_owners: Collection[str]) -> Lease:
    """Lease the session to the owner, unless another live owner holds it. Raises KeyError or OwnedElsewhere."""
    connection.journal.flush(connection, key)
    return leases.acquire(connection, key, owner, live_owners)


def release(connection: WritingConnection, lease: Lease) -> None:
    """End the lease, if it is valid."""
    connection.journal.flush(connection, lease.key)
    leases.release(connection, lease)


def commit(connection: WritingConnection, writes: Sequence[Write], lease: Lease | None) -> None:
    """Apply the writes. Raises SessionAlreadyExists, LeaseLost or ValueError as `Store.commit` does."""
    commit = _Commit(connection)
    if lease:
        commit.check(lease)
    for write in writes:
        commit.apply(write)


def size(writes: Sequence[Write]) -> int:
    """Roughly how many bytes the writes add to the file."""
    total = 0
    for write in writes:
        match write:
            case AppendEvents(_, added):
                total += sum(len(event.data) for event in added)
            case AppendMessages(_, added):
                total += sum(len(message.content) for message in added)
            case PutRequest(_, row):
                total += len(row.text)
            case CreateSession(row):
                total += len(row.settings)
            case _:
                pass
    return total


class _Commit:
    """One commit. Each session that it writes to is looked up, and flushed, once."""

    def __init__(self, connection: WritingConnection) -> None:
        self._connection = connection
        self._pks: dict[SessionKey, int] = {}

    def check(self, lease: Lease) -> None:
        """Raise LeaseLost if the lease is stale."""
        self._add_session(lease.key, leases.check(self._connection, lease))

    def apply(self, write: Write) -> None:
        connection = self._connection
        match write:
            case CreateSession(row):
                sessions.create(connection, row)
            case PutSession(row):
                sessions.put(connection, self._pk(row.key), row)
            case MarkDelivered(key, seq):
                sessions.mark_delivered(connection, key, seq)
            case DeleteSession(key):
                sessions.delete(connection, self._pk(key))
                del self._pks[key]
                connection.may_have_orphans = True
            case AddUsage(row):
                usage.add(connection, row)
            case PutResponse(row):
                responses.put(connection, row)
            case AppendAudit(row):
                audit.append(connection, row)
            case _:
                self._apply_within(self._pk(write.key), write)

    def _apply_within(self, pk: int, write: SessionWrite) -> None:
        connection = self._connection
        match write:
            case AppendEvents():
                events.append(connection, pk, write)
            case TrimEvents(_, before):
                events.trim(connection, pk, before)
            case AppendMessages(_, added):
                messages.append(connection, pk, added)
            case PutRequest(_, row):
                requests.put(connection, pk, row)
            case PutApproval(_, row):
                approvals.put(connection, pk, row)
            case PutQuestion(_, row):
                questions.put(connection, pk, row)
            case PutTool(_, row):
                tools.put(connection, pk, row)
            case RemoveTool(_, name):
                tools.remove(connection, pk, name)
            case _:
                assert_never(write)

    def _pk(self, key: SessionKey) -> int:
        if key not in self._pks:
            pk = sessions.find_pk(self._connection, key)
            if pk is None:
                raise LeaseLost(f"session {key.session_id!r} does not exist")
            self._add_session(key, pk)
        return self._pks[key]

    def _add_session(self, key: SessionKey, pk: int) -> None:
        self._connection.journal.flush(self._connection, key)
        self._pks[key] = pk
