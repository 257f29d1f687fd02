"""Server-sent events: a reader of the log with a socket (PROTOCOL §5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cmdc_gateway.protocol.frames import HEARTBEAT, LoggedEvent, Page
from cmdc_gateway.sessions.log import EventLog, Reader, Trimmed
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.web.streaming.connections import Connection, Connections
from cmdc_gateway.web.streaming.heartbeats import Heartbeats, WatchedStream

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part of the log a stream carries.

    It begins after seq `after`. It ends with the first terminal event, unless it follows on; with `request_id` it
    carries that run alone. `types` are the event names that are sent, None for all.
    """

    after: int
    follow: bool = False
    request_id: str | None = None
    types: Collection[str] | None = None


class EventStream(Response):
    """The answer to `GET …/events`."""

    def __init__(
        self,
        selection: Selection,
        log: EventLog,
        session: Session | None,
        *,
        pulse: Heartbeats,
        connections: Connections,
        key_id: str,
    ) -> None:
        super().__init__()
        self._selection = selection
        self._log = log
        self._session = session
        self._pulse = pulse
        self._connections = connections
        self._key_id = key_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader = self._log.reader(self._selection.after)  # first of all, so that nothing is missed (SSE-6)
        transport: dict[str, Any] = scope.get("extensions", {}).get("cmdc.transport", {})
        loop = asyncio.get_running_loop()
        beat = WatchedStream(
            wake=reader.wake,
            abort=transport.get("reset", lambda: None),
            buffered=transport.get("buffered", lambda: 0),
            clock=loop.time,
            wrote_at=loop.time(),
        )
        connection = Connection(self._key_id, reader.wake, self._session, beat.abort)
        self._connections.add(connection)
        self._pulse.watch(beat)
        listener = loop.create_task(_until_gone(receive, connection))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await _write(send, HEARTBEAT, beat)
            if "pusher" in transport and self._selection.types is None:
                reader.push = _at_once(transport["pusher"](), beat)
            await self._send_events(reader, send, beat, connection, transport.get("closing", lambda: False))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            listener.cancel()
            self._pulse.unwatch(beat)
            self._connections.discard(connection)
            reader.leave()

    async def _send_events(
        self, reader: Reader, send: Send, beat: WatchedStream, connection: Connection, lost: Callable[[], bool]
    ) -> None:
        if self._selection.request_id is not None and not await self._find_run(reader, send, beat, connection):
            return
        while not connection.ended:
            try:
                page = await reader.take()
            except Trimmed:
                return
            chunk, terminal = self._chosen(page)
            empty = not page
            del page  # it would be kept for a reader that does not read
            if chunk:
                await _write(send, chunk, beat)
            if terminal is not None:
                if self._session is not None and self._sends(terminal) and not lost():
                    self._session.mark_delivered(terminal.seq)
                if not self._selection.follow:
                    return
            elif empty:
                if self._log.closed or connection.released:
                    return
                await self._wait(reader, send, beat)

    async def _find_run(self, reader: Reader, send: Send, beat: WatchedStream, connection: Connection) -> bool:
        """Skip to the first event of the run asked for, once it has begun; False if there is nothing of it (SSE-8)."""
        session, request_id = self._session, self._selection.request_id
        assert session is not None, "a run is looked for in a live session"
        assert request_id is not None, "a run was asked for"
        while not (connection.ended or connection.released or self._log.closed):
            row = await session.request(request_id)
            if row is not None and row.first_seq:
                reader.seq = max(self._selection.after, row.first_seq - 1)
                return row.status != "done" or reader.seq < row.last_seq
            at_once, reader.push = reader.push, None  # this reader is not in its place yet
            await self._wait(reader, send, beat)
            reader.push = at_once
        return False

    async def _wait(self, reader: Reader, send: Send, beat: WatchedStream) -> None:
        if beat.due:
            await _write(send, HEARTBEAT, beat)
        await reader.wait()

    def _chosen(self, page: list[LoggedEvent]) -> tuple[bytes, LoggedEvent | None]:
        """The frames to send of a page, and the terminal event that ends it, if one does."""
        frames: list[bytes] = []
        terminal: LoggedEvent | None = None
        for event in page:
            if self._sends(event):
                frames.append(event.sse)
            if event.terminal:
                terminal = event
                if not self._selection.follow:
                    break
        return b"".join(frames), terminal

    def _sends(self, event: LoggedEvent) -> bool:
        return self._selection.types is None or event.name in self._selection.types


def _at_once(push: Callable[[bytes], bool], beat: WatchedStream) -> Callable[[Page], bool]:
    """Serve a reader that waits with one call. The end of a run is left to its stream, which has more to do then."""

    def at_once(page: Page) -> bool:
        if page.terminal or not push(page.chunk):
            return False
        beat.written()
        return True

    return at_once


async def _write(send: Send, chunk: bytes, beat: WatchedStream) -> None:
    # In pieces: what waits for a reader that does not read is one of them, however much there is to say.
    for start in range(0, len(chunk), _PIECE_BYTES):
        beat.begin()
        await send({"type": "http.response.body", "body": chunk[start : start + _PIECE_BYTES], "more_body": True})
        beat.end()


async def _until_gone(receive: Receive, connection: Connection) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.end("gone")
