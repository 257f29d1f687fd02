"""A session's WebSocket: events, acknowledgements, and the order in which they arrive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, cast
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Origin, Subprotocol

from cmdc_conformance import schemas
from cmdc_conformance.findings import Blocked
from cmdc_conformance.wire.event import Event
from cmdc_conformance.wire.http import ApiClient, ApiResponse, JsonObject, RateLimitBackoff, retry_delay
from cmdc_conformance.wire.reader import Observer, Reader

# The status of the HTTP route that does the same as an action.
_SUCCESS = {"prompt": 202, "approve": 200, "reject": 200, "respond": 200, "abort": 202}


class HandshakeRejected(Blocked):
    """The server did not upgrade the connection. `response` is what it returned instead."""

    def __init__(self, response: ApiResponse) -> None:
        super().__init__(f"{response.request} returned {response.status} and was not upgraded")
        self.response = response


class WsReader(Reader):
    """An open WebSocket. `order` lists events and acknowledgements as they arrived."""

    transport = "ws"

    def __init__(
        self, connection: ClientConnection, observer: Observer, key: str, *, deadline: float, backoff: RateLimitBackoff
    ) -> None:
        super().__init__(observer, key, deadline=deadline, whole=False)
        self.connection = connection
        self.acks: list[JsonObject] = []
        self.order: list[tuple[Literal["ack", "event"], str]] = []
        self.close_code: int | None = None
        self._backoff = backoff
        self._acks_taken = 0
        self._acting = asyncio.Lock()

    async def _read(self) -> None:
        try:
            async for message in self.connection:
                await self._message(message)
        except ConnectionClosed as closed:
            self.failure = str(closed)
        self.close_code = self.connection.close_code

    async def _message(self, message: str | bytes) -> None:
        self._observer.monitors.observed["WS-2.events"] += 1
        try:
            frame = json.loads(message) if isinstance(message, str) else None
        except ValueError:
            frame = None
        if not isinstance(frame, dict):
            self._observer.report("WS-2.events", f"a message is not a JSON object: {message[:200]!r}")
            return
        await self._frame(cast("JsonObject", frame))

    async def _frame(self, frame: JsonObject) -> None:
        name, data, cursor = frame.get("event"), frame.get("data"), frame.get("id")
        if "event" not in frame:
            self._observer.evidence.note(f"← ws {json.dumps(frame, ensure_ascii=False)}")
            self.acks.append(frame)
            self.order.append(("ack", ""))
            await self._notify()
        elif isinstance(name, str) and isinstance(data, dict) and isinstance(cursor, str | None):
            extra = [member for member in frame if member not in ("event", "data", "id")]
            if extra or (self._observer.monitors.extended and cursor is None):
                self._observer.report("EVT-5.schema", f"{name} on the WebSocket has the members {', '.join(frame)}")
            self.order.append(("event", name))
            await self.receive(Event(name, cast("JsonObject", data), cursor))
        else:
            self._observer.report("EVT-5.schema", f"invalid event on the WebSocket: {str(frame)[:200]}")

    # -- sending -------------------------------------------------------------------------------------------------------

    async def act(self, action: str, **members: Any) -> ApiResponse:
        """Send an action and wait for its acknowledgement; repeat it while it is rate limited. Raises Blocked."""
        frame = json.dumps({"action": action, **members}, ensure_ascii=False)
        while True:
            response = await self.send(frame, what=action)
            delay = retry_delay(response)
            if delay is None:
                return response
            await self._backoff.sleep(delay)

    async def send(self, message: str | bytes, *, what: str = "a frame") -> ApiResponse:
        """Send any message and wait for its acknowledgement. Raises Blocked."""
        async with self._acting:
            await self.send_only(message)
            expected = self._acks_taken + 1
            await self.wait(lambda: len(self.acks) >= expected, f"{what} was not acknowledged on the WebSocket")
            body = self.acks[self._acks_taken]
            self._acks_taken = expected
        return ack_response(what, body)

    async def send_only(self, message: str | bytes) -> None:
        """Send any message without waiting for an acknowledgement. Raises Blocked."""
        self._observer.evidence.note(f"→ ws {message!r:.2000}")
        try:
            await self.connection.send(message)
        except ConnectionClosed as closed:
            raise Blocked(f"the WebSocket is closed: {closed}") from None

    async def close(self) -> None:
        """Close the connection; abort it if the closing handshake takes too long."""
        await super().close()
        try:
            async with asyncio.timeout(self._deadline):
                await self.connection.close()
        except TimeoutError:
            self.connection.transport.abort()


def ack_response(action: str, body: JsonObject) -> ApiResponse:
    """An acknowledgement as the equivalent response of the action's HTTP route."""
    code = body.get("error")
    if isinstance(code, str):
        return ApiResponse(f"the action {action}", schemas.STATUS_OF.get(code, 0), body)
    status = 200 if body.get("ok") is False else _SUCCESS.get(action, 0)
    return ApiResponse(f"the action {action}", status, body)


@asynccontextmanager
async def connect_websocket(
    http: ApiClient,
    session: str,
    key: str,
    *,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] = (),
    origin: str | None = None,
    **params: str,
) -> AsyncGenerator[WsReader]:
    """Open the WebSocket of a session. Raises HandshakeRejected, or Blocked if there is no response."""
    path = f"/v1/sessions/{session}/ws{f'?{urlencode(params)}' if params else ''}"
    http.observer.evidence.note(f"→ GET {path} (upgrade)")
    while True:
        try:
            async with asyncio.timeout(http.deadline):
                connection = await connect(
                    f"ws{http.url.removeprefix('http')}{path}",
                    additional_headers={**http.credentials, **(headers or {})},
                    subprotocols=[Subprotocol(each) for each in subprotocols] or None,
                    origin=Origin(origin) if origin else None,
                    compression=None,
                    max_size=None,
                    ping_interval=None,
                    proxy=None,
                    close_timeout=http.deadline,
                )
        except InvalidStatus as rejected:
            raw = rejected.response
            fields = {name.lower(): value for name, value in raw.headers.raw_items()}
            response = http.parse("GET", path, raw.status_code, fields, bytes(raw.body or b""))
            if response.code == "rate_limited" and fields.get("retry-after", "").isdigit():
                await http.backoff.sleep(int(fields["retry-after"]))
                continue
            raise HandshakeRejected(response) from None
        except (OSError, TimeoutError, WebSocketException) as failure:
            raise Blocked(f"GET {path[:200]} was not upgraded: {type(failure).__name__} {failure}") from None
        break
    http.observer.evidence.note("← 101")
    reader = WsReader(connection, http.observer, key, deadline=http.deadline, backoff=http.backoff)
    async with reader.start():
        yield reader


async def handshake_response(http: ApiClient, session: str, **options: Any) -> ApiResponse:
    """Try to open a WebSocket, close it, and return the response to the handshake; its status is 101 on success."""
    try:
        async with connect_websocket(http, session, session, **options):
            return ApiResponse(f"GET /v1/sessions/{session}/ws", 101, {})
    except HandshakeRejected as rejected:
        return rejected.response
