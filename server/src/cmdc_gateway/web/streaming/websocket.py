"""WebSockets: one connection sends a session's log and takes actions on the session (WS-1 … WS-7).

States. `EventSocket` checks the handshake and rejects it with an HTTP error, or accepts it and runs an `_OpenSocket`
until one of its two tasks ends:

    handshake ──rejected──▶ HTTP error (WS-1)
        └──accepted──▶ open ──▶ closed: 1011 failure · 1012 restart · 4001 key revoked · 4004 session gone · 4008 too slow

Ownership. Of an open socket, the sender task (`_send_events`) owns the reader and the decision to close: it returns the
close code. The receiver task (`_receive_actions`) owns incoming frames, and has at most one action in progress: frames
behind it wait in the connection, which makes the client wait. `run` owns both tasks and the registration with `Heartbeats`
and `Connections`. `Connections` may wake the sender, with a reason to end; `Heartbeats` may call `_on_stalled`.

Invariants:

- `_send_lock` is held for every frame sent, and by the receiver for an action together with its acknowledgement. So no
  event caused by an action arrives before its acknowledgement (WS-4). While it is held, `_push_page` sends nothing.
- Every event is sent once, in order: a page goes out either through `_push_page`, complete, or through the sender.
- An action whose execution has begun is acknowledged, also when the socket is about to be closed.
- Each frame counts against the limit of the connection and against the rate of its key, whatever it contains (WS-7).

On failure. An action that fails is acknowledged with an error, and the socket stays open; an unexpected exception is
logged with an incident id. If the client disconnects, both tasks may fail; neither failure is reported. A client that does
not read is closed with 4008, and reset if it does not take even the close frame within `_SLOW_SECONDS`. Anything else that
fails closes with 1011.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from pydantic import Field
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from cmdc_gateway.errors import BadRequest, Forbidden, RateLimited, Unauthorized, Unavailable
from cmdc_gateway.kernel.bucket import Bucket
from cmdc_gateway.protocol.decisions import ApproveBody, RejectBody, RespondBody
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.frames import Page
from cmdc_gateway.protocol.sessions import AbortBody, PromptBody
from cmdc_gateway.protocol.strict import NotStrictJson, parse_object
from cmdc_gateway.sessions.command import unattended
from cmdc_gateway.sessions.idempotency import StoredResponse
from cmdc_gateway.sessions.log import EventLog, Reader, Trimmed
from cmdc_gateway.sessions.session import Session
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.tenancy.limits import RateLimit
from cmdc_gateway.web.actions import Actions
from cmdc_gateway.web.auth import AuthContext, auth_of
from cmdc_gateway.web.dependencies import QueryModel, checked_idempotency_key, parsed_query, validated
from cmdc_gateway.web.errors import as_gateway_error, deny_websocket, error_body
from cmdc_gateway.web.routing import route_match
from cmdc_gateway.web.streaming.connections import Connection, Connections
from cmdc_gateway.web.streaming.cursors import position
from cmdc_gateway.web.streaming.heartbeats import Heartbeats, WatchedStream
from cmdc_gateway.web.transport.handle import transport_of

PROTOCOL = "cmdc.v1"
MESSAGES_PER_SECOND = 20

SERVER_FAULT = 1011
RESTARTING = 1012
KEY_REVOKED = 4001
SESSION_GONE = 4004
READER_TOO_SLOW = 4008

_SLOW_SECONDS = 5.0
_ACTION_ID_LENGTH = 64
# A frame over the rate limit is still parsed for its actionId, but not a long one: parsing it would cost more than the
# limit saves (WS-7).
_PARSED_OVER_LIMIT_BYTES = 16 * 1024


class SocketQuery(QueryModel):
    """Parameters of the WebSocket's URL."""

    api_key: str | None = Field(None, alias="api_key", description="API key, for clients that cannot set headers.")
    after: str | None = Field(None, description="A cursor, `start` or `latest`.")


