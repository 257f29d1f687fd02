"""Gateways whose event streams are wrong (SSE)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import json
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
from broken_gateways.surgery import (
    Answer,
    Message,
    change_answers,
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
    """The headers of a stream go out with its first event."""

    def front(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            held: list[Message] = []

            async def through(message: Message) -> None:
                if scope["type"] == "http" and scope["path"].endswith("/events"):
                    streams = message["type"] == "http.response.start" and message["status"] == 200
                    beats = bool(held) and message.get("body", b"").startswith(b":")
                    if streams or beats:
                        held.append(message)
                        return
                while held:
                    await send(held.pop(0))
                await send(message)

            await app(scope, receive, through)

        return changed

    put_before(front)


@breaks("SSE-1.errors", "EP-session.unknown", "HTTP-8.routes", "SSE-8.unknown")
def error_as_a_stream() -> None:
    """An unknown session is told as an event of a stream."""

    def change(answer: Answer) -> None:
        if answer.status == 404:
            answer.status = 200
            answer.headers["content-type"] = "text/event-stream; charset=utf-8"

    change_answers(r"/v1/sessions/[^/]+/events", change)


@breaks(
    "SSE-2",
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
    """Data is broken over two lines."""
    change_streams(lambda chunk: chunk.replace(b'\ndata: {"text"', b'\ndata: {\ndata: "text"'))


@breaks("SSE-3.heartbeat", "SSE-10.closed")
def no_pulse() -> None:
    """A silent stream stays silent."""
    wrap(heartbeats.Heartbeats, "_check_all", lambda _: lambda *_: None)


@breaks("SSE-3.first")
def no_first_beat() -> None:
    """No comment line comes at the start of a stream."""

    def around(original: Any) -> Any:
        async def write(send: Any, chunk: bytes, beat: Any) -> None:
            if chunk == frames.HEARTBEAT and not beat.heartbeat_due:
                return
            await original(send, chunk, beat)

        return write

    wrap(sse, "_write", around)


@breaks("SSE-3.harmless")
def blank_line_after_a_beat() -> None:
    """A heartbeat ends in a blank line."""
    wrap(sse, "HEARTBEAT", lambda _: b": heartbeat\n\n")


@breaks("SSE-4.end")
def never_ending() -> None:
    """A stream goes on after the terminal event of its run."""

    def around(original: Any) -> Any:
        def init(self: Any, after: int, **options: Any) -> None:
            plain = options.get("request_id") is None and options.get("types") is None
            follow = options.get("follow", False) or plain
            original(self, after, **{**options, "follow": follow})

        return init

    wrap(sse.Selection, "__init__", around)


@breaks("SSE-4.follow")
def does_not_follow() -> None:
    """?follow=true is taken and not heeded."""

    def around(original: Any) -> Any:
        return lambda self, after, **options: original(self, after, **{**options, "follow": False})

    wrap(sse.Selection, "__init__", around)


# -- SSE-5 -------------------------------------------------------------------------------------------------------------


def _start(change: Any) -> None:
    """Where a reader without a cursor begins."""

    def around(original: Any) -> Any:
        return lambda self: change(self, original(self))

    wrap(Session, "start_position", around)


@breaks("SSE-5.posted-first", "EP-prompt.accepted", "SSE-5.queued")
def over_and_missed() -> None:
    """A run that was over before the stream was opened is not read."""
    _start(lambda session, at: at if session.snapshot.active else session.log.last_seq)


@breaks("SSE-5.active", "EP-prompt.accepted", "EVT-1.grammar")
def in_the_midst() -> None:
    """A reader that comes during a run starts in the midst of it."""
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
def read_again() -> None:
    """A run whose end a reader has had is read again by the next."""
    wrap(Session, "mark_delivered", lambda _: lambda _, __: None)


@breaks("SSE-5.queued")
def hidden_run() -> None:
    """The run that was accepted after another was read is not waited for: the stream ends at once."""
    raise_served(10_000)


def raise_served(by: int) -> None:
    """A reader that has had the end of a run counts for the runs after it too."""

    def around(original: Any) -> Any:
        return lambda self, seq: original(self, seq + by)

    wrap(Session, "mark_delivered", around)


# -- SSE-6, SSE-7 ------------------------------------------------------------------------------------------------------


def _position(around: Any) -> None:
    wrap(events, "position", around)


def _change_requests(change: Any) -> None:
    """Change the headers and the query of requests for events."""

    def front(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"].endswith("/events"):
                change(scope)
            await app(scope, receive, send)

        return changed

    put_before(front)


def _last_event_id(scope: Any) -> bytes | None:
    return dict(scope["headers"]).get(b"last-event-id")


def _without_last_event_id(scope: Any) -> None:
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"last-event-id"]


@breaks("SSE-6.header", "SSE-6.live")
def one_too_far() -> None:
    """Last-Event-ID starts the stream one event too far."""

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
    """?after= starts the stream at that event, not after it."""

    def change(scope: Any) -> None:
        name, _, value = scope["query_string"].partition(b"=")
        found = Cursor.parse(value.decode("latin-1")) if name == b"after" else None
        if found is not None and found.seq > 0 and _last_event_id(scope) is None:
            scope["query_string"] = f"after={found.epoch}.{found.seq - 1}".encode()

    _change_requests(change)


@breaks("SSE-6.precedence")
def parameter_wins() -> None:
    """?after= wins over Last-Event-ID."""

    def change(scope: Any) -> None:
        if b"after=" in scope["query_string"]:
            _without_last_event_id(scope)

    _change_requests(change)


@breaks("SSE-6.start", "DUR-1.events", "DUR-1.prompts", "EVT-1.grammar", "EVT-7.identical")
def start_is_the_second() -> None:
    """after=start leaves the first event out."""
    _position(lambda original: lambda log, text: original(log, text) + (1 if text == "start" and log.last_seq else 0))


@breaks("SSE-6.latest")
def latest_is_the_start() -> None:
    """after=latest is the beginning."""
    _position(lambda original: lambda log, text: original(log, "start" if text == "latest" else text))


@breaks("SSE-6.live")
def gap_in_the_midst() -> None:
    """Taken up in the midst of a run, a stream leaves an event out."""

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
def foreign_cursor_taken() -> None:
    """A cursor of another log is taken for one of this."""

    def around(original: Any) -> Any:
        def position(log: Any, text: str) -> int:
            found = Cursor.parse(text)
            if found is not None and found.epoch != log.epoch:
                return log.first_seq - 1
            return original(log, text)

        return position

    _position(around)


@breaks("SSE-7.malformed")
def any_cursor() -> None:
    """A malformed cursor is taken for the present."""

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
def waits_for_the_future() -> None:
    """A cursor of an event that has not happened is waited for."""

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
def zero_is_nothing() -> None:
    """<epoch>.0 is no cursor."""

    def around(original: Any) -> Any:
        def position(log: Any, text: str) -> int:
            if text.endswith(".0"):
                raise InvalidCursor(f"{text!r} is no cursor")
            return original(log, text)

        return position

    _position(around)


@breaks("SSE-7.trimmed")
def trimmed_in_silence() -> None:
    """A cursor that was trimmed starts the stream at what is left."""

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
def run_and_more() -> None:
    """?requestId= gives that run and those after it."""

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
    """An unknown requestId is answered with 400."""

    def around(original: Any) -> Any:
        async def selection(*args: Any, **options: Any) -> Any:
            try:
                return await original(*args, **options)
            except RequestNotFound as refusal:
                raise BadRequest(refusal.message) from None

        return selection

    wrap(events, "_selection", around)


@breaks("SSE-8.types", "SSE-8.types-end")
def unfiltered() -> None:
    """?types= lets message_start through, whether it is asked for or not."""
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
def any_type() -> None:
    """An unknown type is passed over."""

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
def one_reader_for_each_event() -> None:
    """Of several readers of a session only the first gets the text."""

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
def stopped_with_its_reader() -> None:
    """A reader that leaves takes the run with it."""

    def around(original: Any) -> Any:
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            try:
                await original(self, scope, receive, send)
            finally:
                if self._session is not None and self._session.snapshot.active is not None:
                    asyncio.get_running_loop().create_task(self._session.abort(self._key_id, "the reader left"))

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
def everybodys_events() -> None:
    """A reader gets the events of the newest run of another session too."""
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
def everybody_waits() -> None:
    """A reader that does not read holds up all the others."""
    turn = asyncio.Lock()

    def around(original: Any) -> Any:
        async def write(send: Any, chunk: bytes, beat: Any) -> None:
            async with turn:
                await original(send, chunk, beat)

        return write

    wrap(sse, "_write", around)


@breaks("SSE-10.closed")
def endless_patience() -> None:
    """A reader that takes nothing stays connected."""
    wrap(heartbeats.Heartbeats, "_check_progress", lambda _: lambda *_: None)


@breaks("SSE-11.page")
def page_without_times() -> None:
    """The entries of a page do not tell when they happened."""

    def around(original: Any) -> Any:
        async def event_page(*args: Any) -> bytes:
            page = json.loads(await original(*args))
            for entry in page["events"]:
                entry["data"] = {}
            return json.dumps(page).encode()

        return event_page

    wrap(events, "event_page", around)


@breaks("SSE-11.paging")
def next_is_too_far() -> None:
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
    """A ticket opens no stream."""
    from cmdc_gateway.errors import Unauthorized

    def around(original: Any) -> Any:
        def admit(self: Any, scope: Any) -> Any:
            if b"ticket=" in scope["query_string"]:
                raise Unauthorized
            return original(self, scope)

        return admit

    wrap(authentication.AuthenticationMiddleware, "_authenticate", around)


@breaks("SSE-12.key-in-url")
def key_in_the_url() -> None:
    """A key in the URL of a stream opens it."""

    def change(scope: Any) -> None:
        name, _, value = scope["query_string"].partition(b"=")
        if name == b"api_key":
            scope["query_string"] = b""
            if not any(name == b"x-api-key" for name, _ in scope["headers"]):
                scope["headers"] = [*scope["headers"], (b"x-api-key", value)]

    _change_requests(change)
