"""Readers that follow a session over several connections, and helpers that wait for a state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from cmdc_testkit.audit import SessionRecord
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.events import ProtocolViolation, ReceivedEvent, parse_events

_TIMEOUT_SECONDS = 15
_POLL_SECONDS = 0.01


class Watcher:
    """`async with Watcher(conversation) as watcher:` reads a session from its first event, across runs.

    `events` holds everything received so far, over all connections. `disconnected` is set while there is no connection;
    `ended_cleanly` then tells whether the server ended the stream.
    """

    def __init__(self, conversation: Conversation, *, idle_timeout: float | None = None, **params: Any) -> None:
        """After `idle_timeout` seconds without a byte, the connection counts as lost; None: never."""
        self.events: list[ReceivedEvent] = []
        self.disconnected = asyncio.Event()
        self.ended_cleanly = False
        self._conversation = conversation
        self._idle_timeout = idle_timeout
        self._params = {"after": "start", "follow": "true", **params}
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def until(self, name: str, nth: int = 1) -> Mapping[str, Any]:
        """Wait for the nth event of this name and return its data."""
        return await self._until(name, lambda event: event.name == name, nth)

    async def until_run_ends(self, request_id: str) -> Mapping[str, Any]:
        """Wait for the terminal event of this run and return its data."""

        def is_end(event: ReceivedEvent) -> bool:
            return event.is_terminal and event.data["requestId"] == request_id

        return await self._until(f"the end of {request_id}", is_end, 1)

    async def _until(self, what: str, wanted: Callable[[ReceivedEvent], bool], nth: int) -> Mapping[str, Any]:
        def found() -> list[ReceivedEvent]:
            return [event for event in self.events if wanted(event)]

        async with asyncio.timeout(_TIMEOUT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(found()) >= nth or self.disconnected.is_set())
        assert len(found()) >= nth, f"the stream ended before {what}: {[event.name for event in self.events]}"
        return found()[nth - 1].data

    async def wait_until_disconnected(self) -> bool:
        """Wait for the end of the connection; return whether the server ended the stream."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await self.disconnected.wait()
        return self.ended_cleanly

    async def resume(self) -> None:
        """Connect again, after the last event that was received."""
        await self._disconnect()
        self.disconnected.clear()
        connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._read(connected))
        await connected

    async def __aenter__(self) -> Self:
        await self.resume()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._task is not None:
            self._task.cancel()
            [result] = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(result, ProtocolViolation):
                raise result

    async def _read(self, connected: asyncio.Future[None]) -> None:
        headers = {"Last-Event-ID": self.events[-1].id} if self.events else {}
        conversation = self._conversation
        try:
            async with conversation.client.stream(
                "GET", f"{conversation.path}/events", params=self._params, headers=headers, timeout=self._idle_timeout
            ) as answer:
                assert answer.status_code == 200, await answer.aread()
                connected.set_result(None)
                async for event in parse_events(answer.aiter_raw()):
                    async with self._changed:
                        self.events.append(event)
                        self._changed.notify_all()
            self.ended_cleanly = True
        except httpx.TransportError as failure:
            self.ended_cleanly = False
            if not connected.done():
                connected.set_exception(failure)
        finally:
            if not connected.done():
                connected.cancel()
            self.disconnected.set()
            async with self._changed:
                self._changed.notify_all()


async def wait_until(condition: Callable[[], bool], *, within: float = _TIMEOUT_SECONDS) -> None:
    """Wait until a condition holds; raise TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


async def wait_until_idle(conversation: Conversation, *, within: float = _TIMEOUT_SECONDS) -> None:
    """Wait until the session is idle."""
    async with asyncio.timeout(within):
        while (await conversation.info())["state"] != "idle":  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


async def retry_while_unavailable(request: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Repeat a request while the response is 503; return the first other response."""
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while (answer := await request()).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
    return answer


async def close_code(socket: ClientConnection) -> int | None:
    """Read a WebSocket to its end; return the close code, None if the connection broke."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            async for _ in socket:
                pass
    return socket.close_code


async def whole_log(conversation: Conversation) -> list[ReceivedEvent]:
    """Read the whole log as a client of the event stream receives it."""
    end = (await conversation.info())["cursor"]
    if end.endswith(".0"):
        return []
    async with Watcher(conversation) as watcher:
        await wait_until(
            lambda: watcher.disconnected.is_set() or (bool(watcher.events) and watcher.events[-1].id == end)
        )
        assert watcher.events[-1].id == end, "the stream of the whole log broke"
        return watcher.events


async def record_session(conversation: Conversation, *watchers: Watcher, **known: Any) -> SessionRecord:
    """Read everything about a session that can be audited; `known` are further fields of `SessionRecord`."""
    stats = (await conversation.get("/stats")).json()
    return SessionRecord(
        log=await whole_log(conversation),
        messages=await conversation.messages(),
        streams=[watcher.events for watcher in watchers],
        prompt_count=stats["promptCount"],
        total_tokens=stats["totalTokens"],
        **known,
    )
