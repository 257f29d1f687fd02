"""What is written, as SQL. Every function runs inside a transaction that is undone if it raises."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import assert_never

from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.store.sqlite.journal import WritingConnection
from cmdc_gateway.store.sqlite.packing import insert_events
from cmdc_gateway.store.store import (
    AddUsage,
    AppendAudit,
    AppendEvents,
    AppendMessages,
    ApprovalRow,
    AuditRow,
    CreateSession,
    DeleteSession,
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
    StoredResponseRow,
    TrimEvents,
    UsageRow,
    Write,
)

_ROWS = 500
"""What a commit removes beside its own work, at most."""


def commit(connection: WritingConnection, writes: Sequence[Write], fence: Lease | None) -> None:
    """Carry out the writes. Raises SessionTaken, FenceLost or ValueError as `Store.commit` does."""
    commit = _Commit(connection)
    if fence:
        commit.check(fence)
    for write in writes:
        commit.write(write)


def size(writes: Sequence[Write]) -> int:
    """About how many bytes the writes put into the file."""
    total = 0
    for write in writes:
        match write:
            case AppendEvents(_, events):
                total += sum(len(event.data) for event in events)
            case AppendMessages(_, messages):
                total += sum(len(message.content) for message in messages)
            case PutRequest(_, row):
                total += len(row.text)
            case CreateSession(row):
                total += len(row.settings)
            case _:
                pass
    return total


def acquire(connection: WritingConnection, key: SessionKey, owner: str, alive: Collection[str]) -> Lease:
    """Give the session to the owner, if nobody has it who is alive. Raises KeyError or SessionHeld."""
    connection.journal.flush(connection, key)
    found = connection.execute(
        "SELECT pk, owner FROM sessions LEFT JOIN leases ON session = pk WHERE tenant = ? AND session_id = ?",
        (key.tenant, key.session_id),
    ).fetchone()
    if found is None:
        raise KeyError(key)
    pk, holder = found
    if holder != owner and holder in alive:
        raise OwnedElsewhere(f"{holder} has session {key.session_id!r}")
    token = connection.execute("REPLACE INTO leases (session, owner) VALUES (?, ?)", (pk, owner)).lastrowid
    assert token is not None
    return Lease(key, token)


def release(connection: WritingConnection, fence: Lease) -> None:
    """Let the session go, if it is still this fence's."""
    connection.journal.flush(connection, fence.key)
    connection.execute(
        "DELETE FROM leases WHERE token = ? AND session = (SELECT pk FROM sessions WHERE tenant = ? AND session_id = ?)",
        (fence.token, fence.key.tenant, fence.key.session_id),
    )


def check_health(connection: WritingConnection) -> None:
    """Write something."""
    connection.execute("UPDATE pulse SET beat = beat + 1")


def forget_responses(connection: WritingConnection, before: int) -> bool:
    """Remove some answers given before then; return whether there may be more."""
    removed = connection.execute(
        "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers WHERE at < ? LIMIT ?)", (before, _ROWS)
    ).rowcount
    return removed == _ROWS


