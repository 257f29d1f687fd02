"""The approvals of each session."""

from __future__ import annotations

import sqlite3

from cmdc_gateway.store.rows import ApprovalRow, SessionKey
from cmdc_gateway.store.sqlite.tables.sessions import OF_SESSION

_SELECT = (
    "SELECT approval_id, request_id, call_id, tool_name, args, digest, hint, requested_at, expires_at, status, decision"
    " FROM approvals"
)


def put(connection: sqlite3.Connection, pk: int, row: ApprovalRow) -> None:
    """Insert or replace an approval."""
    connection.execute(
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


def find(connection: sqlite3.Connection, key: SessionKey, approval_id: str) -> ApprovalRow | None:
    """The approval with this id."""
    found = connection.execute(
        f"{_SELECT} {OF_SESSION} AND approval_id = ?", (key.tenant, key.session_id, approval_id)
    ).fetchone()
    return found and ApprovalRow(*found)


def find_pending(connection: sqlite3.Connection, key: SessionKey) -> tuple[ApprovalRow, ...]:
    """The pending approvals, in the order in which they were first put."""
    rows = connection.execute(
        f"{_SELECT} {OF_SESSION} AND status = 'pending' ORDER BY rowid", (key.tenant, key.session_id)
    )
    return tuple(ApprovalRow(*found) for found in rows)
