"""WebSockets as they are: events, acknowledgements, and in which order they came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, cast
from urllib.parse import urlencode

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Origin, Subprotocol

from cmdc_conformance import schemas
from cmdc_conformance.findings import Blocked
from cmdc_conformance.monitors import Event
from cmdc_conformance.reader import Reader, Watch
from cmdc_conformance.wire import Answer, Http, JsonObject, Patience

# What the HTTP route of an action answers.
_SUCCESS = {"prompt": 202, "approve": 200, "reject": 200, "respond": 200, "abort": 202}


class Refused(Blocked):
    """The server did not upgrade; this is what it answered."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.request} was answered {answer.status}, and not upgraded")
        self.answer = answer


class WsReader(Reader):
    """An open WebSocket. `order` is what came, in order: events and acknowledgements."""

    transport = "ws"

    def __init__(
        self, connection: ClientConnection, watch: Watch, key: str, *, deadline: float, patience: Patience
    ) -> None:
        super().__init__(watch, key, deadline=deadline, whole=False)
        self._patience = patience
        self.connection = connection
        self.acks: list[JsonObject] = []
        self.order: list[tuple[Literal["ack", "event"], str]] = []
        self.close_code: int | None = None
        self._taken = 0
        self._acting = asyncio.Lock()

    async def _read(self) -> None:
        try:
            async for message in self.connection:
                await self._message(message)
        except ConnectionClosed as closed:
            self.failure = str(closed)
        self.close_code = self.connection.close_code

    async def _message(self, message: str | bytes) -> None:
        self._watch.monitors.observed["WS-2.events"] += 1
        try:
            frame = json.loads(message) if isinstance(message, str) else None
        except ValueError:
            frame = None
        if not isinstance(frame, dict):
            self._watch.report("WS-2.events", f"a message is no object of JSON: {message[:200]!r}")
            return
        await self._take_frame(cast("JsonObject", frame))

    async def _take_frame(self, frame: JsonObject) -> None:
        name, data, cursor = frame.get("event"), frame.get("data"), frame.get("id")
        if "event" not in frame:
            self._watch.evidence.note(f"← ws {json.dumps(frame, ensure_ascii=False)}")
            self.acks.append(frame)
            self.order.append(("ack", ""))
            await self._tell()
        elif isinstance(name, str) and isinstance(data, dict) and isinstance(cursor, str | None):
            extra = [member for member in frame if member not in ("event", "data", "id")]
            if extra or (self._watch.monitors.extended and cursor is None):
                self._watch.report("EVT-5.schema", f"{name} on the WebSocket has the members {', '.join(frame)}")
            self.order.append(("event", name))
            await self.take(Event(name, cast("JsonObject", data), cursor))
        else:
            self._watch.report("EVT-5.schema", f"an event on the WebSocket is {str(frame)[:200]}")

    # -- acting --------------------------------------------------------------------------------------------------------

    async def act(self, action: str, **members: Any) -> Answer:
        """Send an action, and wait for its acknowledgement; a limit of the rate is waited out. Raises Blocked."""
        frame = json.dumps({"action": action, **members}, ensure_ascii=False)
        while True:
            answer = await self.send(frame, what=action)
            wait = answer.body.get("retryAfter")
            if answer.code != "rate_limited" or not isinstance(wait, int | float) or not 0 <= wait <= 120:
                return answer
            await self._patience.sleep(wait)

    async def send(self, message: str | bytes, *, what: str = "a frame") -> Answer:
        """Send any frame, and wait for its acknowledgement."""
        async with self._acting:
            self._watch.evidence.note(f"→ ws {message!r:.2000}")
            try:
                await self.connection.send(message)
            except ConnectionClosed as closed:
                raise Blocked(f"the WebSocket is closed: {closed}") from None
            wanted = self._taken + 1
            await self.wait(lambda: len(self.acks) >= wanted, f"{what} on the WebSocket was not acknowledged")
            body = self.acks[self._taken]
            self._taken = wanted
        return ack(what, body)

    async def raw(self, message: str | bytes) -> None:
        """Send a frame, and wait for nothing."""
        self._watch.evidence.note(f"→ ws {message!r:.2000}")
        try:
            await self.connection.send(message)
        except ConnectionClosed as closed:
            raise Blocked(f"the WebSocket is closed: {closed}") from None

    async def close(self) -> None:
        """Close the connection."""
        await super().close()
        try:
            async with asyncio.timeout(self._deadline):
                await self.connection.close()
        except TimeoutError:
            self.connection.transport.abort()


def ack(action: str, body: JsonObject) -> Answer:
    """An acknowledgement, read as the answer of the action's route."""
    code = body.get("error")
    if isinstance(code, str):
        return Answer(f"the action {action}", schemas.STATUS_OF.get(code, 0), body)
    status = 200 if body.get("ok") is False else _SUCCESS.get(action, 0)
    return Answer(f"the action {action}", status, body)


@asynccontextmanager
async def opened(
    http: Http,
    session: str,
    key: str,
    *,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] = (),
    origin: str | None = None,
    **params: str,
) -> AsyncGenerator[WsReader]:
    """Open the WebSocket of a session. Raises Refused, or Blocked when there is no answer."""
    path = f"/v1/sessions/{session}/ws{f'?{urlencode(params)}' if params else ''}"
    http.watch.evidence.note(f"→ GET {path} (upgrade)")
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
        except InvalidStatus as refused:
            response = refused.response
            given = {name.lower(): value for name, value in response.headers.raw_items()}
            answer = http.answer("GET", path, response.status_code, given, bytes(response.body or b""))
            if answer.code == "rate_limited" and given.get("retry-after", "").isdigit():
                await http.patience.sleep(int(given["retry-after"]))
                continue
            raise Refused(answer) from None
        except (OSError, TimeoutError, WebSocketException) as failure:
            raise Blocked(f"GET {path[:200]} was not upgraded: {type(failure).__name__} {failure}") from None
        break
    http.watch.evidence.note("← 101")
    reader = WsReader(connection, http.watch, key, deadline=http.deadline, patience=http.patience)
    async with reader.start():
        yield reader


async def refusal(http: Http, session: str, **options: Any) -> Answer:
    """What the server answers where it should not upgrade; status 101 if it does."""
    try:
        async with opened(http, session, session, **options):
            return Answer(f"GET /v1/sessions/{session}/ws", 101, {})
    except Refused as refused:
        return refused.answer


__all__ = ["Refused", "WsReader", "ack", "opened", "refusal", "websockets"]
