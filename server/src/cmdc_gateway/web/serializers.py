"""JSON of responses, from sessions and stored rows."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Any

from cmdc_gateway.errors import InvalidCursor
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.protocol.sessions import (
    KeyUsage,
    PendingApproval,
    PendingQuestion,
    QueuedPrompt,
    SessionInfo,
    SessionList,
    SessionState,
    SessionStats,
    SessionSummary,
    TenantUsage,
    TokenCounts,
    UsageFigures,
)
from cmdc_gateway.protocol.tools import ToolEntry, ToolList
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.sessions.settings import NewerSettings, SessionSettings
from cmdc_gateway.sessions.state import SessionSnapshot
from cmdc_gateway.sessions.toolset import BoundTool
from cmdc_gateway.store.rows import ApprovalRow, QuestionRow, SessionKey, SessionRow, UsageRow
from cmdc_gateway.store.store import Store

_DEFAULT_PAGE = 100
_NO_UPTIME = b'"uptimeMs":0,'


def session_info(session: Session, now: int) -> bytes:
    """Return the body of `GET /v1/sessions/{id}`. It is rendered once per change; only the uptime differs each time.

    `now` is in ms since 1970.
    """
    snapshot, end, rendered = session.snapshot, session.log.last_seq, session.rendered
    if rendered is None or rendered[0] is not snapshot or rendered[1] != end:
        rendered = session.rendered = snapshot, end, _session_info(session, snapshot)
    # Only the first match: values that the client chose come later, except the id, which cannot contain quotes.
    return rendered[2].replace(_NO_UPTIME, b'"uptimeMs":%d,' % max(0, now - snapshot.row.created_at), 1)


def _session_info(session: Session, snapshot: SessionSnapshot) -> bytes:
    settings, row = session.settings, snapshot.row
    return SessionInfo(
        session_id=row.key.session_id,
        state=row.state,
        turns=row.turns,
        tool_calls=row.tool_calls,
        total_tokens=row.usage.total_tokens,
        uptime_ms=0,
        model=settings.model,
        created_at=row.created_at,
        metadata=settings.metadata,
        queue=[QueuedPrompt(request_id=queued.request_id, text=queued.text) for queued in snapshot.queue],
        pending_approvals=[_approval(row) for row in snapshot.approvals],
        pending_questions=[_question(row) for row in snapshot.questions],
        cursor=str(session.log.end),
    ).encode()


def session_stats(session: Session) -> bytes:
    """Return the body of `GET /v1/sessions/{id}/stats`."""
    row = session.snapshot.row
    return SessionStats(
        session_id=row.key.session_id,
        turns=row.turns,
        total_tokens=row.usage.total_tokens,
        cost_usd=row.cost_usd,
        prompt_count=row.prompts,
        token_usage=_counts(row.usage),
    ).encode()


async def session_list(
    store: Store, tenant: str, limit: int | None, cursor: str | None, state: SessionState | None
) -> bytes:
    """Return a page of a tenant's sessions, newest first. Raises InvalidCursor."""
    before = _list_position(cursor) if cursor is not None else None
    size = limit or _DEFAULT_PAGE
    rows = await store.sessions(tenant, limit=size + 1, before=before, state=state)
    page = rows[:size]
    last = f"{page[-1].created_at}:{page[-1].key.session_id}" if len(rows) > size else None
    return SessionList(
        sessions=[_summary(row) for row in page],
        next_cursor=urlsafe_b64encode(last.encode()).decode().rstrip("=") if last else None,
    ).encode()


async def message_list(store: Store, key: SessionKey, limit: int | None, cursor: str | None) -> bytes:
    """Return all messages, or a page with `nextCursor` if a limit or cursor is given. Raises InvalidCursor."""
    if limit is None and cursor is None:
        messages = await store.messages(key)
        return dumps({"sessionId": key.session_id, "messages": [message.wire() for message in messages]})
    if cursor is not None and not re.fullmatch(r"[0-9]{1,12}", cursor, re.ASCII):
        raise InvalidCursor(f"{cursor[:80]!r} is not a cursor of this list")
    after, size = int(cursor or 0), limit or _DEFAULT_PAGE
    messages = await store.messages(key, after, size + 1)
    next_cursor = str(after + size) if len(messages) > size else None
    page = [message.wire() for message in messages[:size]]
    return dumps({"sessionId": key.session_id, "messages": page, "nextCursor": next_cursor})


