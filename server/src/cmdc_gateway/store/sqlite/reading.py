"""What is read, as SQL."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, get_args

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message, Role, TokenUsage
from cmdc_gateway.store.sqlite.packing import unpack
from cmdc_gateway.store.store import (
    ApprovalRow,
    AuditRow,
    QuestionRow,
    RequestRow,
    SessionKey,
    SessionRow,
    SessionState,
    StoredResponseRow,
    StoredSession,
    StoredStateDamaged,
    ToolRow,
    UsageRow,
)

_LAST = (1 << 63) - 1
"""The largest number SQLite has. A reader may ask for what comes after a larger one."""

_ROLES = get_args(Role)

_SESSION = (
    "SELECT tenant, session_id, epoch, created_at, data, state, turns, tool_calls, prompts, prompt_tokens,"
    " completion_tokens, cost_usd, served FROM sessions JOIN settings ON session = pk"
)
_REQUEST = (
    "SELECT request_id, position, key_id, text, status, first_seq, last_seq, steps, calls, prompt_tokens,"
    " completion_tokens, cost_usd FROM requests"
)
_APPROVAL = (
    "SELECT approval_id, request_id, call_id, tool_name, args, digest, hint, requested_at, expires_at, status, decision"
    " FROM approvals"
)
_QUESTION = "SELECT ref, request_id, call_id, question, options, status, response FROM questions"
_LAST_POSITION = "SELECT ifnull(max(position), 0) FROM requests"
_MESSAGES = "SELECT n, data FROM messages"
_TOOL = "SELECT name, definition FROM tools"
_IN_SESSION = "WHERE session = (SELECT pk FROM sessions WHERE tenant = ? AND session_id = ?)"


class Snapshot:
    """The file as it was at one moment. Each method reads what that of the same name in `Store` promises.

    `newest`, where it is asked for, is what was in the journal a moment before: what the file lacks is taken from it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def load(self, key: SessionKey, newest: Sequence[LoggedEvent]) -> StoredSession | None:
        """Everything about a session. Raises StoredStateDamaged."""
        row, log = self.session(key), self.log_bounds(key, newest)
        if row is None or log is None:
            return None
        where = (key.tenant, key.session_id)
        unfinished = self._connection.execute(f"{_REQUEST} {_IN_SESSION} AND status <> 'done'", where).fetchall()
        newest_done = self._connection.execute(
            f"{_REQUEST} {_IN_SESSION} AND status = 'done' ORDER BY position DESC LIMIT 1", where
        ).fetchall()
        (last_position,) = self._connection.execute(f"{_LAST_POSITION} {_IN_SESSION}", where).fetchone()
        pending = f"{_IN_SESSION} AND status = 'pending' ORDER BY rowid"
        return StoredSession(
            row=row,
            messages=tuple(self.messages(key, 0, None)),
            requests=tuple(sorted(map(_request, unfinished + newest_done), key=lambda request: request.position)),
            approvals=tuple(ApprovalRow(*found) for found in self._connection.execute(f"{_APPROVAL} {pending}", where)),
            questions=tuple(_question(found) for found in self._connection.execute(f"{_QUESTION} {pending}", where)),
            tools=tuple(
                ToolRow(*found) for found in self._connection.execute(f"{_TOOL} {_IN_SESSION} ORDER BY rowid", where)
            ),
            first_seq=log[1],
            last_seq=log[2],
            last_position=last_position,
        )

    def session(self, key: SessionKey) -> SessionRow | None:
        found = self._connection.execute(
            f"{_SESSION} WHERE tenant = ? AND session_id = ?", (key.tenant, key.session_id)
        ).fetchone()
        return found and _session(found)

    def sessions(
        self,
        tenant: str,
        limit: int,
        before: tuple[int, str] | None,
        state: SessionState | None,
    ) -> list[SessionRow]:
        conditions: list[str] = ["tenant = ?"]
        values: list[str | int] = [tenant]
        if before:
            conditions.append("(created_at, session_id) < (?, ?)")
            values += (min(before[0], _LAST), before[1])
        if state:
            conditions.append("state = ?")
            values.append(state)
        statement = f"{_SESSION} WHERE {' AND '.join(conditions)} ORDER BY created_at DESC, session_id DESC LIMIT ?"
        return [_session(found) for found in self._connection.execute(statement, (*values, limit))]

    def unfinished(self) -> list[SessionKey]:
        statement = (
            "SELECT tenant, session_id FROM sessions WHERE pk IN (SELECT session FROM requests WHERE status <> 'done')"
        )
        return [SessionKey(*found) for found in self._connection.execute(statement)]

    def events(
        self, key: SessionKey, after: int, limit: int, max_bytes: int, newest: Sequence[LoggedEvent]
    ) -> list[LoggedEvent]:
        rows = self._connection.execute(
            "SELECT trimmed, epoch, seq, name, at, data, count FROM sessions JOIN events ON session = pk"
            " WHERE tenant = ? AND session_id = ? AND seq > max(trimmed, ?) ORDER BY seq LIMIT ?",
            (key.tenant, key.session_id, min(after, _LAST), limit),
        )
        found: list[LoggedEvent] = []
        for event in chain(_events(rows), self._newest(key, newest)):
            if event.seq <= after:
                continue
            max_bytes -= len(event.data)
            if len(found) >= limit or (found and max_bytes < 0):
                break
            found.append(event)
            after = event.seq
        return found

    def log_bounds(self, key: SessionKey, newest: Sequence[LoggedEvent]) -> tuple[str, int, int] | None:
        found: tuple[str, int, int] | None = self._connection.execute(
            "SELECT epoch, trimmed + 1, max(trimmed, ifnull((SELECT max(seq) FROM events WHERE session = pk), 0))"
            " FROM sessions WHERE tenant = ? AND session_id = ?",
            (key.tenant, key.session_id),
        ).fetchone()
        if found is None or not newest or newest[0].epoch != found[0]:
            return found
        epoch, first_seq, last_seq = found
        return epoch, first_seq, max(last_seq, newest[-1].seq)

    def _newest(self, key: SessionKey, newest: Sequence[LoggedEvent]) -> Iterator[LoggedEvent]:
        """Those of these events that are of this session's log as it is now."""
        edges = self.log_bounds(key, newest) if newest else None
        if edges is not None:
            epoch, first_seq, _ = edges
            yield from (event for event in newest if event.epoch == epoch and event.seq >= first_seq)

    def messages(self, key: SessionKey, after: int, limit: int | None) -> list[Message]:
        rows = self._connection.execute(
            f"{_MESSAGES} {_IN_SESSION} AND n >= ? ORDER BY n LIMIT ?",
            (key.tenant, key.session_id, min(after, _LAST), -1 if limit is None else limit),
        )
        return [_message(key, n, data) for n, data in rows]

    def request(self, key: SessionKey, request_id: str) -> RequestRow | None:
        found = self._connection.execute(
            f"{_REQUEST} {_IN_SESSION} AND request_id = ?", (key.tenant, key.session_id, request_id)
        ).fetchone()
        return found and _request(found)

    def approval(self, key: SessionKey, approval_id: str) -> ApprovalRow | None:
        found = self._connection.execute(
            f"{_APPROVAL} {_IN_SESSION} AND approval_id = ?", (key.tenant, key.session_id, approval_id)
        ).fetchone()
        return found and ApprovalRow(*found)

    def question(self, key: SessionKey, ref: str) -> QuestionRow | None:
        found = self._connection.execute(
            f"{_QUESTION} {_IN_SESSION} AND ref = ?", (key.tenant, key.session_id, ref)
        ).fetchone()
        return found and _question(found)

    def tool(self, key: SessionKey, name: str) -> ToolRow | None:
        found = self._connection.execute(
            f"{_TOOL} {_IN_SESSION} AND name = ?", (key.tenant, key.session_id, name)
        ).fetchone()
        return found and ToolRow(*found)

    def usage(self, tenant: str) -> list[UsageRow]:
        rows = self._connection.execute(
            "SELECT key_id, day, prompts, prompt_tokens, completion_tokens, cost_usd FROM usage WHERE tenant = ?"
            " ORDER BY key_id, day",
            (tenant,),
        )
        return [
            UsageRow(tenant, key_id, day, prompts, TokenUsage(read, written), cost_usd)
            for key_id, day, prompts, read, written, cost_usd in rows
        ]

    def tracked_keys(self) -> int:
        (count,) = self._connection.execute(
            "SELECT count(*) FROM (SELECT DISTINCT tenant, key_id FROM usage)"
        ).fetchone()
        return count

    def response(self, tenant: str, route: str, idempotency_key: str) -> StoredResponseRow | None:
        found = self._connection.execute(
            "SELECT tenant, route, idempotency_key, fingerprint, status, body, at FROM answers"
            " WHERE tenant = ? AND route = ? AND idempotency_key = ?",
            (tenant, route, idempotency_key),
        ).fetchone()
        return found and StoredResponseRow(*found)

    def audit(self, after: int, limit: int) -> list[tuple[int, AuditRow]]:
        rows = self._connection.execute(
            "SELECT n, at, tenant, session_id, key_id, action, subject, digest, detail FROM trail"
            " WHERE n > ? ORDER BY n LIMIT ?",
            (min(after, _LAST), limit),
        )
        return [(n, AuditRow(*row)) for n, *row in rows]


