"""The server: connections, event streams, WebSockets and shutdown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from minimal_gateway.errors import ApiError, bad_request, encode
from minimal_gateway.gateway import CORS, Bucket, Gateway, act
from minimal_gateway.http1 import Connection, Disconnected, Request
from minimal_gateway.log import TERMINAL
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
_CHUNK = 64 * 1024


class Server:
    """Serves a gateway; `heartbeat` and `grace` are in seconds."""

    def __init__(self, gateway: Gateway, *, heartbeat: float = 15.0, grace: float = 30.0) -> None:
        self._gateway = gateway
        self._heartbeat = heartbeat
        self._grace = grace
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, port: int, stop: asyncio.Event, listening: Callable[[int], None]) -> None:
        """Listen on loopback until `stop` is set, then let active runs finish (DUR-3)."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        listening(server.sockets[0].getsockname()[1])
        await stop.wait()
        self._gateway.draining = True
        sessions = list(self._gateway.sessions.values())
        for session in sessions:
            session.draining = True
            session.log.notify()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                for session in sessions:
                    while session.active and not session.blocked_on_user:
                        await session.log.wait_beyond(len(session.log.events))
        server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs each connection in a task"
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        connection = Connection(reader, writer)
        try:
            await self._handle_requests(connection)
        except (Disconnected, asyncio.CancelledError):  # the client disconnected, or the server stops
            connection.end()

    async def _handle_requests(self, connection: Connection) -> None:
        keep_open = True
        while keep_open:
            request = None
            try:
                request = replace(await connection.head(), cors=CORS)
                keep_open = await self._handle(connection, request)
            except ApiError as error:
                # After an incomplete request, the position of the next one is unknown.
                broken = request is None or error.code in ("payload_too_large", "request_timeout")
                keep_open = request is not None and request.keep_alive and not broken
                await connection.send_error(request, error, last=not keep_open)
        await connection.close()

    async def _handle(self, connection: Connection, request: Request) -> bool:
        """Handle one request; return whether to keep the connection open."""
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
            status, value, headers = await self._gateway.respond(request, body)
        except ApiError:
            if not read:
                await connection.body(request)
            raise
        await connection.respond(request, status, value, headers)
        return request.keep_alive

    # -- streams -------------------------------------------------------------------------------------------------------

    def _open_stream(self, request: Request, session_id: str, **allowed: str | None) -> tuple[Session, str]:
        tenant, key = self._gateway.authenticate(request, url_key=allowed.get("api_key"))
        for name, _ in request.query:
            if name not in allowed:
                raise bad_request(f"{name}: unknown parameter")
        session = self._gateway.session((tenant, session_id))
        if self._gateway.draining:
            raise ApiError("unavailable", "the server is stopping", {"Retry-After": "5"})
        return session, key

    async def _events(self, connection: Connection, request: Request, session_id: str) -> None:
        if any(name == "api_key" for name, _ in request.query):
            raise bad_request("api_key: not allowed in this URL")
        session, _ = self._open_stream(request, session_id)
        read = session.start()
        connection.start(request, 200, _STREAM_HEADERS)
        disconnected = asyncio.create_task(connection.wait_until_disconnected())
        sending = asyncio.create_task(self._send_events(connection, session, read))
        try:
            await asyncio.wait({disconnected, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise Disconnected
            sending.result()
        finally:
            disconnected.cancel()
            sending.cancel()
        raise Disconnected  # wait_until_disconnected may have consumed bytes of the next request

    async def _send_events(self, connection: Connection, session: Session, read: int) -> None:
        await _chunk(connection, b": hello\n")
        while True:
            events = session.log.events[read:]
            over = next((place for place, event in enumerate(events, 1) if event.name in TERMINAL), None)
            events = events[:over]
            read += len(events)
            await _chunk(connection, b"".join(event.sse for event in events))
            if over is not None:
                session.delivered = max(session.delivered, read)
                break
            if session.log.closed or (session.draining and not session.active):
                break
            before = len(session.log.events)
            if before == read:
                await session.log.wait_beyond(read, within=self._heartbeat)
                if len(session.log.events) == read:
                    await _chunk(connection, b": heartbeat\n")
        connection.write(b"0\r\n\r\n")
        await connection.drain()

    async def _socket(self, connection: Connection, request: Request, session_id: str) -> None:
        url_key = next((value for name, value in request.query if name == "api_key"), None)
        session, key = self._open_stream(request, session_id, api_key=url_key)
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
            await session.log.wait_beyond(read)

    async def _listen_to(self, socket: WebSocket, session: Session, key: str) -> None:
        bucket = Bucket(_MESSAGES_A_SECOND, 1)
        while True:
            text = await socket.receive()
            try:
                if bucket.take():
                    raise ApiError("rate_limited", f"more than {_MESSAGES_A_SECOND} messages a second", retryAfter=1)
                self._gateway.count_request(key)
                if text is None:
                    raise bad_request("an action must be a text frame")
                payload: dict[str, Any] = read_object(text.encode("utf-8", "surrogatepass"))
                respond = act(session, payload.pop("action", ""), payload)[1]
            except ApiError as error:
                respond = error.body
            # Nothing else runs before this is written, so it precedes any event that the action causes (WS-4).
            await socket.send(encode(respond).decode())


async def _chunk(connection: Connection, data: bytes) -> None:
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await connection.drain()