class EventSocket:
    """ASGI application that opens WebSockets on sessions."""

    def __init__(
        self,
        actions: Actions,
        *,
        rate: RateLimit,
        heartbeats: Heartbeats,
        connections: Connections,
        origins: list[str],
    ) -> None:
        self._actions = actions
        self._rate = rate
        self._heartbeats = heartbeats
        self._connections = connections
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        auth = auth_of(scope)
        key = SessionKey(auth.principal.tenant, route_match(scope).params["session_id"])
        try:
            query = parsed_query(SocketQuery, socket.query_params)
            if self._connections.draining:
                raise Unavailable("the server is stopping", retry_after=5)
            self._check_origin(socket.headers.get("origin"))
            session = await self._actions.registry.find(key)
            reader = session.log.reader(position(session.log, "latest" if query.after is None else query.after))
        except Exception as failure:  # noqa: BLE001 - answered, and logged if it is unexpected
            await deny_websocket(as_gateway_error(failure), scope, receive, send)
            return
        offered = socket.scope.get("subprotocols", [])
        opened = _OpenSocket(socket, session, reader, auth=auth, actions=self._actions, rate=self._rate)
        await opened.run(PROTOCOL if PROTOCOL in offered else None, self._heartbeats, self._connections)

    def _check_origin(self, origin: str | None) -> None:
        if origin is not None and "*" not in self._origins and origin not in self._origins:
            raise Forbidden(f"the origin {origin[:100]!r} is not allowed to open a WebSocket here")


