"""The Python client behind the suite's own small interface: what a program sees that uses `cmdc_client`.

This module alone knows the client, and is imported only where the client is installed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, TypeVar

import cmdc_client
from cmdc_client.models import ApprovalSettings, Budget

from cmdc_conformance.findings import Blocked, Unreadable
from cmdc_conformance.monitors import Event
from cmdc_conformance.reader import Reader, Watch
from cmdc_conformance.session import Run, Session
from cmdc_conformance.wire import Answer, Http, JsonObject, Patience

T = TypeVar("T")

_LONGEST_WAIT: Final = 120.0
_OWN: Final = frozenset({"id", "seq", "request_id", "event"})


def client(http: Http) -> cmdc_client.AsyncClient:
    """A client of the server."""
    return cmdc_client.AsyncClient(http.url, api_key=http.key, timeout=http.deadline, reconnect_timeout=http.deadline)


async def create(connected: cmdc_client.AsyncClient, patience: Patience, fields: Mapping[str, Any]) -> Answer:
    """Make a session, as the client does."""
    options: dict[str, Any] = {_snake(name): value for name, value in fields.items()}
    if "approval" in options:
        options["approval"] = ApprovalSettings.from_dict(options["approval"])
    if "budget" in options:
        options["budget"] = Budget.from_dict(options["budget"])

    async def created() -> JsonObject:
        session = await connected.sessions.create(**options)
        return {"sessionId": session.id, "status": "created"}

    return await answered(patience, "sessions.create", 201, created)


async def found(connected: cmdc_client.AsyncClient, id_: str) -> cmdc_client.AsyncSession:
    """The session of this id, as the client finds it. Raises Blocked."""
    try:
        return await connected.sessions.get(id_)
    except cmdc_client.CmdcError as failure:
        raise blocked("sessions.get", failure) from None


async def waited_out(patience: Patience, call: Callable[[], Awaitable[T]]) -> T:
    """A call of the client, again when it was too early for the rate limit. Raises what the call raises."""
    while True:
        try:
            return await call()
        except cmdc_client.RateLimited as limited:
            if not limited.retry_after or limited.retry_after > _LONGEST_WAIT:
                raise
            await patience.sleep(limited.retry_after)


async def answered(patience: Patience, what: str, status: int, call: Callable[[], Awaitable[Any]]) -> Answer:
    """A call of the client, as the answer it stands for. Raises Blocked where the client gives up."""
    try:
        result = await waited_out(patience, call)
    except cmdc_client.ApiError as refused:
        body = {"error": refused.code, "message": refused.message, **refused.response.members}
        return Answer(f"the client's {what}", refused.http_status, body)
    except cmdc_client.CmdcError as failure:
        raise blocked(what, failure) from None
    return Answer(f"the client's {what}", status, result if isinstance(result, dict) else result.to_dict())  # pyright: ignore[reportUnknownArgumentType]


def blocked(what: str, failure: cmdc_client.CmdcError) -> Blocked:
    """What the client gave up with, as what stands in a check's way."""
    kind = Unreadable if isinstance(failure, cmdc_client.ProtocolError) else Blocked
    return kind(f"the client's {what}: {type(failure).__name__}: {failure}")


def wire_event(event: Any) -> Event:
    """An event of the client, with the names of the wire."""
    data: JsonObject = {}
    for each in dataclasses.fields(event):
        if each.name not in _OWN and not each.name.startswith("_"):
            data[_camel(each.name)] = _plain(getattr(event, each.name))
    if event.request_id:
        data["requestId"] = event.request_id
    if isinstance(event, cmdc_client.UnknownEvent):
        data = dict(event.data)
    return Event(event.event, data, event.id or None)


class SdkReader(Reader):
    """What the client's iteration gives."""

    via = "sdk"

    def __init__(
        self, events: Any, transport: Literal["sse", "ws"], watch: Watch, key: str, *, deadline: float
    ) -> None:
        super().__init__(watch, key, deadline=deadline)
        self.transport = transport
        self._iterated = events

    async def _read(self) -> None:
        try:
            async for event in self._iterated:
                await self.take(wire_event(event))
        except cmdc_client.ProtocolError:
            self.unreadable = True
            raise