async def tenant_usage(store: Store, tenant: str) -> bytes:
    """Return the body of `GET /v1/usage`: the figures of a tenant and of each of its keys."""
    rows = await store.usage(tenant)
    keys = sorted({row.key_id for row in rows})
    return TenantUsage(
        tenant=tenant,
        total=UsageFigures(**_figures(rows)),
        keys=[KeyUsage(key_id=key, **_figures(row for row in rows if row.key_id == key)) for key in keys],
    ).encode()


def tool_list(session: Session) -> bytes:
    """Return the body of `GET /v1/sessions/{id}/tools`."""
    toolset = session.toolset
    entries = [
        _tool(tool, requires_approval=toolset.requires_approval(tool.spec.name)) for tool in toolset.bound_tools()
    ]
    return ToolList(tools=entries).encode()


async def event_page(log: EventLog, after: int, limit: int, types: frozenset[str] | None) -> bytes:
    """Return a page of the log (SSE-11). `next` is the cursor of the last event examined, selected or not."""
    entries: list[bytes] = []
    at = after
    while at < log.last_seq and len(entries) < limit:
        events = await log.read(at)
        if not events:
            break
        for event in events:
            at = event.seq
            if types is None or event.name in types:
                entries.append(event.entry)
            if len(entries) == limit:
                break
    bounds = f'"next":"{log.epoch}.{at}","earliest":"{log.earliest}","latest":"{log.end}"'.encode()
    return b'{"events":[%b],%b}' % (b",".join(entries), bounds)


def prefers_json(accept: str) -> bool:
    """Return whether an Accept header prefers JSON, the page, over the event stream."""
    weights = {"application/json": 0.0, "text/event-stream": 0.0}
    for part in accept.split(","):
        kind, _, parameters = part.strip().lower().partition(";")
        if kind.strip() in weights:
            found = re.search(r"q=([01](?:\.[0-9]{0,3})?)", parameters)
            weights[kind.strip()] = float(found[1]) if found else 1.0
    return weights["application/json"] > weights["text/event-stream"]


def _approval(row: ApprovalRow) -> PendingApproval:
    return PendingApproval(
        approval_id=row.approval_id,
        tool_name=row.tool_name,
        args=json.loads(row.args),
        hint=row.hint,
        requested_at=row.requested_at,
        call_id=row.call_id,
        digest=row.digest,
        expires_at=row.expires_at,
        request_id=row.request_id,
    )


def _question(row: QuestionRow) -> PendingQuestion:
    return PendingQuestion(
        ref=row.ref,
        question=row.question,
        options=list(row.options) if row.options is not None else None,
        request_id=row.request_id,
    )


def _summary(row: SessionRow) -> SessionSummary:
    model, metadata = _model_and_metadata(row)
    return SessionSummary(
        session_id=row.key.session_id,
        state=row.state,
        model=model,
        created_at=row.created_at,
        turns=row.turns,
        tool_calls=row.tool_calls,
        total_tokens=row.usage.total_tokens,
        metadata=metadata,
    )


def _model_and_metadata(row: SessionRow) -> tuple[str, dict[str, str]]:
    try:
        settings = SessionSettings.decode(row.settings)
    except (NewerSettings, ValueError, KeyError, TypeError):  # an unreadable session must not break the list
        return "", {}
    return settings.model, settings.metadata


def _list_position(cursor: str) -> tuple[int, str]:
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError:
        text = ""
    found = re.fullmatch(r"([0-9]{1,16}):([A-Za-z0-9_-]{1,128})", text, re.ASCII)
    if not found:
        raise InvalidCursor(f"{cursor[:80]!r} is not a cursor of this list")
    return int(found[1]), found[2]


def _tool(tool: BoundTool, *, requires_approval: bool) -> ToolEntry:
    spec, definition = tool.spec, tool.definition
    return ToolEntry(
        name=spec.name,
        kind=spec.kind,
        description=spec.description,
        parameters=spec.parameters,
        callback_url=definition.url if definition else None,
        timeout_ms=definition.timeout_ms if definition else None,
        requires_approval=requires_approval,
        idempotent=spec.idempotent,
    )


def _figures(rows: Iterable[UsageRow]) -> dict[str, Any]:
    counted = list(rows)
    usage = sum((row.usage for row in counted), TokenUsage())
    return {
        "prompt_count": sum(row.prompts for row in counted),
        "total_tokens": usage.total_tokens,
        "cost_usd": sum(row.cost_usd for row in counted),
        "token_usage": _counts(usage),
    }


def _counts(usage: TokenUsage) -> TokenCounts:
    return TokenCounts(
        prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, total_tokens=usage.total_tokens
    )
