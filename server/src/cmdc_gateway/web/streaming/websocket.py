"""WebSocket: the log on one side, actions on the other (PROTOCOL §6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from pydantic import Field
from starlette.types import Receive, Scope, Send
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
from cmdc_gateway.store.store import SessionKey
from cmdc_gateway.tenancy.limits import RateLimit
from cmdc_gateway.web.actions import Actions
from cmdc_gateway.web.dependencies import (
    AuthContext,
    QueryModel,
    checked_idempotency_key,
    parsed_query,
    validated,
)
from cmdc_gateway.web.errors import as_gateway_error, error_body
from cmdc_gateway.web.middleware.authentication import deny
from cmdc_gateway.web.streaming.connections import Connection, Connections
from cmdc_gateway.web.streaming.cursors import position
from cmdc_gateway.web.streaming.heartbeats import Heartbeats, WatchedStream

PROTOCOL = "cmdc.v1"
MESSAGES_PER_SECOND = 20

SERVER_FAULT = 1011
RESTARTING = 1012
KEY_REVOKED = 4001
SESSION_GONE = 4004
READER_TOO_SLOW = 4008

_SLOW_SECONDS = 5.0
_ACTION_ID_LENGTH = 64
# A frame that is not carried out is still read for its actionId, unless reading it is what costs most: a client that
# sends long frames all the time would have all of the server's (WS-7).
_READ_OVER_LIMIT = 16 * 1024


class SocketQuery(QueryModel):
    """Parameters of the WebSocket's URL."""

    api_key: str | None = Field(None, alias="api_key", description="API key, for clients that cannot set headers.")
    after: str | None = Field(None, description="A cursor, `start` or `latest`.")


class EventSocket:
    """Opens WebSockets on sessions."""

    def __init__(
        self, actions: Actions, *, rate: RateLimit, pulse: Heartbeats, connections: Connections, origins: list[str]
    ) -> None:
        self._actions = actions
        self._rate = rate
        self._pulse = pulse
        self._connections = connections
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        admission = cast("AuthContext", socket.state.auth)
        key = SessionKey(admission.principal.tenant, socket.path_params["session_id"])
        try:
            query = parsed_query(SocketQuery, socket.query_params)
            if self._connections.draining:
                raise Unavailable("the server is stopping", retry_after=5)
            origin = socket.headers.get("origin")
            if origin is not None and "*" not in self._origins and origin not in self._origins:
                raise Forbidden(f"the origin {origin[:100]!r} may not open a WebSocket here")
            session = await self._actions.registry.find(key)
            reader = session.log.reader(position(session.log, "latest" if query.after is None else query.after))
        except Exception as failure:  # noqa: BLE001 - told to the client, logged if it is ours
            await deny(as_gateway_error(failure), scope, receive, send)
            return
        offered = socket.scope.get("subprotocols", [])
        conversation = _Conversation(
            socket, session, reader, admission=admission, actions=self._actions, rate=self._rate
        )
        await conversation.hold(PROTOCOL if PROTOCOL in offered else None, self._pulse, self._connections)


