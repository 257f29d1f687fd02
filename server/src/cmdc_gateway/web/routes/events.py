"""The event log as a stream, in pages, and over a WebSocket (SSE-1, SSE-11, WS-1)."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from cmdc_gateway.errors import BadRequest, CursorExpired, RequestNotFound, SessionDead, Unavailable, UpgradeRequired
from cmdc_gateway.protocol.events import EVENT_NAMES, EVENT_TYPES
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.web.dependencies import KeyDep, PrincipalDep, QueryModel, WholeNumber, query_of
from cmdc_gateway.web.responses import json_response
from cmdc_gateway.web.routes.sessions import GONE
from cmdc_gateway.web.routing import Operation, RouteGroup
from cmdc_gateway.web.schema.components import stream_or_page
from cmdc_gateway.web.serializers import event_page, prefers_json
from cmdc_gateway.web.state import GatewayDep
from cmdc_gateway.web.streaming.cursors import page_position, position
from cmdc_gateway.web.streaming.sse import EventStream, Selection
from cmdc_gateway.web.streaming.websocket import SocketQuery

routes = RouteGroup("/v1/sessions/{session_id}", tag="events")

_DEFAULT_PAGE = 500


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


@routes.route(
    "GET",
    "/events",
    Operation(
        "Read events",
        None,
        query=EventsQuery,
        headers=("Last-Event-ID",),
        errors=(*GONE, "invalid_cursor", "cursor_expired"),
        stream="sse",
        features=("cursors", "event_pages", "event_types", "follow", "request_events"),
        more_responses={200: stream_or_page()},
    ),
)
async def read_events(
    request: Request,
    gateway: GatewayDep,
    principal: PrincipalDep,
    key: KeyDep,
    query: Annotated[EventsQuery, query_of(EventsQuery)],
) -> Response:
    """Stream the session's events (SSE), or get the log in pages (`Accept: application/json`). Resumable at any event."""
    types = _types(query.types)
    log, session = await gateway.registry.log_of(key)
    cursor = request.headers.get("last-event-id") or query.after
    paged = prefers_json(request.headers.get("accept", ""))
    _check_combination(query, paged=paged)
    if paged:
        return json_response(await event_page(log, page_position(log, cursor), query.limit or _DEFAULT_PAGE, types))
    if gateway.connections.draining:
        raise Unavailable("the server is stopping", retry_after=5)
    selection = await _selection(key, log, session, cursor, query, types=types)
    return EventStream(
        selection,
        log,
        session,
        heartbeats=gateway.heartbeats,
        connections=gateway.connections,
        key_id=principal.key_id,
    )


@routes.route(
    "GET",
    "/ws",
    Operation(
        "Open a WebSocket",
        None,
        status=426,
        query=SocketQuery,
        errors=(*GONE, "invalid_cursor", "cursor_expired", "forbidden", "upgrade_required"),
        stream="websocket",
        features=("ws_action_id", "ws_after"),
        more_responses={101: {"description": "The connection was upgraded to a WebSocket."}},
    ),
)
async def open_socket(_: KeyDep, __: Annotated[SocketQuery, query_of(SocketQuery)]) -> Response:
    """Open a WebSocket that carries events and actions; see `/asyncapi.json`. A request without an upgrade gets 426."""
    raise UpgradeRequired


async def _selection(
    key: SessionKey,
    log: EventLog,
    session: Session | None,
    cursor: str | None,
    query: EventsQuery,
    *,
    types: frozenset[str] | None,
) -> Selection:
    after = position(log, cursor) if cursor is not None else None
    if query.request_id is not None:
        if session is None:
            raise SessionDead(key.session_id)
        row = await session.request(query.request_id)
        if row is None:
            raise RequestNotFound(query.request_id)
        if row.first_seq and row.first_seq < log.first_seq:
            raise CursorExpired(f"{log.epoch}.{row.first_seq - 1}", str(log.earliest), str(log.end))
        return Selection(after or 0, request_id=query.request_id, types=types)
    if after is None:
        after = session.start_position() if session is not None else log.earliest.seq
    return Selection(after, follow=query.follow == "true", types=types)


def _check_combination(query: EventsQuery, *, paged: bool) -> None:
    """Reject parameters that would have no effect (HTTP-3). Raises BadRequest."""
    if paged and (query.request_id is not None or query.follow == "true"):
        raise BadRequest("requestId and follow apply to streams, but the Accept header prefers application/json")
    if not paged and query.limit is not None:
        raise BadRequest(
            "limit applies to pages; request them with `Accept: application/json`",
            [("limit", "does not apply to streams")],
        )
    if query.request_id is not None and query.follow == "true":
        raise BadRequest("follow=true cannot be combined with requestId, which selects one run")


def _types(listed: str | None) -> frozenset[str] | None:
    """Return the event names of a comma-separated list, None for all. Raises BadRequest."""
    if listed is None:
        return None
    types = frozenset(listed.split(","))
    unknown = sorted(types - EVENT_NAMES)
    if unknown:
        raise BadRequest(f"types: unknown event {unknown[0][:60]!r}", [("types", "names an unknown event")])
    return types
