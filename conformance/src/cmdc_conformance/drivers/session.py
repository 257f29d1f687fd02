"""A session of the server under test, with one interface for every variant: SSE, WebSocket and the Python client."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal

from cmdc_conformance.findings import Blocked
from cmdc_conformance.wire.event import Event
from cmdc_conformance.wire.http import ApiClient, ApiResponse, JsonObject
from cmdc_conformance.wire.reader import Reader
from cmdc_conformance.wire.websocket import HandshakeRejected, WsReader, connect_websocket


class Run:
    """The run of one prompt while it is read. `accepted` is the response to the prompt; the client's `run` hides it."""

    def __init__(self, reader: Reader, accepted: ApiResponse | None, begins: int) -> None:
        self.reader = reader
        self.accepted = accepted
        self._begins = begins

    @property
    def events_so_far(self) -> Sequence[Event]:
        """The events received so far."""
        return self.reader.events[self._begins :]

    async def wait_for(self, name: str, *, nth: int = 1) -> Event:
        """Wait for the nth event of this name. Raises Blocked."""
        return await self.reader.wait_for(name, nth=nth, after=self._begins)

    async def wait_for_end(self) -> list[Event]:
        """Wait for the end of the run; return all its events. Raises Blocked."""
        return await self.reader.wait_for_end(after=self._begins)


class Session(ABC):
    """A session on the server. `http` sends raw requests to it in every variant."""

    def __init__(self, id_: str, http: ApiClient, key: str) -> None:
        self.id = id_
        self.http = http
        self.key = key

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.id}"

    @asynccontextmanager
    async def run(self, text: str) -> AsyncGenerator[Run]:
        """Send a prompt and read its run. Raises Blocked if the prompt is not accepted."""
        self.announce(text)
        async with self.open_reader() as reader:
            begins = len(reader.events)
            accepted = await self.prompt(text)
            accepted.require(202)
            yield Run(reader, accepted, begins)

    async def run_to_end(self, text: str) -> list[Event]:
        """Send a prompt and read its run to the end. Raises Blocked."""
        async with self.run(text) as run:
            return await run.wait_for_end()

    def announce(self, text: str) -> None:
        """Tell the monitors which prompt will be sent, so that they can recognize its run."""
        self.http.observer.monitors.session(self.key).texts.add(text)

    @abstractmethod
    def open_reader(self) -> Any:
        """A context manager that yields a Reader of the events from now on."""

    @abstractmethod
    async def prompt(self, text: str) -> ApiResponse: ...

    @abstractmethod
    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> ApiResponse: ...

    @abstractmethod
    async def respond(self, ref: str, response: str) -> ApiResponse: ...

    @abstractmethod
    async def abort(self, **members: Any) -> ApiResponse: ...

    async def register(self, tool: Mapping[str, Any]) -> ApiResponse:
        """Register a callback tool."""
        response = await self.http.post(f"{self.path}/tools", dict(tool), secret=True)
        if isinstance(secret := response.body.get("secret"), str):
            self.http.observer.evidence.add_secret(secret)
        return response

    async def info(self) -> ApiResponse:
        return await self.http.get(self.path)

    async def stats(self) -> ApiResponse:
        return await self.http.get(f"{self.path}/stats")

    async def messages(self) -> ApiResponse:
        return await self.http.get(f"{self.path}/messages")

    async def history(self) -> list[JsonObject]:
        """The messages of the history. Raises Blocked."""
        messages = (await self.messages()).require(200).get("messages")
        if not isinstance(messages, list):
            raise Blocked(f"GET {self.path}/messages returned no list of messages")
        return messages  # pyright: ignore[reportUnknownVariableType]

    async def wait_for_state(self, wanted: str) -> JsonObject:
        """Wait for a state; return the session. Raises Blocked."""
        return await wait_for_state(self.http, self.path, wanted)

    async def close(self) -> None:
        """Delete the session. A failure is ignored, because other checks cover it."""
        with suppress(Blocked):
            await self.http.delete(self.path, within=self.http.deadline)


async def wait_for_state(http: ApiClient, path: str, wanted: str) -> JsonObject:
    """Wait for a state; return the session. Raises Blocked."""
    state = None
    try:
        async with asyncio.timeout(http.deadline):
            while True:
                info = (await http.get(path)).require(200)
                state = info.get("state")
                if state == wanted:
                    return info
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Blocked(f"the session is {state!r}, not {wanted!r}, after {http.deadline:g} s") from None


class SseSession(Session):
    """Actions over HTTP, events over SSE."""

    @asynccontextmanager
    async def open_reader(self) -> AsyncGenerator[Reader]:
        """Read from now on. The stream is opened before the prompt is sent."""
        async with self.http.events(self.id, self.key) as reader:
            yield reader

    async def prompt(self, text: str) -> ApiResponse:
        return await self.http.post(f"{self.path}/prompt", {"text": text})

    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> ApiResponse:
        return await self.http.post(f"{self.path}/{action}", {"approvalId": approval, **members})

    async def respond(self, ref: str, response: str) -> ApiResponse:
        return await self.http.post(f"{self.path}/respond", {"ref": ref, "response": response})

    async def abort(self, **members: Any) -> ApiResponse:
        return await self.http.post(f"{self.path}/abort", members)


class WsSession(Session):
    """Actions and events over one WebSocket, which is opened on first use."""

    def __init__(self, id_: str, http: ApiClient, key: str) -> None:
        super().__init__(id_, http, key)
        self._stack = AsyncExitStack()
        self._socket: WsReader | None = None

    async def socket(self) -> WsReader:
        """The open WebSocket. Raises Blocked."""
        if self._socket is None:
            try:
                self._socket = await self._stack.enter_async_context(connect_websocket(self.http, self.id, self.key))
            except HandshakeRejected as rejected:
                rejected.response.require(101)
                raise
        return self._socket

    @asynccontextmanager
    async def open_reader(self) -> AsyncGenerator[Reader]:
        """Read from now on."""
        yield await self.socket()

    async def prompt(self, text: str) -> ApiResponse:
        return await (await self.socket()).act("prompt", text=text)

    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> ApiResponse:
        return await (await self.socket()).act(action, approvalId=approval, **members)

    async def respond(self, ref: str, response: str) -> ApiResponse:
        return await (await self.socket()).act("respond", ref=ref, response=response)

    async def abort(self, **members: Any) -> ApiResponse:
        return await (await self.socket()).act("abort", **members)

    async def close(self) -> None:
        """Close the WebSocket and delete the session."""
        await self._stack.aclose()
        await super().close()
