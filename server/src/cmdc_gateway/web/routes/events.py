"""The event log as a stream, in pages, and over a WebSocket (SSE-1, SSE-11, WS-1)."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from cmdc_gateway.errors import BadRequest, CursorExpired, RequestNotFound, SessionDead, Unavailable, UpgradeRequired
from cmdc_gateway.protocol.events import EVENT_NAMES, EVENT_TYPES
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.store.store import SessionKey
from cmdc_gateway.web.dependencies import KeyDep, PrincipalDep, QueryModel, WholeNumber, query
from cmdc_gateway.web.routes.sessions import GONE
from cmdc_gateway.web.schema.components import stream_or_page
from cmdc_gateway.web.schema.operations import operation
from cmdc_gateway.web.serializers import event_page, prefers_json
from cmdc_gateway.web.state import GatewayDep, json_answer
from cmdc_gateway.web.streaming.cursors import page_position, position
from cmdc_gateway.web.streaming.sse import EventStream, Selection
from cmdc_gateway.web.streaming.websocket import SocketQuery

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["events"])

_PAGE = 500


class EventsQuery(QueryModel):
    """Query parameters of the event log."""

    after: str | None = Field(
        None, description="A cursor, `start` or `latest`. The header `Last-Event-ID` takes precedence."
    )
    follow: Literal["true", "false"] | None = Field(None, description="`true` keeps the stream open across runs.")
    request_id: str | None = Field(None, description="Only events of this run.")
    types: str | None = Field(
        None,
        description="Only events of these types, comma-separated.",
        json_schema_extra={"type": "array", "items": {"enum": [kind.name for kind in EVENT_TYPES]}},
    )
    limit: WholeNumber | None = Field(
        None, ge=1, le=5000, description="Page size; only with `Accept: application/json`."
    )
    ticket: str | None = Field(None, description="A ticket in place of a key, for browsers.")


@router.get(
    "/events",
    **operation(
        "Read events",
        None,
        takes=EventsQuery,
        headers=("Last-Event-ID",),
        errors=(*GONE, "invalid_cursor", "cursor_expired"),
        more={200: stream_or_page()},
    ),
)
async def read_events(
    request: Request,
    gateway: GatewayDep,
    caller: PrincipalDep,
    key: KeyDep,
    sent: Annotated[EventsQuery, Depends(query(EventsQuery))],
) -> Response:
    """Stream the session's events (SSE), or get the log in pages (`Accept: application/json`). Resumable at any event."""
    types = _types(sent.types)
    log, session = await gateway.registry.log_of(key)
    cursor = request.headers.get("last-event-id") or sent.after
    paged = prefers_json(request.headers.get("accept", ""))
    _check_together(sent, paged=paged)
    if paged:
        return json_answer(await event_page(log, page_position(log, cursor), sent.limit or _PAGE, types))
    if gateway.connections.draining:
        raise Unavailable("the server is stopping", retry_after=5)
    selection = await _selection(key, log, session, cursor, sent, types=types)
    return EventStream(
        selection, log, session, pulse=gateway.heartbeats, connections=gateway.connections, key_id=caller.key_id
    )


@router.get(
    "/ws",
    **operation(
        "Open a WebSocket",
        None,
        status=426,
        takes=SocketQuery,
        errors=(*GONE, "invalid_cursor", "cursor_expired", "forbidden", "upgrade_required"),
        more={101: {"description": "The connection was upgraded to a WebSocket."}},
    ),
)
async def open_socket(_: KeyDep, __: Annotated[SocketQuery, Depends(query(SocketQuery))]) -> Response:
    """Open a WebSocket that carries events and actions; see `/asyncapi.json`. A request without an upgrade gets 426."""
    raise UpgradeRequired


async def _selection(
    key: SessionKey,
    log: EventLog,
    session: Session | None,
    cursor: str | None,
    sent: EventsQuery,
    *,
    types: frozenset[str] | None,
) -> Selection:
    after = position(log, cursor) if cursor is not None else None
    if sent.request_id is not None:
        if session is None:
            raise SessionDead(key.session_id)
        row = await session.request(sent.request_id)
        if row is None:
            raise RequestNotFound(sent.request_id)
        if row.first_seq and row.first_seq < log.first_seq:
            raise CursorExpired(f"{log.epoch}.{row.first_seq - 1}", str(log.earliest), str(log.end))
        return Selection(after or 0, request_id=sent.request_id, types=types)
    if after is None:
        after = session.start_position() if session is not None else log.earliest.seq
    return Selection(after, follow=sent.follow == "true", types=types)


def _check_together(sent: EventsQuery, *, paged: bool) -> None:
    """Refuse what would not be heeded (HTTP-3)."""
    if paged and (sent.request_id is not None or sent.follow == "true"):
        raise BadRequest("requestId and follow are for a stream, and JSON is asked for")
    if not paged and sent.limit is not None:
        raise BadRequest(
            "limit is for pages: ask for them with `Accept: application/json`", [("limit", "not for a stream")]
        )
    if sent.request_id is not None and sent.follow == "true":
        raise BadRequest("follow cannot go on where requestId asks for one run")


def _types(listed: str | None) -> frozenset[str] | None:
    if listed is None:
        return None
    types = frozenset(listed.split(","))
    unknown = sorted(types - EVENT_NAMES)
    if unknown:
        raise BadRequest(f"types: there is no event {unknown[0][:60]!r}", [("types", "names an unknown event")])
    return types