class _SdkSession(Session):
    def __init__(self, id_: str, http: Http, key: str, session: cmdc_client.AsyncSession) -> None:
        super().__init__(id_, http, key)
        self.session = session

    async def register(self, tool: Mapping[str, Any]) -> Answer:
        """Register a callback tool, as the client does."""
        options = {_snake(name): value for name, value in tool.items()}
        answer = await answered(
            self.http.patience, "tools.register", 201, lambda: self.session.tools.register(**options)
        )
        if isinstance(secret := answer.body.get("secret"), str):
            self.http.watch.evidence.add_secret(secret)
        return answer

    async def info(self) -> Answer:
        return await answered(self.http.patience, "info", 200, self.session.info)

    async def stats(self) -> Answer:
        return await answered(self.http.patience, "stats", 200, self.session.stats)

    async def messages(self) -> Answer:
        async def listed() -> JsonObject:
            return {"messages": [message.to_dict() for message in await self.session.messages()]}

        return await answered(self.http.patience, "messages", 200, listed)


class SdkSseSession(_SdkSession):
    """The client's session: `run` and its methods."""

    @asynccontextmanager
    async def run(self, text: str) -> AsyncGenerator[Run]:
        """Prompt, and read the run, as `session.run` does."""
        self.noted(text)
        async with self.session.run(text) as events:
            reader = SdkReader(events, "sse", self.http.watch, self.key, deadline=self.http.deadline)
            async with reader.start():
                await reader.count(1)
                yield Run(reader, None, 0, text)

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Reader]:
        """Read from now on."""
        async with (
            self.session.events() as events,
            SdkReader(events, "sse", self.http.watch, self.key, deadline=self.http.deadline).start() as reader,
        ):
            yield reader

    async def prompt(self, text: str) -> Answer:
        return await answered(self.http.patience, "prompt", 202, lambda: self.session.prompt(text))

    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> Answer:
        if action == "approve":
            return await answered(self.http.patience, "approve", 200, lambda: self.session.approve(approval, **members))
        return await answered(self.http.patience, "reject", 200, lambda: self.session.reject(approval, **members))

    async def respond(self, ref: str, response: str) -> Answer:
        return await answered(self.http.patience, "respond", 200, lambda: self.session.respond(ref, response))

    async def abort(self, **members: Any) -> Answer:
        return _aborted(await answered(self.http.patience, "abort", 202, lambda: self.session.abort(**members)))


class SdkWsSession(_SdkSession):
    """The client's WebSocket."""

    def __init__(self, id_: str, http: Http, key: str, session: cmdc_client.AsyncSession) -> None:
        super().__init__(id_, http, key, session)
        self._stack = AsyncExitStack()
        self._socket: cmdc_client.AsyncSocket | None = None
        self._reader: SdkReader | None = None

    async def socket(self) -> cmdc_client.AsyncSocket:
        """The open WebSocket. Raises Blocked."""
        if self._socket is None:
            try:
                self._socket = await waited_out(
                    self.http.patience, lambda: self._stack.enter_async_context(self.session.connect())
                )
            except cmdc_client.CmdcError as failure:
                raise blocked("connect", failure) from None
            reader = SdkReader(self._socket, "ws", self.http.watch, self.key, deadline=self.http.deadline)
            self._reader = await self._stack.enter_async_context(reader.start())
        return self._socket

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Reader]:
        """Read from now on."""
        await self.socket()
        assert self._reader is not None
        yield self._reader

    async def prompt(self, text: str) -> Answer:
        socket = await self.socket()
        return await answered(self.http.patience, "socket.prompt", 202, lambda: socket.prompt(text))

    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> Answer:
        socket = await self.socket()
        if action == "approve":
            return await answered(
                self.http.patience, "socket.approve", 200, lambda: socket.approve(approval, **members)
            )
        return await answered(self.http.patience, "socket.reject", 200, lambda: socket.reject(approval, **members))

    async def respond(self, ref: str, response: str) -> Answer:
        socket = await self.socket()
        return await answered(self.http.patience, "socket.respond", 200, lambda: socket.respond(ref, response))

    async def abort(self, **members: Any) -> Answer:
        socket = await self.socket()
        return _aborted(await answered(self.http.patience, "socket.abort", 202, lambda: socket.abort(**members)))

    async def close(self) -> None:
        """Close the WebSocket, and forget the session."""
        await self._stack.aclose()
        await super().close()


def _aborted(answer: Answer) -> Answer:
    return dataclasses.replace(answer, status=200) if answer.body.get("ok") is False else answer


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {_camel(each.name): _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