class _Conversation:
    """One open WebSocket.

    Two tasks: one sends what the log has, one takes actions. An action keeps the other quiet until it has been
    acknowledged, so that no event it causes comes before its acknowledgement (WS-4).
    """

    __slots__ = (
        "_abort",
        "_actions",
        "_admission",
        "_beat",
        "_bucket",
        "_connection",
        "_dropped",
        "_log",
        "_push",
        "_quiet",
        "_rate",
        "_reader",
        "_reset",
        "_session",
        "_socket",
    )

    def __init__(
        self,
        socket: WebSocket,
        session: Session,
        reader: Reader,
        *,
        admission: AuthContext,
        actions: Actions,
        rate: RateLimit,
    ) -> None:
        self._socket = socket
        self._session = session
        self._log: EventLog = session.log
        self._reader = reader
        self._admission = admission
        self._actions = actions
        self._rate = rate
        self._quiet = asyncio.Lock()
        loop = asyncio.get_running_loop()
        transport: dict[str, Any] = socket.scope.get("extensions", {}).get("cmdc.transport", {})
        self._abort: Callable[[], None] = transport.get("abort", lambda: None)
        self._reset: Callable[[], None] = transport.get("reset", lambda: None)
        self._beat = WatchedStream(
            wake=_nothing,
            abort=self._too_slow,
            buffered=transport.get("buffered", lambda: 0),
            clock=loop.time,
            wrote_at=loop.time(),
        )
        self._connection = Connection(admission.principal.key_id, reader.wake, session, self._abort)
        self._push: Callable[[bytes], bool] = transport.get("push", _cannot)
        self._bucket = Bucket(MESSAGES_PER_SECOND, MESSAGES_PER_SECOND, MESSAGES_PER_SECOND, loop.time())
        self._dropped: asyncio.Task[None] | None = None

    async def hold(self, subprotocol: str | None, pulse: Heartbeats, connections: Connections) -> None:
        connections.add(self._connection)
        pulse.watch(self._beat)
        loop = asyncio.get_running_loop()
        try:
            await self._socket.accept(subprotocol)
            self._reader.push = self._at_once
            # A connection that breaks may fail both, and the first to say so is believed.
            talking = unattended(loop.create_task(self._talk()))
            listening = unattended(loop.create_task(self._listen()))
            done, pending = await asyncio.wait({talking, listening}, return_when=asyncio.FIRST_COMPLETED)
            if talking in done and listening in pending:
                # An action that is being carried out still gets its acknowledgement.
                async with self._quiet:
                    listening.cancel()
            for task in pending:
                task.cancel()
            await asyncio.wait({talking, listening})
            # A client that leaves fails both at once: what is not raised below is to count as noticed.
            for task in (talking, listening):
                if not task.cancelled():
                    task.exception()
            code = talking.result() if talking in done else None
            if listening in done:
                listening.result()
            if code is not None:
                await self._socket.close(code)
        except WebSocketDisconnect:
            pass
        except Exception as failure:  # noqa: BLE001 - the close code tells the client, the log tells us
            as_gateway_error(failure)
            await self._close_quietly(SERVER_FAULT)
        finally:
            pulse.unwatch(self._beat)
            connections.discard(self._connection)
            self._reader.leave()

    # -- from the log to the client ------------------------------------------------------------------------------------

    async def _talk(self) -> int:
        """Send events as they come; return the close code once there will be none."""
        while True:
            match self._connection.ended:
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
                async with self._quiet:
                    await self._send(event.text)
            if page:
                continue
            if self._log.closed is not None:
                return SESSION_GONE if self._log.closed == "deleted" else SERVER_FAULT
            if self._connection.released:
                return RESTARTING
            await self._reader.wait()

    def _at_once(self, page: Page) -> bool:
        """Send a page with one call, unless an action waits for its acknowledgement."""
        return not self._quiet.locked() and self._connection.ended is None and self._push(page.messages)

    async def _send(self, text: str) -> None:
        self._beat.begin()
        await self._socket.send_text(text)
        self._beat.end()

    def _too_slow(self) -> None:
        """The client does not read: say so, if it will still hear it, and end the connection (SSE-10, WS-6)."""
        if self._dropped is None:
            self._dropped = asyncio.get_running_loop().create_task(self._drop())

    async def _drop(self) -> None:
        try:
            async with asyncio.timeout(_SLOW_SECONDS):
                await self._close_quietly(READER_TOO_SLOW)
        except TimeoutError:
            self._reset()
        else:
            self._abort()

    async def _close_quietly(self, code: int) -> None:
        with suppress(RuntimeError, OSError, WebSocketDisconnect):  # it may be closed already
            await self._socket.close(code)

    # -- from the client to the session --------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            async with self._quiet:
                await self._send(await self._acknowledgement(message))

    async def _acknowledgement(self, message: Any) -> str:
        """What answers one frame (WS-4, WS-5)."""
        action_id: str | None = None
        limited = self._over_limit()
        try:
            if limited is not None and len(message.get("text") or "") > _READ_OVER_LIMIT:
                raise limited
            data = self._parsed(message)
            action_id = _action_id(data)
            if self._connection.ended == "revoked":  # in this moment; the connection is about to be closed
                raise Unauthorized
            if limited is not None:
                raise limited
            answer = (await self._carry_out(data)).body
        except Exception as failure:  # noqa: BLE001 - told to the client; what is ours is logged with an id
            answer = error_body(as_gateway_error(limited or failure))
        if action_id is None:
            return answer.decode()
        return dumps({**json.loads(answer), "actionId": action_id}).decode()

    def _parsed(self, message: Any) -> dict[str, Any]:
        text = message.get("text")
        if text is None:
            raise BadRequest("actions are sent as text frames, not binary ones")
        try:
            return dict(parse_object(text.encode("utf-8", "surrogatepass")))
        except NotStrictJson as flaw:
            raise BadRequest(f"the frame is not acceptable JSON: {flaw}") from None

    def _over_limit(self) -> RateLimited | None:
        """Every frame counts for this connection (WS-7), and each as a request of its key (HTTP-9)."""
        self._bucket, wait = self._bucket.take(asyncio.get_running_loop().time())
        if wait > 0:
            return RateLimited(1)
        try:
            self._rate.spend(self._admission.principal.key_id)
        except RateLimited as refusal:
            return refusal
        return None

    async def _carry_out(self, data: dict[str, Any]) -> StoredResponse:
        action = data.pop("action", None)
        once: str | None = None
        if "idempotencyKey" in data:
            given = data.pop("idempotencyKey")
            once = checked_idempotency_key(given if isinstance(given, str) else "")
        if action not in ("prompt", "approve", "reject", "respond", "abort"):
            raise BadRequest(
                "action must be one of prompt, approve, reject, respond, abort", [("action", "unknown or missing")]
            )
        if self._admission.ticket_scope == "read":
            raise Forbidden("a ticket of scope `read` allows no action")
        key, caller, actions = self._session.key, self._admission.principal, self._actions
        match action:
            case "prompt":
                return await actions.prompt(caller, key, validated(PromptBody, data), once)
            case "approve":
                return await actions.approve(caller, key, validated(ApproveBody, data), once)
            case "reject":
                return await actions.reject(caller, key, validated(RejectBody, data), once)
            case "respond":
                return await actions.respond(caller, key, validated(RespondBody, data), once)
            case _:
                return await actions.abort(caller, key, validated(AbortBody, data), once)


def _nothing() -> None:
    """A WebSocket's own pings are its heartbeat."""


def _cannot(frames: bytes) -> bool:
    del frames
    return False


def _action_id(data: dict[str, Any]) -> str | None:
    if "actionId" not in data:
        return None
    given = data.pop("actionId")
    if not (isinstance(given, str) and len(given) <= _ACTION_ID_LENGTH):
        raise BadRequest(f"actionId must be a string of at most {_ACTION_ID_LENGTH} characters")
    return given
