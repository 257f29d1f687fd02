"""The WebSocket of a session: its events and actions over one line."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from secrets import token_hex
from time import monotonic
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

from cmdc_client._async.live import AsyncLiveEvent, live
from cmdc_client._async.transport import AsyncTransport
from cmdc_client.answers import Promise, parse_object, refusal
from cmdc_client.cursor import Cursor, Order
from cmdc_client.errors import ConnectionFailed, ProtocolError, SocketClosed
from cmdc_client.events import read_event
from cmdc_client.models import AbortTaken, DecisionTaken, PromptAccepted, ResponseTaken
from cmdc_client.platform import AsyncCondition, AsyncWire, async_wait

T = TypeVar("T")

_NORMAL = (1000, 1001)


class AsyncSocket(AsyncIterator[AsyncLiveEvent]):
    """An open WebSocket. Iterating gives the session's events, across runs; each action waits for its acknowledgement.

    Whoever waits for something reads the line for all others who wait: there is no task behind it. Events may be
    iterated over and actions be sent at the same time. Iterating ends when the line is closed as it should be, and
    raises SocketClosed when it is not; it is not taken up again, but `session.connect(after=socket.cursor)` does so.
    """

    def __init__(self, wire: AsyncWire, where: str, *, after: Cursor | None, timeout: float, named: bool) -> None:
        """`named` tells whether the server gives the `actionId` of an action back."""
        self._wire = wire
        self._where = where
        self._timeout = timeout
        self._named = named
        self._order = Order(after)
        self._events: deque[AsyncLiveEvent] = deque()
        self._waiting: dict[str, dict[str, Any] | None] = {}
        self._changed = AsyncCondition()
        self._reading = False
        self._failure: Exception | None = None

    @property
    def cursor(self) -> Cursor | None:
        """The place after the last event that was read from the line."""
        return self._order.at

    async def __anext__(self) -> AsyncLiveEvent:
        while not self._events:
            try:
                await self._read_one(None, lambda: bool(self._events))
            except SocketClosed as closed:
                if closed.close_code in _NORMAL:
                    raise StopAsyncIteration from None
                raise
        return self._events.popleft()

    async def prompt(self, text: str) -> PromptAccepted:
        """Prompt the agent."""
        return await self._act("prompt", {"text": text}, Promise(PromptAccepted, base={"cursor": ""}))

    async def approve(
        self, approval_id: str, *, args: Mapping[str, Any] | None = None, digest: str | None = None
    ) -> DecisionTaken:
        """Let a tool call run; with `args`, these run instead. Raises AlreadyResolved, NotFound, DigestMismatch."""
        members = {"approvalId": approval_id, "args": args, "digest": digest}
        return await self._act("approve", members, Promise(DecisionTaken))

    async def reject(self, approval_id: str, *, reason: str | None = None) -> DecisionTaken:
        """Keep a tool call from running; the agent is told the reason. Raises AlreadyResolved, NotFound."""
        return await self._act("reject", {"approvalId": approval_id, "reason": reason}, Promise(DecisionTaken))

    async def respond(self, ref: str, response: str) -> ResponseTaken:
        """Answer a question of the agent. Raises AlreadyResolved, NotFound."""
        return await self._act("respond", {"ref": ref, "response": response}, Promise(ResponseTaken))

    async def abort(self, *, reason: str | None = None) -> AbortTaken:
        """End the active run; prompts that wait go on."""
        return await self._act("abort", {"reason": reason}, Promise(AbortTaken))

    async def _act(self, action: str, members: Mapping[str, Any], promise: Promise[T]) -> T:
        """Send an action, and wait for what acknowledges it. Raises ApiError, ProtocolError or ConnectionFailed."""
        name, where = token_hex(8), f"{self._where}: {action}"
        frame = {"action": action, **{key: value for key, value in members.items() if value is not None}}
        deadline = monotonic() + self._timeout
        self._waiting[name] = None
        try:
            await self._wire.send(json.dumps({**frame, "actionId": name} if self._named else frame))
            while (answer := self._waiting[name]) is None:
                left = deadline - monotonic()
                if left <= 0:
                    raise ConnectionFailed(f"{where}: not acknowledged within {self._timeout:g} s")
                await self._read_one(left, lambda: self._waiting[name] is not None)
        finally:
            del self._waiting[name]
        if "error" in answer:
            raise refusal(answer, request=where)
        return promise.of(answer, where)

    async def _read_one(self, seconds: float | None, come: Callable[[], bool]) -> None:
        """Let the line bring one message, to whomever it belongs; or let another who reads it do so.

        Not if what is waited for has come: that is asked once nobody else can take it from the line any more.
        """
        async with self._changed:
            if come():
                return
            if self._failure is not None:
                raise self._failure
            if self._reading:
                await async_wait(self._changed, seconds)
                return
            self._reading = True
        try:
            text = await self._wire.receive(seconds)
            if text is not None:
                self._take(parse_object(text, f"a message of {self._where}"))
        except (ConnectionFailed, ProtocolError) as failure:
            self._failure = failure
            raise
        finally:
            self._reading = False
            async with self._changed:
                self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._take_event(message)
            return
        name = message.pop("actionId", None)
        if name is None:  # without names, acknowledgements come in the order of the actions
            name = next((waiting for waiting, answer in self._waiting.items() if answer is None), None)
        if name is None and "error" in message:
            raise refusal(message, request=self._where)
        if isinstance(name, str) and name in self._waiting:  # nobody waits any more for one that was given up
            self._waiting[name] = message

    def _take_event(self, message: dict[str, Any]) -> None:
        name, data, cursor = message["event"], message.get("data"), message.get("id")
        where = f"event {cursor or name} of {self._where}"
        if not isinstance(name, str) or not isinstance(data, dict) or not isinstance(cursor, str | None):
            raise ProtocolError(where, "an event is an object of `event`, `data` and `id`")
        if cursor is not None:
            try:
                at = Cursor.parse(cursor)
            except ValueError as flaw:
                raise ProtocolError(where, str(flaw)) from None
            if self._order.judge(at, where) == "repeated":
                return
        self._events.append(live(read_event(name, cast("dict[str, Any]", data), cursor, where), self))


@asynccontextmanager
async def open_socket(transport: AsyncTransport, session_id: str, after: str | None) -> AsyncGenerator[AsyncSocket]:
    """Open the WebSocket of a session, and close it at the end."""
    config = transport.config
    path = f"/v1/sessions/{quote(session_id, safe='')}/ws"
    named = "ws_action_id" in await transport.extended()
    query = f"?{urlencode({'after': after})}" if after is not None else ""
    at = Cursor.parse(after) if after not in (None, "start", "latest") else None
    wire = await AsyncWire.open(
        config.socket_url + path + query, config.credentials, within=config.timeout, where=f"GET {path}"
    )
    try:
        yield AsyncSocket(wire, f"GET {path}", after=at, timeout=config.timeout, named=named)
    finally:
        await wire.aclose()
