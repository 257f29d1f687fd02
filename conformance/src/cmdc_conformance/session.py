"""One session, driven by one face: the same few methods, whether by raw HTTP, by the WebSocket or by the client."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal

from cmdc_conformance.findings import Blocked
from cmdc_conformance.monitors import Event
from cmdc_conformance.reader import Reader
from cmdc_conformance.socket import Refused, WsReader, opened
from cmdc_conformance.wire import Answer, Http, JsonObject


class Run:
    """One prompt's run, as it is read. `accepted` is what the prompt was answered, where that was seen."""

    def __init__(self, reader: Reader, accepted: Answer | None, begins: int, text: str) -> None:
        self.reader = reader
        self.accepted = accepted
        self._begins = begins
        self._text = text

    @property
    def so_far(self) -> Sequence[Event]:
        """The events that have come."""
        return self.reader.events[self._begins :]

    async def until(self, name: str, *, nth: int = 1) -> Event:
        """The nth event of this name. Raises Blocked."""
        return await self.reader.until(name, nth=nth, after=self._begins)

    async def end(self) -> list[Event]:
        """All events of the run. Raises Blocked."""
        return await self.reader.end(after=self._begins)


class Session(ABC):
    """A session on the server. `http` is always the raw way to it, for what is only looked at."""

    def __init__(self, id_: str, http: Http, key: str) -> None:
        self.id = id_
        self.http = http
        self.key = key

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.id}"

    @asynccontextmanager
    async def run(self, text: str) -> AsyncGenerator[Run]:
        """Prompt, and read the run. Raises Blocked if the prompt is not accepted."""
        self.noted(text)
        async with self.reading() as reader:
            begins = len(reader.events)
            accepted = await self.prompt(text)
            accepted.needed(202)
            yield Run(reader, accepted, begins, text)

    async def ran(self, text: str) -> list[Event]:
        """Prompt, and read the run to its end."""
        async with self.run(text) as run:
            return await run.end()

    def noted(self, text: str) -> None:
        """Let the monitors know of a prompt."""
        self.http.watch.monitors.session(self.key).texts.add(text)

    @abstractmethod
    def reading(self) -> Any:
        """A context that gives a Reader of what comes from now on."""

    @abstractmethod
    async def prompt(self, text: str) -> Answer: ...

    @abstractmethod
    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> Answer: ...

    @abstractmethod
    async def respond(self, ref: str, response: str) -> Answer: ...

    @abstractmethod
    async def abort(self, **members: Any) -> Answer: ...

    async def register(self, tool: Mapping[str, Any]) -> Answer:
        """Register a callback tool."""
        answer = await self.http.post(f"{self.path}/tools", dict(tool), secret=True)
        if isinstance(secret := answer.body.get("secret"), str):
            self.http.watch.evidence.add_secret(secret)
        return answer

    async def info(self) -> Answer:
        return await self.http.get(self.path)

    async def stats(self) -> Answer:
        return await self.http.get(f"{self.path}/stats")

    async def messages(self) -> Answer:
        return await self.http.get(f"{self.path}/messages")

    async def history(self) -> list[JsonObject]:
        """The messages. Raises Blocked."""
        messages = (await self.messages()).needed(200).get("messages")
        if not isinstance(messages, list):
            raise Blocked(f"GET {self.path}/messages has no list of messages")
        return messages  # pyright: ignore[reportUnknownVariableType]

    async def state(self, wanted: str) -> JsonObject:
        """The session, once it is in this state. Raises Blocked."""
        return await until_state(self.http, self.path, wanted)

    async def close(self) -> None:
        """Forget the session on the server; whether that works is another check's affair."""
        with suppress(Blocked):
            await self.http.delete(self.path, within=self.http.deadline)


async def until_state(http: Http, path: str, wanted: str) -> JsonObject:
    """The session, once it is in this state. Raises Blocked."""
    state = None
    try:
        async with asyncio.timeout(http.deadline):
            while True:
                info = (await http.get(path)).needed(200)
                state = info.get("state")
                if state == wanted:
                    return info
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Blocked(f"the session is {state!r}, and not {wanted!r} within {http.deadline:g} s") from None


class SseSession(Session):
    """Actions over HTTP, events over SSE."""

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Reader]:
        """Read from now on; the stream is opened first, and waits for the run."""
        async with self.http.events(self.id, self.key) as reader:
            yield reader

    async def prompt(self, text: str) -> Answer:
        return await self.http.post(f"{self.path}/prompt", {"text": text})

    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> Answer:
        return await self.http.post(f"{self.path}/{action}", {"approvalId": approval, **members})

    async def respond(self, ref: str, response: str) -> Answer:
        return await self.http.post(f"{self.path}/respond", {"ref": ref, "response": response})

    async def abort(self, **members: Any) -> Answer:
        return await self.http.post(f"{self.path}/abort", members)


class WsSession(Session):
    """Actions and events over one WebSocket, which is opened when it is first needed."""

    def __init__(self, id_: str, http: Http, key: str) -> None:
        super().__init__(id_, http, key)
        self._stack = AsyncExitStack()
        self._socket: WsReader | None = None

    async def socket(self) -> WsReader:
        """The open WebSocket. Raises Blocked."""
        if self._socket is None:
            try:
                self._socket = await self._stack.enter_async_context(opened(self.http, self.id, self.key))
            except Refused as refused:
                refused.answer.needed(101)
                raise
        return self._socket

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Reader]:
        """Read from now on."""
        yield await self.socket()

    async def prompt(self, text: str) -> Answer:
        return await (await self.socket()).act("prompt", text=text)

    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> Answer:
        return await (await self.socket()).act(action, approvalId=approval, **members)

    async def respond(self, ref: str, response: str) -> Answer:
        return await (await self.socket()).act("respond", ref=ref, response=response)

    async def abort(self, **members: Any) -> Answer:
        return await (await self.socket()).act("abort", **members)

    async def close(self) -> None:
        """Close the WebSocket, and forget the session."""
        await self._stack.aclose()
        await super().close()