class _OpenSocket:
    """One open WebSocket."""

    __slots__ = (
        "_actions",
        "_auth",
        "_bucket",
        "_closing_task",
        "_connection",
        "_log",
        "_push",
        "_rate",
        "_reader",
        "_send_lock",
        "_session",
        "_socket",
        "_stream",
        "_transport",
    )

    def __init__(
        self,
        socket: WebSocket,
        session: Session,
        reader: Reader,
        *,
        auth: AuthContext,
        actions: Actions,
        rate: RateLimit,
    ) -> None:
        self._socket = socket
        self._session = session
        self._log: EventLog = session.log
        self._reader = reader
        self._auth = auth
        self._actions = actions
        self._rate = rate
        self._send_lock = asyncio.Lock()
        self._transport = transport_of(socket.scope)
        self._push = self._transport.pusher()
        now = asyncio.get_running_loop().time
        self._stream = WatchedStream(
            wake=_send_no_heartbeat,
            abort=self._on_stalled,
            buffered_bytes=self._transport.buffered_bytes,
            clock=now,
            wrote_at=now(),
        )
        self._connection = Connection(auth.principal.key_id, reader.wake, session, self._transport.abort)
        self._bucket = Bucket(MESSAGES_PER_SECOND, MESSAGES_PER_SECOND, MESSAGES_PER_SECOND, now())
        self._closing_task: asyncio.Task[None] | None = None

    async def run(self, subprotocol: str | None, heartbeats: Heartbeats, connections: Connections) -> None:
        """Accept the handshake and serve the connection until it is closed."""
        connections.add(self._connection)
        heartbeats.watch(self._stream)
        try:
            await self._socket.accept(subprotocol)
            if self._push is not None:
                self._reader.push = self._push_page
            code = await self._run_tasks()
            if code is not None:
                await self._socket.close(code)
        except WebSocketDisconnect:
            pass
        except Exception as failure:  # noqa: BLE001 - logged; the close code tells the client
            as_gateway_error(failure)
            await self._close_quietly(SERVER_FAULT)
        finally:
            heartbeats.unwatch(self._stream)
            connections.discard(self._connection)
            self._reader.leave()

    async def _run_tasks(self) -> int | None:
        """Run sender and receiver until one ends. Returns the close code, None if the client is gone."""
        loop = asyncio.get_running_loop()
        # A broken connection may fail both tasks; the failure of the one that is done first is raised.
        sender = unattended(loop.create_task(self._send_events()))
        receiver = unattended(loop.create_task(self._receive_actions()))
        done, pending = await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
        if sender in done and receiver in pending:
            async with self._send_lock:  # an action in progress still gets its acknowledgement
                receiver.cancel()
        for task in pending:
            task.cancel()
        await asyncio.wait({sender, receiver})
        for task in (sender, receiver):
            if not task.cancelled():
                task.exception()  # mark it as retrieved: only one of two failures is raised
        code = sender.result() if sender in done else None
        if receiver in done:
            receiver.result()
        return code

    # -- from the log to the client ------------------------------------------------------------------------------------

    async def _send_events(self) -> int:
        """Send events until none will follow; return the close code."""
        while True:
            match self._connection.end_reason:
                case "revoked":
                    return KEY_REVOKED
                case "shutdown":
                    return RESTARTING
                case _:
                    pass
            try:
                page = await self._reader.take()
            except Trimmed:
                return READER_TOO_SLOW
            for event in page:
                async with self._send_lock:
                    await self._send(event.text)
            if page:
                continue
            if self._log.closed is not None:
                return SESSION_GONE if self._log.closed == "deleted" else SERVER_FAULT
            if self._connection.drained:
                return RESTARTING
            await self._reader.wait()

    def _push_page(self, page: Page) -> bool:
        """Write a page without waking the sender, unless an acknowledgement has to come first."""
        if self._push is None or self._send_lock.locked() or self._connection.end_reason is not None:
            return False
        return self._push(page.messages)

    async def _send(self, text: str) -> None:
        self._stream.begin_write()
        await self._socket.send_text(text)
        self._stream.end_write()

    def _on_stalled(self) -> None:
        """Close the connection of a client that does not read (SSE-10, WS-6)."""
        if self._closing_task is None:
            self._closing_task = asyncio.get_running_loop().create_task(self._close_stalled())

    async def _close_stalled(self) -> None:
        try:
            async with asyncio.timeout(_SLOW_SECONDS):
                await self._close_quietly(READER_TOO_SLOW)
        except TimeoutError:
            self._transport.reset()
        else:
            self._transport.abort()

    async def _close_quietly(self, code: int) -> None:
        with suppress(RuntimeError, OSError, WebSocketDisconnect):  # it may be closed already
            await self._socket.close(code)

    # -- from the client to the session --------------------------------------------------------------------------------

    async def _receive_actions(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            async with self._send_lock:
                await self._send(await self._acknowledge(message))

    async def _acknowledge(self, message: Message) -> str:
        """Execute the action of a frame and return its acknowledgement, or an error (WS-4, WS-5)."""
        action_id: str | None = None
        rate_error = self._count_frame()
        try:
            if rate_error is not None and len(message.get("text") or "") > _PARSED_OVER_LIMIT_BYTES:
                raise rate_error
            data = _parsed_frame(message)
            action_id = _action_id(data)
            if self._connection.end_reason == "revoked":  # just now: the sender is about to close the connection
                raise Unauthorized
            if rate_error is not None:
                raise rate_error
            body = (await self._execute(data)).body
        except Exception as failure:  # noqa: BLE001 - answered; an unexpected one is logged with an incident id
            body = error_body(as_gateway_error(rate_error or failure))
        if action_id is None:
            return body.decode()
        return dumps({**json.loads(body), "actionId": action_id}).decode()

    def _count_frame(self) -> RateLimited | None:
        """Count a frame against the limit of the connection (WS-7) and the rate of its key (HTTP-9)."""
        self._bucket, wait = self._bucket.take(asyncio.get_running_loop().time())
        if wait > 0:
            return RateLimited(1)
        try:
            self._rate.spend(self._auth.principal.key_id)
        except RateLimited as error:
            return error
        return None

    async def _execute(self, data: dict[str, Any]) -> StoredResponse:
        action = data.pop("action", None)
        idempotency_key = _idempotency_key(data)
        if action not in ("prompt", "approve", "reject", "respond", "abort"):
            raise BadRequest(
                "action must be one of prompt, approve, reject, respond, abort", [("action", "unknown or missing")]
            )
        if self._auth.ticket_scope == "read":
            raise Forbidden("a ticket of scope `read` allows no actions")
        key, principal, actions = self._session.key, self._auth.principal, self._actions
        match action:
            case "prompt":
                return await actions.prompt(principal, key, validated(PromptBody, data), idempotency_key)
            case "approve":
                return await actions.approve(principal, key, validated(ApproveBody, data), idempotency_key)
            case "reject":
                return await actions.reject(principal, key, validated(RejectBody, data), idempotency_key)
            case "respond":
                return await actions.respond(principal, key, validated(RespondBody, data), idempotency_key)
            case _:
                return await actions.abort(principal, key, validated(AbortBody, data), idempotency_key)


def _send_no_heartbeat() -> None:
    """A WebSocket needs no heartbeat: uvicorn sends pings."""


def _parsed_frame(message: Message) -> dict[str, Any]:
    text = message.get("text")
    if text is None:
        raise BadRequest("actions are sent as text frames, not as binary frames")
    try:
        return dict(parse_object(text.encode("utf-8", "surrogatepass")))
    except NotStrictJson as error:
        raise BadRequest(f"the frame is not acceptable JSON: {error}") from None


def _idempotency_key(data: dict[str, Any]) -> str | None:
    """Remove and return the idempotencyKey (HTTP-11). Raises BadRequest."""
    if "idempotencyKey" not in data:
        return None
    value = data.pop("idempotencyKey")
    return checked_idempotency_key(value if isinstance(value, str) else "")


def _action_id(data: dict[str, Any]) -> str | None:
    """Remove and return the actionId. Raises BadRequest."""
    if "actionId" not in data:
        return None
    value = data.pop("actionId")
    if not (isinstance(value, str) and len(value) <= _ACTION_ID_LENGTH):
        raise BadRequest(f"actionId must be a string of at most {_ACTION_ID_LENGTH} characters")
    return value
