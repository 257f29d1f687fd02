"""Mutants with faulty WebSockets (WS)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cmdc_gateway import app, server
from cmdc_gateway.errors import Unauthorized
from cmdc_gateway.web import dispatcher
from cmdc_gateway.web.middleware import authentication
from cmdc_gateway.web.streaming import connections, websocket

from broken_gateways.mutant import breaks
from broken_gateways.patching import after, change_frames, put_before, wrap

_Frame = dict[str, Any]


def _headers_of(scope: Any) -> dict[bytes, bytes]:
    return dict(scope["headers"])


def _admit(change: Any) -> None:
    wrap(authentication.AuthenticationMiddleware, "_authenticate_websocket", change)


# -- WS-1, WS-2 --------------------------------------------------------------------------------------------------------


@breaks("WS-1.header")
def no_header() -> None:
    """Authorization does not authenticate a WebSocket."""

    def around(original: Any) -> Any:
        def admit(self: Any, scope: Any) -> Any:
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
            return original(self, scope)

        return admit

    _admit(around)


@breaks("WS-1.api-key")
def no_key_in_the_url() -> None:
    """?api_key= does not authenticate a WebSocket."""

    def around(original: Any) -> Any:
        def admit(self: Any, scope: Any) -> Any:
            if b"api_key=" in scope["query_string"] and b"x-api-key" not in _headers_of(scope):
                raise Unauthorized
            return original(self, scope)

        return admit

    _admit(around)


@breaks("WS-1.ticket")
def no_ticket_for_websockets() -> None:
    """A ticket does not authenticate a WebSocket."""

    def around(original: Any) -> Any:
        def admit(self: Any, scope: Any) -> Any:
            if any(name.startswith("cmdc.ticket.") for name in scope.get("subprotocols", ())):
                raise Unauthorized
            return original(self, scope)

        return admit

    _admit(around)


def _reject_after_the_upgrade(status: int) -> None:
    """Reject a WebSocket after it was opened."""

    def around(original: Any) -> Any:
        async def deny(error: Any, scope: Any, receive: Any, send: Any) -> None:
            if status_of(error) != status:
                await original(error, scope, receive, send)
                return
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 1008})

        return deny

    from cmdc_gateway.web.errors import STATUS

    def status_of(error: Any) -> int:
        return STATUS[error.code]

    for owner in (authentication, dispatcher, websocket):
        wrap(owner, "deny_websocket", around)


@breaks("WS-1.unauthorized", "WS-1.api-key", "WS-1.ticket")
def unauthorized_after_the_upgrade() -> None:
    """Invalid credentials close the WebSocket after the upgrade."""
    _reject_after_the_upgrade(401)


@breaks("WS-1.unknown", "HTTP-8.ws")
def unknown_after_the_upgrade() -> None:
    """An unknown session closes the WebSocket after the upgrade."""
    _reject_after_the_upgrade(404)


@breaks("WS-1.plain")
def plain_get() -> None:
    """A plain GET of the WebSocket route returns 404."""
    from cmdc_gateway.errors import NotFound
    from cmdc_gateway.web.routes import events

    class Nothing(NotFound):
        def __init__(self) -> None:
            super().__init__("there is nothing here without an upgrade")

    wrap(events, "UpgradeRequired", lambda _: Nothing)


@breaks("WS-1.origin")
def any_origin() -> None:
    """Any Origin is allowed."""

    def around(original: Any) -> Any:
        def init(self: Any, *args: Any, **options: Any) -> None:
            original(self, *args, **{**options, "origins": ["*"]})

        return init

    wrap(websocket.EventSocket, "__init__", around)


@breaks("WS-2.events", "EP-prompt.fifo", "EVT-2.terminal")
def one_run_only() -> None:
    """A WebSocket delivers the events of only one run."""

    def wrap_app(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            over = False

            async def send_changed(message: Any) -> None:
                nonlocal over
                text = message.get("text", "") if message["type"] == "websocket.send" else ""
                if not (over and text.startswith('{"event"')):
                    await send(message)
                over = over or text.startswith(('{"event":"agent_end"', '{"event":"agent_abort"'))

            await app(scope, receive, send_changed if scope["type"] == "websocket" else send)

        return changed

    put_before(wrap_app)


@breaks("WS-2.after")
def after_ignored() -> None:
    """?after= of a WebSocket is accepted and ignored."""
    wrap(websocket, "position", lambda original: lambda log, _: original(log, "latest"))


# -- WS-3 --------------------------------------------------------------------------------------------------------------


def _carry_out(around: Any) -> None:
    wrap(websocket._OpenSocket, "_execute", around)


@breaks(
    *("WS-3.prompt", "EP-prompt.accepted", "EP-prompt.fifo", "EP-messages.history", "SSE-9.own", "WS-3.idempotency")
)
def prompt_with_a_space() -> None:
    """A prompt over a WebSocket is prefixed with a space."""

    def around(original: Any) -> Any:
        async def carry_out(self: Any, data: _Frame) -> Any:
            if data.get("action") == "prompt" and isinstance(data.get("text"), str) and len(data["text"]) > 1:
                data["text"] = f" {data['text']}"
            return await original(self, data)

        return carry_out

    _carry_out(around)


@breaks("WS-3.decisions", "APP-1.reject", "APP-2.other", "EVT-4.not-run")
def reject_means_approve() -> None:
    """A reject over a WebSocket approves the call."""

    def around(original: Any) -> Any:
        async def carry_out(self: Any, data: _Frame) -> Any:
            if data.get("action") == "reject":
                data["action"] = "approve"
                data.pop("reason", None)
            return await original(self, data)

        return carry_out

    _carry_out(around)


@breaks("WS-3.abort", "EP-abort.active", "EP-abort.reason", "WS-3.read-ticket")
def abort_ignored() -> None:
    """An abort over a WebSocket has no effect."""
    from cmdc_gateway.protocol.sessions import AbortTaken
    from cmdc_gateway.sessions.idempotency import StoredResponse

    def around(original: Any) -> Any:
        async def carry_out(self: Any, data: _Frame) -> Any:
            if data.get("action") == "abort":
                return StoredResponse(200, AbortTaken(ok=False).encode())
            return await original(self, data)

        return carry_out

    _carry_out(around)


@breaks(
    *("WS-3.refusals", "APP-2.other", "APP-2.unknown", "APP-2.expired", "APP-2.cancelled"),
    *("ASK-1.other", "ASK-1.unknown"),
)
def other_error_over_websocket() -> None:
    """An action returns forbidden where its route returns not_found."""

    def change(frame: _Frame) -> list[_Frame]:
        if frame.get("error") in ("not_found", "already_resolved"):
            frame["error"] = "forbidden"
        return [frame]

    change_frames(change)


@breaks("WS-3.read-ticket")
def read_ticket_acts() -> None:
    """A read ticket permits actions."""

    def around(original: Any) -> Any:
        async def carry_out(self: Any, data: _Frame) -> Any:
            self._auth = replace(self._auth, ticket_scope=None)
            return await original(self, data)

        return carry_out

    _carry_out(around)


@breaks("WS-3.idempotency")
def idempotency_key_ignored_over_websocket() -> None:
    """The member idempotencyKey is accepted and ignored."""

    def around(original: Any) -> Any:
        async def carry_out(self: Any, data: _Frame) -> Any:
            data.pop("idempotencyKey", None)
            return await original(self, data)

        return carry_out

    _carry_out(around)


# -- WS-4, WS-5 --------------------------------------------------------------------------------------------------------


@breaks("WS-4.one", "WS-5.bad-frames", "WS-7")
def acknowledged_twice() -> None:
    """The third action of a connection is acknowledged twice."""

    def wrap_app(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            acknowledged = 0

            async def send_changed(message: Any) -> None:
                nonlocal acknowledged
                await send(message)
                text = message.get("text", "") if message["type"] == "websocket.send" else ""
                acknowledged += text.startswith('{"') and not text.startswith('{"event"')
                if acknowledged == 3 and not text.startswith('{"event"'):
                    await send(message)

            await app(scope, receive, send_changed if scope["type"] == "websocket" else send)

        return changed

    put_before(wrap_app)


@breaks("WS-4.before")
def acknowledged_last() -> None:
    """An acknowledgement follows the first events that its action causes."""

    def wrap_app(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            buffered: list[Any] = []

            async def send_changed(message: Any) -> None:
                text = message.get("text", "") if message["type"] == "websocket.send" else ""
                if text and not text.startswith('{"event"') and '"requestId"' in text:
                    buffered.append(message)
                    return
                await send(message)
                while buffered:
                    await send(buffered.pop(0))

            await app(scope, receive, send_changed if scope["type"] == "websocket" else send)

        return changed

    put_before(wrap_app)


@breaks("WS-4.action-id")
def action_id_lost() -> None:
    """Errors have no actionId."""

    def change(frame: _Frame) -> list[_Frame]:
        if "error" in frame:
            frame.pop("actionId", None)
        return [frame]

    change_frames(change)


@breaks("WS-5.bad-frames")
def bad_message_closes() -> None:
    """A message that is not JSON closes the connection."""
    from starlette.websockets import WebSocketDisconnect

    def around(original: Any) -> Any:
        async def acknowledgement(self: Any, message: Any) -> str:
            response = await original(self, message)
            if "not acceptable JSON" in response:
                await self._socket.close(1007)
                raise WebSocketDisconnect(1007)
            return response

        return acknowledgement

    wrap(websocket._OpenSocket, "_acknowledge", around)


@breaks("WS-5.too-big")
def unlimited_message() -> None:
    """A message of any size is accepted."""

    def change(usual: Any) -> Any:
        return replace(usual, ws_message_bytes=2**30)

    for owner in (app, server):
        after(owner, "http_limits", change)


# -- WS-6, WS-7 --------------------------------------------------------------------------------------------------------


@breaks("WS-6.ping")
def no_ping() -> None:
    """The server sends no pings."""

    def around(original: Any) -> Any:
        def app_config(*args: Any) -> Any:
            config = original(*args)
            config.ws_ping_interval = None
            return config

        return app_config

    wrap(server, "app_config", around)


@breaks("WS-6.pong")
def no_pong_needed() -> None:
    """An unanswered ping does not close the connection."""

    def around(original: Any) -> Any:
        def app_config(*args: Any) -> Any:
            config = original(*args)
            config.ws_ping_timeout = None
            return config

        return app_config

    wrap(server, "app_config", around)


@breaks("WS-6.revoked")
def revoked_with_wrong_code() -> None:
    """Revoking a key closes its WebSockets with another code."""
    wrap(websocket, "KEY_REVOKED", lambda _: 1008)


@breaks("WS-6.revoked")
def websocket_survives_revocation() -> None:
    """A WebSocket stays open after its key is revoked."""
    wrap(connections.Connections, "revoke", lambda _: lambda *_: None)


@breaks("WS-6.slow")
def slow_with_wrong_code() -> None:
    """A slow reader is disconnected with another code."""
    wrap(websocket, "READER_TOO_SLOW", lambda _: 1008)


@breaks("WS-6.deleted")
def deleted_with_normal_closure() -> None:
    """Deleting a session closes its WebSockets with a normal closure."""
    wrap(websocket, "SESSION_GONE", lambda _: 1000)


@breaks("WS-7")
def no_message_rate_limit() -> None:
    """Any number of messages per second is accepted."""

    def around(original: Any) -> Any:
        def over_limit(self: Any) -> Any:
            self._bucket = replace(self._bucket, tokens=self._bucket.capacity)
            return original(self)

        return over_limit

    wrap(websocket._OpenSocket, "_count_frame", around)
