"""Server-sent events: the response that follows a session's log (SSE-1 … SSE-12)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cmdc_gateway.protocol.frames import HEARTBEAT, LoggedEvent, Page
from cmdc_gateway.sessions.log import EventLog, Reader, Trimmed
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.web.streaming.connections import Connection, Connections
from cmdc_gateway.web.streaming.heartbeats import Heartbeats, WatchedStream
from cmdc_gateway.web.transport.handle import Push, TransportHandle, transport_of

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_WRITE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of the log that a stream sends.

    It begins after seq `after` and ends with the first terminal event, unless `follow` is set. With `request_id` it is
    that run alone. `types` are the names of the events to send; None sends all.
    """

    after: int
    follow: bool = False
    request_id: str | None = None
    types: Collection[str] | None = None


class EventStream(Response):
    """The response to `GET …/events`."""

    def __init__(
        self,
        selection: Selection,
        log: EventLog,
        session: Session | None,
        *,
        heartbeats: Heartbeats,
        connections: Connections,
        key_id: str,
    ) -> None:
        super().__init__()
        self._selection = selection
        self._log = log
        self._session = session
        self._heartbeats = heartbeats
        self._connections = connections
        self._key_id = key_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader = self._log.reader(self._selection.after)  # before any await, so that no event is missed (SSE-6)
        transport = transport_of(scope)
        loop = asyncio.get_running_loop()
        stream = WatchedStream(
            wake=reader.wake,
            abort=transport.reset,
            buffered_bytes=transport.buffered_bytes,
            clock=loop.time,
            wrote_at=loop.time(),
        )
        connection = Connection(self._key_id, reader.wake, self._session, transport.reset)
        self._connections.add(connection)
        self._heartbeats.watch(stream)
        listener = loop.create_task(_end_on_disconnect(receive, connection))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await _write(send, HEARTBEAT, stream)
            push = transport.pusher()
            if push is not None and self._selection.types is None:
                reader.push = _page_push(push, stream)
            await self._send_events(reader, send, stream, connection, transport)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            listener.cancel()
            self._heartbeats.unwatch(stream)
            self._connections.discard(connection)
            reader.leave()

    async def _send_events(
        self, reader: Reader, send: Send, stream: WatchedStream, connection: Connection, transport: TransportHandle
    ) -> None:
        if self._selection.request_id is not None and not await self._skip_to_run(reader, send, stream, connection):
            return
        while not connection.end_reason:
            try:
                page = await reader.take()
            except Trimmed:
                return
            chunk, terminal = self._select(page)
            empty = not page
            del page  # a client that does not read would keep it in memory
            if chunk:
                await _write(send, chunk, stream)
            if terminal is not None:
                if self._session is not None and self._sends(terminal) and not transport.is_closing():
                    self._session.mark_delivered(terminal.seq)
                if not self._selection.follow:
                    return
            elif empty:
                if self._log.closed or connection.drained:
                    return
                await self._wait(reader, send, stream)

    async def _skip_to_run(self, reader: Reader, send: Send, stream: WatchedStream, connection: Connection) -> bool:
        """Wait until the requested run has begun and move the reader before it. Returns False if nothing is left (SSE-8)."""
        session, request_id = self._session, self._selection.request_id
        assert session is not None, "a run is requested of a live session"
        assert request_id is not None, "a run was requested"
        while not (connection.end_reason or connection.drained or self._log.closed):
            row = await session.request(request_id)
            if row is not None and row.first_seq:
                reader.seq = max(self._selection.after, row.first_seq - 1)
                return row.status != "done" or reader.seq < row.last_seq
            push, reader.push = reader.push, None  # the reader is not at its run yet
            await self._wait(reader, send, stream)
            reader.push = push
        return False

    async def _wait(self, reader: Reader, send: Send, stream: WatchedStream) -> None:
        if stream.heartbeat_due:
            await _write(send, HEARTBEAT, stream)
        await reader.wait()

    def _select(self, page: list[LoggedEvent]) -> tuple[bytes, LoggedEvent | None]:
        """Return the frames of a page that are sent, and the terminal event that ends it, if there is one."""
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


def _page_push(push: Push, stream: WatchedStream) -> Callable[[Page], bool]:
    """Return a function with which the log writes a page to a waiting reader, without waking its task.

    The end of a run is left to the task, which also has to mark the delivery and may have to end the stream.
    """

    def push_page(page: Page) -> bool:
        if page.terminal or not push(page.chunk):
            return False
        stream.note_write()
        return True

    return push_page


async def _write(send: Send, chunk: bytes, stream: WatchedStream) -> None:
    # In parts, so that a client that does not read keeps at most one of them in memory.
    for start in range(0, len(chunk), _WRITE_BYTES):
        stream.begin_write()
        await send({"type": "http.response.body", "body": chunk[start : start + _WRITE_BYTES], "more_body": True})
        stream.end_write()


async def _end_on_disconnect(receive: Receive, connection: Connection) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.end("disconnected")
