"""Readers for tests that record every frame verbatim and can resume after a lost connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from cmdc_testkit.audit import Frame, Record
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.streams import TERMINAL

_TIMEOUT_SECONDS = 15
_POLL_SECONDS = 0.01


class Watcher:
    """`async with Watcher(conversation) as watcher:` reads a session from its first event on, across runs.

    `frames` are the frames received so far on all connections. `over` is set while there is no connection; `clean` is
    then True if the server ended the stream, and False if it broke.
    """

    def __init__(self, conversation: Conversation, *, silence: float | None = None, **params: Any) -> None:
        """After `silence` seconds without data the connection counts as lost; None: never."""
        self.frames: list[Frame] = []
        self.over = asyncio.Event()
        self.clean = False
        self._conversation = conversation
        self._silence = silence
        self._params = {"after": "start", "follow": "true", **params}
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def until(self, event: str, nth: int = 1) -> Mapping[str, Any]:
        """Wait for the first, or `nth`, event of this name and return its data."""
        return await self._until(event, lambda frame: frame.event == event, nth)

    async def until_over(self, request_id: str) -> Mapping[str, Any]:
        """Wait for the terminal event of this run and return its data."""

        def is_end(frame: Frame) -> bool:
            return frame.event in TERMINAL and frame.fields["requestId"] == request_id

        return await self._until(f"the end of {request_id}", is_end, 1)

    async def _until(self, description: str, matches: Callable[[Frame], bool], nth: int) -> Mapping[str, Any]:
        def found() -> list[Frame]:
            return [frame for frame in self.frames if matches(frame)]

        async with asyncio.timeout(_TIMEOUT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(found()) >= nth or self.over.is_set())
        assert len(found()) >= nth, f"the stream ended before {description}: {[frame.event for frame in self.frames]}"
        return found()[nth - 1].fields

    async def ended(self) -> bool:
        """Wait for the end of the connection; return `clean`."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await self.over.wait()
        return self.clean

    async def resume(self) -> None:
        """Reconnect after the last received event."""
        await self._leave()
        self.over.clear()
        connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._read(connected))
        await connected

    async def __aenter__(self) -> Self:
        await self.resume()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, connected: asyncio.Future[None]) -> None:
        headers = {"Last-Event-ID": self.frames[-1].id} if self.frames else {}
        talk = self._conversation
        try:
            async with talk.client.stream(
                "GET", f"{talk.path}/events", params=self._params, headers=headers, timeout=self._silence
            ) as answer:
                assert answer.status_code == 200, await answer.aread()
                connected.set_result(None)
                async for frame in raw_frames(answer.aiter_raw()):
                    async with self._changed:
                        self.frames.append(frame)
                        self._changed.notify_all()
            self.clean = True
        except httpx.TransportError as failure:
            self.clean = False
            if not connected.done():
                connected.set_exception(failure)
        finally:
            if not connected.done():
                connected.cancel()
            self.over.set()
            async with self._changed:
                self._changed.notify_all()


async def raw_frames(pieces: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """Parse a stream into frames. Only LF separates lines: data may contain other Unicode line breaks."""
    fields: dict[str, str] = {}
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.decode().partition(": ")
            if name:
                fields[name] = value
            elif "event" in fields:
                yield Frame(fields["id"], fields["event"], fields["data"])
                fields = {}


async def until(condition: Callable[[], bool], *, within: float = _TIMEOUT_SECONDS) -> None:
    """Poll until the condition holds, for changes that cannot be awaited."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


async def until_idle(conversation: Conversation, *, within: float = _TIMEOUT_SECONDS) -> None:
    """Wait until the session is idle."""
    async with asyncio.timeout(within):
        while (await conversation.info())["state"] != "idle":  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


async def until_available(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Retry while the response is 503; return the first other response."""
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while (answer := await ask()).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
    return answer


async def close_code(socket: ClientConnection) -> int | None:
    """Read a WebSocket to its end; return its close code, None if the connection broke."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            async for _ in socket:
                pass
    return socket.close_code


async def whole_log(conversation: Conversation) -> list[Frame]:
    """Read the current log from the stream."""
    end = (await conversation.info())["cursor"]
    if end.endswith(".0"):
        return []
    async with Watcher(conversation) as watcher:
        await until(lambda: watcher.over.is_set() or (bool(watcher.frames) and watcher.frames[-1].id == end))
        assert watcher.frames[-1].id == end, "the stream of the whole log broke"
        return watcher.frames


async def record_of(conversation: Conversation, *watchers: Watcher, **known: Any) -> Record:
    """The record of a session, for `audit`; `known` are further fields of `Record`."""
    stats = (await conversation.get("/stats")).json()
    return Record(
        log=await whole_log(conversation),
        messages=await conversation.messages(),
        seen=[watcher.frames for watcher in watchers],
        prompt_count=stats["promptCount"],
        total_tokens=stats["totalTokens"],
        **known,
    )
