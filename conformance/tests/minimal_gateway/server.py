"""The gateway as a server: connections, event streams, WebSockets, and the end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from minimal_gateway.gateway import CORS, Bucket, Gateway, act
from minimal_gateway.http1 import Connection, Gone, Request
from minimal_gateway.log import TERMINAL
from minimal_gateway.refusals import Refusal, encoded, wrong
from minimal_gateway.sessions import Session
from minimal_gateway.strict_json import read_object
from minimal_gateway.websocket import WebSocket

_STREAM = re.compile(r"/v1/sessions/([^/]+)/(events|ws)")
_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "Connection": "close",
    "Transfer-Encoding": "chunked",
}
_MESSAGES_A_SECOND = 20
_PIECE = 64 * 1024


class Server:
    """Serves a gateway; `heartbeat` and `grace` are in seconds."""

    def __init__(self, gateway: Gateway, *, heartbeat: float = 15.0, grace: float = 30.0) -> None:
        self._gateway = gateway
        self._heartbeat = heartbeat
        self._grace = grace
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, port: int, stop: asyncio.Event, listening: Callable[[int], None]) -> None:
        """Listen on loopback until told to stop, then let what runs come to its end (DUR-3)."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        listening(server.sockets[0].getsockname()[1])
        await stop.wait()
        self._gateway.draining = True
        sessions = list(self._gateway.sessions.values())
        for session in sessions:
            session.draining = True
            session.log.ring()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                for session in sessions:
                    while session.active and not session.only_waits:
                        await session.log.beyond(len(session.log.events))
        server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is a task"
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        connection = Connection(reader, writer)
        try:
            await self._talk(connection)
        except (Gone, asyncio.CancelledError):  # the client has left, or the server stops
            connection.end()

    async def _talk(self, connection: Connection) -> None:
        going_on = True
        while going_on:
            request = None
            try:
                request = replace(await connection.head(), cors=CORS)
                going_on = await self._one(connection, request)
            except Refusal as refusal:
                # What could not be read to its end leaves nothing to go on from.
                broken = request is None or refusal.code in ("payload_too_large", "request_timeout")
                going_on = request is not None and request.keep_alive and not broken
                await connection.refuse(request, refusal, last=not going_on)
        await connection.close()

    async def _one(self, connection: Connection, request: Request) -> bool:
        """Answer one request; False if the connection is at its end."""
        stream = _STREAM.fullmatch(request.path)
        if stream and request.method == "GET":
            await connection.body(request)
            if stream[2] == "ws":
                await self._socket(connection, request, stream[1])
                return False
            await self._events(connection, request, stream[1])
            return request.keep_alive
        read = False

        async def body() -> bytes:
            nonlocal read
            read = True
            return await connection.body(request)

        try:
            status, value, headers = await self._gateway.answer(request, body)
        except Refusal:
            if not read:
                await connection.body(request)
            raise
        await connection.answer(request, status, value, headers)
        return request.keep_alive

    # -- streams -------------------------------------------------------------------------------------------------------

    def _opened(self, request: Request, session_id: str, **allowed: str | None) -> tuple[Session, str]:
        tenant, key = self._gateway.admit(request, url_key=allowed.get("api_key"))
        for name, _ in request.query:
            if name not in allowed:
                raise wrong(f"{name}: there is no such parameter")
        session = self._gateway.session((tenant, session_id))
        if self._gateway.draining:
            raise Refusal("unavailable", "the server is stopping", {"Retry-After": "5"})
        return session, key

    async def _events(self, connection: Connection, request: Request, session_id: str) -> None:
        if any(name == "api_key" for name, _ in request.query):
            raise wrong("api_key: a key does not belong in this URL")
        session, _ = self._opened(request, session_id)
        read = session.start()
        connection.start(request, 200, _STREAM_HEADERS)
        gone = asyncio.create_task(connection.until_gone())
        sending = asyncio.create_task(self._send_events(connection, session, read))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise Gone
            sending.result()
        finally:
            gone.cancel()
            sending.cancel()
        raise Gone  # a byte of the next request may have been taken for a sign of life

    async def _send_events(self, connection: Connection, session: Session, read: int) -> None:
        await _chunk(connection, b": hello\n")
        while True:
            events = session.log.events[read:]
            over = next((place for place, event in enumerate(events, 1) if event.name in TERMINAL), None)
            events = events[:over]
            read += len(events)
            await _chunk(connection, b"".join(event.sse for event in events))
            if over is not None:
                session.served = max(session.served, read)
                break
            if session.log.closed or (session.draining and not session.active):
                break
            before = len(session.log.events)
            if before == read:
                await session.log.beyond(read, within=self._heartbeat)
                if len(session.log.events) == read:
                    await _chunk(connection, b": heartbeat\n")
        connection.write(b"0\r\n\r\n")
        await connection.drain()

    async def _socket(self, connection: Connection, request: Request, session_id: str) -> None:
        url_key = next((value for name, value in request.query if name == "api_key"), None)
        session, key = self._opened(request, session_id, api_key=url_key)
        socket = WebSocket.accept(connection, request)
        tasks = [
            asyncio.create_task(self._send_to(socket, session)),
            asyncio.create_task(self._listen_to(socket, session, key)),
            asyncio.create_task(socket.keep_alive()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            socket.close(1012)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_to(self, socket: WebSocket, session: Session) -> None:
        read = len(session.log.events)
        while True:
            for event in session.log.events[read:]:
                await socket.send(event.text)
                read += 1
            if session.log.closed:
                socket.close(4004)
                return
            if session.draining and not session.active:
                socket.close(1012)
                return
            await session.log.beyond(read)

    async def _listen_to(self, socket: WebSocket, session: Session, key: str) -> None:
        bucket = Bucket(_MESSAGES_A_SECOND, 1)
        while True:
            text = await socket.receive()
            try:
                if bucket.take():
                    raise Refusal("rate_limited", f"more than {_MESSAGES_A_SECOND} messages a second", retryAfter=1)
                self._gateway.spend(key)
                if text is None:
                    raise wrong("an action is a text frame")
                given: dict[str, Any] = read_object(text.encode("utf-8", "surrogatepass"))
                answer = act(session, given.pop("action", ""), given)[1]
            except Refusal as refusal:
                answer = refusal.body
            # Written before anything else gets its turn, so before any event that the action causes (WS-4).
            await socket.send(encoded(answer).decode())


async def _chunk(connection: Connection, data: bytes) -> None:
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        connection.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await connection.drain()