def _events(rows: Iterable[tuple[int, str, int, str, int, bytes, int]]) -> Iterator[LoggedEvent]:
    for trimmed, epoch, seq, name, at, data, count in rows:
        if count == 1:
            yield LoggedEvent(epoch, seq, name, at, data)
        else:
            yield from (event for _, event in unpack(epoch, data) if event.seq > trimmed)


def _session(found: tuple[Any, ...]) -> SessionRow:
    tenant, session_id, epoch, at, settings, state, turns, tool_calls, prompts, read, written, cost_usd, served = found
    usage = TokenUsage(read, written)
    key = SessionKey(tenant, session_id)
    return SessionRow(key, epoch, at, settings, state, turns, tool_calls, prompts, usage, cost_usd, served)


def _request(found: tuple[Any, ...]) -> RequestRow:
    request_id, position, key_id, text, status, first_seq, last_seq, steps, calls, read, written, cost_usd = found
    usage = TokenUsage(read, written)
    return RequestRow(request_id, position, key_id, text, status, first_seq, last_seq, steps, calls, usage, cost_usd)


def _question(found: tuple[Any, ...]) -> QuestionRow:
    ref, request_id, call_id, text, options, status, response = found
    try:
        choices = None if options is None else tuple(json.loads(options))
    except (ValueError, TypeError) as failure:
        raise StoredStateDamaged(f"the options of question {ref!r} cannot be read back") from failure
    return QuestionRow(ref, request_id, call_id, text, choices, status, response)


def _message(key: SessionKey, n: int, data: bytes) -> Message:
    damaged = StoredStateDamaged(f"message {n} of session {key.session_id!r} cannot be read back")
    try:
        message = Message.from_wire(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise damaged from failure
    if message.role not in _ROLES:
        raise damaged
    return message
