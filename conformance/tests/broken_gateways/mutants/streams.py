"""Mutants with faulty event streams (SSE)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from cmdc_gateway.errors import BadRequest, CursorExpired, InvalidCursor, RequestNotFound
from cmdc_gateway.protocol import frames
from cmdc_gateway.protocol.events import EVENT_NAMES
from cmdc_gateway.protocol.frames import Cursor
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.web.middleware import authentication
from cmdc_gateway.web.routes import events
from cmdc_gateway.web.streaming import heartbeats, sse

from broken_gateways.mutant import breaks
from broken_gateways.patching import (
    Message,
    Response,
    change_responses,
    change_stream_headers,
    change_streams,
    put_before,
    wrap,
)

# -- SSE-1 … SSE-4 -----------------------------------------------------------------------------------------------------


@breaks("SSE-1.headers")
def cached_stream() -> None:
    """A stream may be cached."""
    change_stream_headers(lambda headers: headers.update({b"cache-control": b"max-age=60"}))


@breaks(
    "SSE-1.at-once",
    "CB-3.refused",
    "CB-3.timeout",
    "DUR-1.tools",
    "EVT-2.failure",
    "EVT-2.terminal",
    "EVT-6",
    "MODEL-retry.cut",
    "MODEL-retry.final",
    "MODEL-retry.transient",
    "SSE-10.nobody-waits",
    "SSE-12.ticket",
    "SSE-2",
    "SSE-3.first",
)
def late_headers() -> None:
    """The headers of a stream are sent with its first event."""

    def wrap_app(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            buffered: list[Message] = []

            async def send_changed(message: Message) -> None:
                if scope["type"] == "http" and scope["path"].endswith("/events"):
                    streams = message["type"] == "http.response.start" and message["status"] == 200
                    is_heartbeat = bool(buffered) and message.get("body", b"").startswith(b":")
                    if streams or is_heartbeat:
                        buffered.append(message)
                        return
                while buffered:
                    await send(buffered.pop(0))
                await send(message)

            await app(scope, receive, send_changed)

        return changed

    put_before(wrap_app)


@breaks("SSE-1.errors", "EP-session.unknown", "HTTP-8.routes", "SSE-8.unknown")
def error_as_a_stream() -> None:
    """An unknown session returns a stream."""

    def change(response: Response) -> None:
        if response.status == 404:
            response.status = 200
            response.headers["content-type"] = "text/event-stream; charset=utf-8"

    change_responses(r"/v1/sessions/[^/]+/events", change)


@breaks(
    "SSE-2",
    "SSE-2.stock",
    "DUR-1.prompts",
    "EP-delete.forgets",
    "EP-prompt.accepted",
    "EP-prompt.cursor",
    "EVT-1.grammar",
    "EVT-2.terminal",
    "EVT-5.same",
    "EVT-7.gapless",
    "HTTP-4.nothing-left",
    "SSE-11.page",
    "SSE-11.paging",
    "SSE-5.active",
    "SSE-5.posted-first",
    "SSE-5.queued",
    "SSE-5.read-before",
    "SSE-6.latest",
    "SSE-7.trimmed",
)
def two_data_lines() -> None:
    """The data of an event is split over two lines."""
    change_streams(lambda chunk: chunk.replace(b'\ndata: {"text"', b'\ndata: {\ndata: "text"'))


@breaks("SSE-2.stock", "SSE-2", "SSE-3.first", "SSE-3.heartbeat", shown_by=["SSE-3.first"])
def heartbeat_is_an_empty_event() -> None:
    """A heartbeat is an event without data instead of a comment."""
    wrap(sse, "HEARTBEAT", lambda _: b"event: heartbeat\n\n")


@breaks(
    *("SSE-2.stock", "SSE-2", "EVT-5.same", "EVT-7.gapless"),
    *("SSE-6.header", "SSE-6.after", "SSE-11.page", "SSE-11.paging"),
)
def ids_lost() -> None:
    """The first event of a message has no id, so a client keeps that of the event before."""
    change_streams(lambda chunk: re.sub(rb"id: [^\n]+\nevent: message_start\n", b"event: message_start\n", chunk))


@breaks("SSE-3.heartbeat", "SSE-10.closed")
def no_heartbeats() -> None:
    """An idle stream receives no heartbeats."""
    wrap(heartbeats.Heartbeats, "_check_all", lambda _: lambda *_: None)


@breaks("SSE-3.first")
def no_first_heartbeat() -> None:
    """A stream does not start with a comment line."""

    def around(original: Any) -> Any:
        async def write(send: Any, chunk: bytes, beat: Any) -> None:
            if chunk == frames.HEARTBEAT and not beat.heartbeat_due:
                return
            await original(send, chunk, beat)

        return write

    wrap(sse, "_write", around)


@breaks("SSE-3.harmless", "SSE-2.stock")
def blank_line_after_a_heartbeat() -> None:
    """A heartbeat is followed by a blank line."""
    wrap(sse, "HEARTBEAT", lambda _: b": heartbeat\n\n")


@breaks("SSE-4.end")
def stream_never_ends() -> None:
    """A stream stays open after the terminal event of its run."""

    def around(original: Any) -> Any:
        def init(self: Any, after: int, **options: Any) -> None:
            plain = options.get("request_id") is None and options.get("types") is None
            follow = options.get("follow", False) or plain
            original(self, after, **{**options, "follow": follow})

        return init

    wrap(sse.Selection, "__init__", around)


@breaks("SSE-4.follow")
def follow_ignored() -> None:
    """?follow=true is accepted and ignored."""

    def around(original: Any) -> Any:
        return lambda self, after, **options: original(self, after, **{**options, "follow": False})

    wrap(sse.Selection, "__init__", around)


# -- SSE-5 -------------------------------------------------------------------------------------------------------------


def _start(change: Any) -> None:
    """Change where a reader without a cursor starts."""

    def around(original: Any) -> Any:
        return lambda self: change(self, original(self))

    wrap(Session, "start_position", around)


@breaks("SSE-5.posted-first", "EP-prompt.accepted", "SSE-5.queued")
def finished_run_skipped() -> None:
    """A run that ended before the stream was opened is not delivered."""
    _start(lambda session, at: at if session.snapshot.active else session.log.last_seq)


@breaks("SSE-5.active", "EP-prompt.accepted", "EVT-1.grammar")
def active_run_from_the_middle() -> None:
    """A stream that is opened during a run starts in the middle of it."""
    _start(lambda session, at: session.log.last_seq if session.snapshot.active else at)


@breaks(
    "SSE-5.read-before",
    "CB-2.validated",
    "EVT-2.failure",
    "EVT-4.unique",
    "EVT-6",
    "EVT-7.gapless",
    "MTR-1.counted",
    "SSE-11.page",
    "SSE-11.paging",
    "SSE-6.after",
    "SSE-6.header",
    "SSE-7.trimmed",
)
def run_delivered_again() -> None:
    """A run that was read to its end is delivered again."""
    wrap(Session, "mark_delivered", lambda _: lambda _, __: None)


@breaks("SSE-5.queued")
def run_after_a_read_one_skipped() -> None:
    """A run that follows one that was read is not delivered, and the stream ends."""
    raise_delivered(10_000)


def raise_delivered(by: int) -> None:
    """Reading the end of a run also marks later runs as read."""

    def around(original: Any) -> Any:
        return lambda self, seq: original(self, seq + by)

    wrap(Session, "mark_delivered", around)


# -- SSE-6, SSE-7 ------------------------------------------------------------------------------------------------------


def _position(around: Any) -> None:
    wrap(events, "position", around)


def _change_requests(change: Any) -> None:
    """Change the headers and the query of requests for events."""

    def wrap_app(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"].endswith("/events"):
                change(scope)
            await app(scope, receive, send)

        return changed

    put_before(wrap_app)


def _last_event_id(scope: Any) -> bytes | None:
    return dict(scope["headers"]).get(b"last-event-id")


def _without_last_event_id(scope: Any) -> None:
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"last-event-id"]


@breaks("SSE-6.header", "SSE-6.live")
def resumes_one_event_early() -> None:
    """Last-Event-ID resumes one event too early."""

    def change(scope: Any) -> None:
        sent = _last_event_id(scope)
        found = Cursor.parse(sent.decode("latin-1")) if sent else None
        if found is not None and b"after=" not in scope["query_string"] and found.seq > 1:
            _without_last_event_id(scope)
            moved = str(Cursor(found.epoch, found.seq - 1)).encode()
            scope["headers"].append((b"last-event-id", moved))

    _change_requests(change)


@breaks("SSE-6.after", "EP-prompt.cursor", "EVT-1.grammar", "SSE-7.future", "SSE-7.malformed")
def after_inclusive() -> None:
    """?after= resumes at that event, not after it."""

    def change(scope: Any) -> None:
        name, _, value = scope["query_string"].partition(b"=")
        found = Cursor.parse(value.decode("latin-1")) if name == b"after" else None
        if found is not None and found.seq > 0 and _last_event_id(scope) is None:
            scope["query_string"] = f"after={found.epoch}.{found.seq - 1}".encode()

    _change_requests(change)


@breaks("SSE-6.precedence")
def after_takes_precedence() -> None:
    """?after= takes precedence over Last-Event-ID."""

    def change(scope: Any) -> None:
        if b"after=" in scope["query_string"]:
            _without_last_event_id(scope)

    _change_requests(change)


@breaks("SSE-6.start", "DUR-1.events", "DUR-1.prompts", "EVT-1.grammar", "EVT-7.identical")
def start_skips_the_first() -> None:
    """after=start skips the first event."""
    _position(lambda original: lambda log, text: original(log, text) + (1 if text == "start" and log.last_seq else 0))


@breaks("SSE-6.latest")
def latest_is_the_start() -> None:
    """after=latest starts at the beginning of the log."""
    _position(lambda original: lambda log, text: original(log, "start" if text == "latest" else text))


@breaks("SSE-6.live")
def resuming_skips_an_event() -> None:
    """A stream that is resumed during a run skips an event."""

    def around(original: Any) -> Any:
        def reader(self: Any, after: int) -> Any:
            made = original(self, after)
            if after > 0 and self._live_run():
                made.seq = after + 1
            return made

        return reader

    from cmdc_gateway.sessions.log import EventLog

    def live_run(self: Any) -> bool:
        return bool(self._ring) and not self._ring[-1].terminal

    EventLog._live_run = live_run  # pyright: ignore[reportAttributeAccessIssue]
    wrap(EventLog, "reader", around)


@breaks("SSE-7.foreign")
def foreign_cursor_accepted() -> None:
    """A cursor of another log is accepted."""

    def around(original: Any) -> Any:
        def position(log: Any, text: str) -> int:
            found = Cursor.parse(text)
            if found is not None and found.epoch != log.epoch:
                return log.first_seq - 1
            return original(log, text)

        return position

    _position(around)


@breaks("SSE-7.malformed")
def malformed_cursor_accepted() -> None:
    """A malformed cursor starts at the end of the log."""

    def around(original: Any) -> Any:
        def position(log: Any, text: str) -> int:
            try:
                return original(log, text)
            except InvalidCursor:
                if Cursor.parse(text) is None:
                    return log.last_seq
                raise

        return position

    _position(around)


@breaks("SSE-7.future")
def future_cursor_accepted() -> None:
    """A cursor beyond the last event is accepted."""

    def around(original: Any) -> Any:
        def position(log: Any, text: str) -> int:
            try:
                return original(log, text)
            except InvalidCursor:
                if Cursor.parse(text) is not None:
                    return log.last_seq
                raise

        return position

    _position(around)


@breaks("SSE-7.zero", "EVT-2.failure", "EVT-2.terminal", "EVT-6", "SSE-7.trimmed")
def zero_rejected() -> None:
    """<epoch>.0 is rejected."""

    def around(original: Any) -> Any:
        def position(log: Any, text: str) -> int:
            if text.endswith(".0"):
                raise InvalidCursor(f"{text!r} is no cursor")
            return original(log, text)

        return position

    _position(around)


@breaks("SSE-7.trimmed")
def trimmed_cursor_accepted() -> None:
    """A trimmed cursor starts at the first kept event."""

    def around(original: Any) -> Any:
        def position(log: Any, text: str) -> int:
            try:
                return original(log, text)
            except CursorExpired:
                found = Cursor.parse(text)
                if found is not None and found.epoch == log.epoch:
                    return log.first_seq - 1
                raise

        return position

    _position(around)


# -- SSE-8 -------------------------------------------------------------------------------------------------------------


@breaks("SSE-8.run")
def run_and_those_after() -> None:
    """?requestId= also delivers the runs after that run."""

    def around(original: Any) -> Any:
        def init(self: Any, after: int, **options: Any) -> None:
            original(
                self,
                after,
                **{**options, "follow": options.get("request_id") is not None or options.get("follow", False)},
            )

        return init

    wrap(sse.Selection, "__init__", around)


@breaks("SSE-8.unknown")
def unknown_run() -> None:
    """An unknown requestId returns 400."""

    def around(original: Any) -> Any:
        async def selection(*args: Any, **options: Any) -> Any:
            try:
                return await original(*args, **options)
            except RequestNotFound as error:
                raise BadRequest(error.message) from None

        return selection

    wrap(events, "_selection", around)


@breaks("SSE-8.types", "SSE-8.types-end")
def unfiltered() -> None:
    """?types= does not filter message_start."""
    wrap(events, "_types", lambda original: lambda listed: (found := original(listed)) and found | {"agent_start"})


@breaks("SSE-8.types-end")
def filtered_end() -> None:
    """A terminal event that is filtered out does not end the stream."""

    def around(original: Any) -> Any:
        def chosen(self: Any, page: Any) -> Any:
            chunk, terminal = original(self, page)
            return chunk, terminal if terminal is None or self._sends(terminal) else None

        return chosen

    wrap(sse.EventStream, "_select", around)


@breaks("SSE-8.types-unknown")
def unknown_type_ignored() -> None:
    """An unknown event type is ignored."""

    def around(original: Any) -> Any:
        def types_of(listed: str | None) -> Any:
            known = [name for name in (listed or "").split(",") if name in EVENT_NAMES]
            return original(listed) if listed is None else frozenset(known)

        return types_of

    wrap(events, "_types", around)


# -- SSE-9 … SSE-12 ----------------------------------------------------------------------------------------------------


@breaks(
    "SSE-9.readers", "EVT-1.blocks", "EVT-5.same", "EVT-7.gapless", "SSE-10.nobody-waits", "SSE-5.active", "SSE-6.live"
)
def only_the_first_reader() -> None:
    """Only the first of several readers receives the text."""

    def around(original: Any) -> Any:
        def chosen(self: Any, page: Any) -> Any:
            if not self._first:
                page = [event for event in page if event.name != "message_delta"]
            return original(self, page)

        return chosen

    def remember(original: Any) -> Any:
        async def send_events(self: Any, reader: Any, *args: Any) -> None:
            self._first = self._log.readers == 1
            await original(self, reader, *args)

        return send_events

    wrap(sse.EventStream, "_select", around)
    wrap(sse.EventStream, "_send_events", remember)


@breaks("SSE-9.leaving", "DUR-3.left", "DUR-3.people", "SSE-6.live")
def aborted_with_its_reader() -> None:
    """A run is aborted when its reader disconnects."""

    def around(original: Any) -> Any:
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            try:
                await original(self, scope, receive, send)
            finally:
                if self._session is not None and self._session.snapshot.active is not None:
                    asyncio.get_running_loop().create_task(
                        self._session.commands.abort(self._key_id, "the reader left")
                    )

        return call

    wrap(sse.EventStream, "__call__", around)


@breaks(
    "SSE-9.own",
    "SSE-5.queued",
    "EP-prompt.cursor",
    "EVT-1.blocks",
    "EVT-1.grammar",
    "EVT-4.unique",
    "EVT-5.request-id",
    "EVT-5.same",
    "EVT-7.gapless",
    "EVT-7.identical",
    "SSE-11.page",
    "SSE-11.paging",
    "SSE-5.active",
    "SSE-5.posted-first",
    "SSE-6.after",
    "SSE-6.header",
    "SSE-6.live",
    "SSE-6.start",
    "SSE-7.foreign",
    "SSE-7.malformed",
    "SSE-7.zero",
    "SSE-8.run",
    "SSE-8.types",
)
def events_of_other_sessions() -> None:
    """A reader also receives the latest run of another session."""
    from cmdc_gateway.sessions.log import EventLog

    latest: list[Any] = []

    def publish(original: Any) -> Any:
        def changed(self: Any, published: Any) -> None:
            original(self, published)
            latest[:] = [event for event in published if event.name == "prompt_received"] or latest

        return changed

    def chosen(original: Any) -> Any:
        def changed(self: Any, page: Any) -> Any:
            chunk, terminal = original(self, page)
            foreign = b"".join(event.sse for event in latest if event.epoch != self._log.epoch)
            return (foreign + chunk if chunk else chunk), terminal

        return changed

    wrap(EventLog, "publish", publish)
    wrap(sse.EventStream, "_select", chosen)


@breaks("SSE-10.nobody-waits", "MODEL-retry.transient", "SSE-3.heartbeat", "SSE-5.read-before", "SSE-9.readers")
def stalled_reader_blocks_others() -> None:
    """A stalled reader blocks all other readers."""
    turn = asyncio.Lock()

    def around(original: Any) -> Any:
        async def write(send: Any, chunk: bytes, beat: Any) -> None:
            async with turn:
                await original(send, chunk, beat)

        return write

    wrap(sse, "_write", around)


@breaks("SSE-10.closed")
def stalled_reader_stays() -> None:
    """A stalled reader stays connected."""
    wrap(heartbeats.Heartbeats, "_check_progress", lambda _: lambda *_: None)


@breaks("SSE-11.page")
def page_without_times() -> None:
    """The events of a page have no times."""

    def around(original: Any) -> Any:
        async def event_page(*args: Any) -> bytes:
            page = json.loads(await original(*args))
            for entry in page["events"]:
                entry["data"] = {}
            return json.dumps(page).encode()

        return event_page

    wrap(events, "event_page", around)


@breaks("SSE-11.paging")
def page_skips_an_event() -> None:
    """The cursor of a page skips an event."""

    def around(original: Any) -> Any:
        async def event_page(log: Any, after: int, limit: int, types: Any) -> bytes:
            page = json.loads(await original(log, after, limit, types))
            epoch, _, seq = page["next"].partition(".")
            if page["next"] != page["latest"]:
                page["next"] = f"{epoch}.{int(seq) + 1}"
            return json.dumps(page).encode()

        return event_page

    wrap(events, "event_page", around)


@breaks("SSE-12.ticket", "EP-tickets.one-session")
def no_ticket_for_streams() -> None:
    """A ticket does not open a stream."""
    from cmdc_gateway.errors import Unauthorized

    def around(original: Any) -> Any:
        def admit(self: Any, scope: Any) -> Any:
            if b"ticket=" in scope["query_string"]:
                raise Unauthorized
            return original(self, scope)

        return admit

    wrap(authentication.AuthenticationMiddleware, "_authenticate", around)


@breaks("SSE-12.key-in-url")
def key_in_the_url_accepted() -> None:
    """A key in the URL of a stream is accepted."""

    def change(scope: Any) -> None:
        name, _, value = scope["query_string"].partition(b"=")
        if name == b"api_key":
            scope["query_string"] = b""
            if not any(name == b"x-api-key" for name, _ in scope["headers"]):
                scope["headers"] = [*scope["headers"], (b"x-api-key", value)]

    _change_requests(change)