class _Commit:
    """The writes of one commit, one by one."""

    def __init__(self, connection: WritingConnection) -> None:
        self._connection = connection
        self._pks: dict[SessionKey, int] = {}

    def check(self, fence: Lease) -> None:
        found = self._connection.execute(
            "SELECT pk FROM sessions JOIN leases ON session = pk WHERE tenant = ? AND session_id = ? AND token = ?",
            (fence.key.tenant, fence.key.session_id, fence.token),
        ).fetchone()
        if found is None:
            raise LeaseLost(f"session {fence.key.session_id!r} has another owner, or none")
        self._know(fence.key, found[0])

    def write(self, write: Write) -> None:
        match write:
            case CreateSession(row):
                self._create(row)
            case PutSession(row):
                self._put_session(self._pk(row.key), row)
            case MarkDelivered(key, seq):
                self._connection.execute(
                    "UPDATE sessions SET served = ?1 WHERE tenant = ?2 AND session_id = ?3 AND served < ?1",
                    (seq, key.tenant, key.session_id),
                )
            case DeleteSession(key):
                self._delete(key)
            case AddUsage(row):
                self._add_usage(row)
            case PutResponse(row):
                self._put_response(row)
            case AppendAudit(row):
                self._append_audit(row)
            case _:
                self._write_within(self._pk(write.key), write)

    def _write_within(
        self,
        pk: int,
        write: (
            AppendEvents | TrimEvents | AppendMessages | PutRequest | PutApproval | PutQuestion | PutTool | RemoveTool
        ),
    ) -> None:
        match write:
            case AppendEvents():
                self._append_events(pk, write)
            case TrimEvents(_, before):
                self._trim(pk, before)
            case AppendMessages(_, messages):
                (n,) = self._connection.execute(
                    "SELECT ifnull(max(n) + 1, 0) FROM messages WHERE session = ?", (pk,)
                ).fetchone()
                self._connection.executemany(
                    "INSERT INTO messages (session, n, data) VALUES (?, ?, ?)",
                    [(pk, number, dumps(message.wire())) for number, message in enumerate(messages, start=n)],
                )
            case PutRequest(key, row):
                try:
                    self._put_request(pk, row)
                except sqlite3.IntegrityError:
                    raise ValueError(f"position {row.position} of session {key.session_id!r} is taken") from None
            case PutApproval(_, row):
                self._put_approval(pk, row)
            case PutQuestion(_, row):
                self._put_question(pk, row)
            case PutTool(_, row):
                self._connection.execute(
                    "INSERT INTO tools (session, name, definition) VALUES (?, ?, ?)"
                    " ON CONFLICT (session, name) DO UPDATE SET definition = excluded.definition",
                    (pk, row.name, row.definition),
                )
            case RemoveTool(_, name):
                self._connection.execute("DELETE FROM tools WHERE session = ? AND name = ?", (pk, name))
            case _:
                assert_never(write)

    def _pk(self, key: SessionKey) -> int:
        if key not in self._pks:
            found = self._connection.execute(
                "SELECT pk FROM sessions WHERE tenant = ? AND session_id = ?", (key.tenant, key.session_id)
            ).fetchone()
            if found is None:
                raise LeaseLost(f"there is no session {key.session_id!r}")
            self._know(key, found[0])
        return self._pks[key]

    def _know(self, key: SessionKey, pk: int) -> None:
        self._connection.journal.flush(self._connection, key)
        self._pks[key] = pk

    # -- the session itself --------------------------------------------------------------------------------------------

    def _create(self, row: SessionRow) -> None:
        key = row.key
        try:
            pk = self._connection.execute(
                "INSERT INTO sessions (tenant, session_id, epoch, created_at, state, turns, tool_calls, prompts,"
                " prompt_tokens, completion_tokens, cost_usd, served) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key.tenant, key.session_id, row.epoch, row.created_at, *_progress(row), row.delivered_seq),
            ).lastrowid
        except sqlite3.IntegrityError:
            raise SessionAlreadyExists(f"session {key.session_id!r} exists") from None
        self._connection.execute("INSERT INTO settings (session, data) VALUES (?, ?)", (pk, row.settings))

    def _put_session(self, pk: int, row: SessionRow) -> None:
        self._connection.execute(
            "UPDATE sessions SET state = ?, turns = ?, tool_calls = ?, prompts = ?, prompt_tokens = ?,"
            " completion_tokens = ?, cost_usd = ?, served = max(served, ?) WHERE pk = ?",
            (*_progress(row), row.delivered_seq, pk),
        )

    def _delete(self, key: SessionKey) -> None:
        pk = self._pk(key)
        del self._pks[key]
        self._connection.may_have_leavings = True
        self._connection.execute("DELETE FROM sessions WHERE pk = ?", (pk,))
        self._connection.execute("INSERT INTO leavings (session) VALUES (?)", (pk,))

    # -- what belongs to it --------------------------------------------------------------------------------------------

    def _append_events(self, pk: int, write: AppendEvents) -> None:
        epoch, last_seq = self._connection.execute(
            "SELECT epoch, max(trimmed, ifnull((SELECT max(seq) FROM events WHERE session = pk), 0))"
            " FROM sessions WHERE pk = ?",
            (pk,),
        ).fetchone()
        write.must_follow(epoch, last_seq)
        insert_events(self._connection, [(pk, write.events)])

    def _trim(self, pk: int, before: int) -> None:
        # The log ends where it ended, also when nothing of it is kept.
        self._connection.execute(
            "UPDATE sessions SET trimmed = max(trimmed, min(?1 - 1, ifnull("
            "(SELECT max(seq) FROM events WHERE session = pk), 0))) WHERE pk = ?2",
            (before, pk),
        )
        # Readers see none of them from now on. Those beyond the limit, or in a row with others that are kept, are
        # removed by the next trims.
        self._connection.execute(
            "DELETE FROM events WHERE session = ?1 AND seq IN (SELECT seq FROM events WHERE session = ?1"
            " AND seq <= (SELECT trimmed FROM sessions WHERE pk = ?1) ORDER BY seq LIMIT ?2)",
            (pk, _ROWS),
        )

    def _put_request(self, pk: int, row: RequestRow) -> None:
        values = (
            row.position,
            row.key_id,
            row.text,
            row.status,
            row.first_seq,
            row.last_seq,
            row.steps,
            row.calls,
            row.usage.prompt_tokens,
            row.usage.completion_tokens,
            row.cost_usd,
            pk,
            row.request_id,
        )
        # Not an upsert: of two unique columns it would not say which one is taken.
        updated = self._connection.execute(
            "UPDATE requests SET position = ?, key_id = ?, text = ?, status = ?, first_seq = ?, last_seq = ?, steps = ?,"
            " calls = ?, prompt_tokens = ?, completion_tokens = ?, cost_usd = ? WHERE session = ? AND request_id = ?",
            values,
        ).rowcount
        if not updated:
            self._connection.execute(
                "INSERT INTO requests (position, key_id, text, status, first_seq, last_seq, steps, calls, prompt_tokens,"
                " completion_tokens, cost_usd, session, request_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    def _put_approval(self, pk: int, row: ApprovalRow) -> None:
        self._connection.execute(
            "INSERT INTO approvals (session, approval_id, request_id, call_id, tool_name, args, digest, hint,"
            " requested_at, expires_at, status, decision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (session, approval_id) DO UPDATE SET request_id = excluded.request_id,"
            " call_id = excluded.call_id, tool_name = excluded.tool_name, args = excluded.args,"
            " digest = excluded.digest, hint = excluded.hint, requested_at = excluded.requested_at,"
            " expires_at = excluded.expires_at, status = excluded.status, decision = excluded.decision",
            (
                pk,
                row.approval_id,
                row.request_id,
                row.call_id,
                row.tool_name,
                row.args,
                row.digest,
                row.hint,
                row.requested_at,
                row.expires_at,
                row.status,
                row.decision,
            ),
        )

    def _put_question(self, pk: int, row: QuestionRow) -> None:
        options = None if row.options is None else dumps(row.options)
        self._connection.execute(
            "INSERT INTO questions (session, ref, request_id, call_id, question, options, status, response)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (session, ref) DO UPDATE SET request_id = excluded.request_id, call_id = excluded.call_id,"
            " question = excluded.question, options = excluded.options, status = excluded.status,"
            " response = excluded.response",
            (pk, row.ref, row.request_id, row.call_id, row.question, options, row.status, row.response),
        )

    # -- what belongs to the tenant ------------------------------------------------------------------------------------

    def _add_usage(self, row: UsageRow) -> None:
        self._connection.execute(
            "INSERT INTO usage (tenant, key_id, day, prompts, prompt_tokens, completion_tokens, cost_usd)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (tenant, key_id, day) DO UPDATE SET prompts = prompts + excluded.prompts,"
            " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " completion_tokens = completion_tokens + excluded.completion_tokens,"
            " cost_usd = cost_usd + excluded.cost_usd",
            (
                row.tenant,
                row.key_id,
                row.day,
                row.prompts,
                row.usage.prompt_tokens,
                row.usage.completion_tokens,
                row.cost_usd,
            ),
        )

    def _put_response(self, row: StoredResponseRow) -> None:
        self._connection.execute(
            "REPLACE INTO answers (tenant, route, idempotency_key, fingerprint, status, body, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.tenant, row.route, row.idempotency_key, row.fingerprint, row.status, row.body, row.at),
        )

    def _append_audit(self, row: AuditRow) -> None:
        self._connection.execute(
            "INSERT INTO trail (at, tenant, session_id, key_id, action, subject, digest, detail)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row.at, row.tenant, row.session_id, row.key_id, row.action, row.subject, row.digest, row.detail),
        )


def _progress(row: SessionRow) -> tuple[str, int, int, int, int, int, float]:
    """The columns that change as the session goes on, from `state` to `cost_usd`."""
    return (
        row.state,
        row.turns,
        row.tool_calls,
        row.prompts,
        row.usage.prompt_tokens,
        row.usage.completion_tokens,
        row.cost_usd,
    )
