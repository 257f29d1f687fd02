"""Sessions driven through the Python client, as a program that uses `cmdc_client` sees them.

No other module imports the client, and this one is imported only if the client is installed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, TypeVar

import cmdc_client
from cmdc_client.models import ApprovalSettings, Budget

from cmdc_conformance.drivers.session import Run, Session
from cmdc_conformance.findings import Blocked, Unreadable
from cmdc_conformance.wire.event import Event
from cmdc_conformance.wire.http import ApiClient, ApiResponse, JsonObject, RateLimitBackoff
from cmdc_conformance.wire.reader import Observer, Reader

T = TypeVar("T")

_LONGEST_BACKOFF: Final = 120.0
_METADATA: Final = frozenset({"id", "seq", "request_id", "event"})


def client(http: ApiClient) -> cmdc_client.AsyncClient:
    """A client for the server."""
    return cmdc_client.AsyncClient(http.url, api_key=http.key, timeout=http.deadline, reconnect_timeout=http.deadline)


async def create(
    open_connection: cmdc_client.AsyncClient, backoff: RateLimitBackoff, fields: Mapping[str, Any]
) -> ApiResponse:
    """Create a session with the client."""
    options: dict[str, Any] = {_snake(name): value for name, value in fields.items()}
    if "approval" in options:
        options["approval"] = ApprovalSettings.from_dict(options["approval"])
    if "budget" in options:
        options["budget"] = Budget.from_dict(options["budget"])

    async def created() -> JsonObject:
        session = await open_connection.sessions.create(**options)
        return {"sessionId": session.id, "status": "created"}

    return await as_response(backoff, "sessions.create", 201, created)


async def get_session(open_connection: cmdc_client.AsyncClient, id_: str) -> cmdc_client.AsyncSession:
    """Get a session with the client. Raises Blocked."""
    try:
        return await open_connection.sessions.get(id_)
    except cmdc_client.CmdcError as failure:
        raise blocked("sessions.get", failure) from None


async def with_backoff(backoff: RateLimitBackoff, call: Callable[[], Awaitable[T]]) -> T:
    """Call the client; repeat the call while it is rate limited. Raises what the call raises."""
    while True:
        try:
            return await call()
        except cmdc_client.RateLimited as limited:
            if not limited.retry_after or limited.retry_after > _LONGEST_BACKOFF:
                raise
            await backoff.sleep(limited.retry_after)


async def as_response(
    backoff: RateLimitBackoff, what: str, status: int, call: Callable[[], Awaitable[Any]]
) -> ApiResponse:
    """Call the client and return the response that its result stands for. Raises Blocked if the client fails."""
    try:
        result = await with_backoff(backoff, call)
    except cmdc_client.ApiError as error:
        body = {"error": error.code, "message": error.message, **error.response.members}
        return ApiResponse(f"the client's {what}", error.http_status, body)
    except cmdc_client.CmdcError as failure:
        raise blocked(what, failure) from None
    return ApiResponse(f"the client's {what}", status, result if isinstance(result, dict) else result.to_dict())  # pyright: ignore[reportUnknownArgumentType]


def blocked(what: str, failure: cmdc_client.CmdcError) -> Blocked:
    """An exception of the client as Blocked, or Unreadable if the client could not parse a response."""
    kind = Unreadable if isinstance(failure, cmdc_client.ProtocolError) else Blocked
    return kind(f"the client's {what}: {type(failure).__name__}: {failure}")


def wire_event(event: Any) -> Event:
    """An event of the client, with the names used on the wire."""
    data: JsonObject = {}
    for each in dataclasses.fields(event):
        if each.name not in _METADATA and not each.name.startswith("_"):
            data[_camel(each.name)] = _plain(getattr(event, each.name))
    if event.request_id:
        data["requestId"] = event.request_id
    if isinstance(event, cmdc_client.UnknownEvent):
        data = dict(event.data)
    return Event(event.event, data, event.id or None)


class SdkReader(Reader):
    """Reads the events that the client yields."""

    via = "sdk"

    def __init__(
        self, events: Any, transport: Literal["sse", "ws"], observer: Observer, key: str, *, deadline: float
    ) -> None:
        super().__init__(observer, key, deadline=deadline)
        self.transport = transport
        self._source = events

    async def _read(self) -> None:
        try:
            async for event in self._source:
                await self.receive(wire_event(event))
        except cmdc_client.ProtocolError:
            self.unreadable = True
            raise


class _SdkSession(Session):
    def __init__(self, id_: str, http: ApiClient, key: str, session: cmdc_client.AsyncSession) -> None:
        super().__init__(id_, http, key)
        self.session = session

    async def register(self, tool: Mapping[str, Any]) -> ApiResponse:
        """Register a callback tool with the client."""
        options = {_snake(name): value for name, value in tool.items()}
        response = await as_response(
            self.http.backoff, "tools.register", 201, lambda: self.session.tools.register(**options)
        )
        if isinstance(secret := response.body.get("secret"), str):
            self.http.observer.evidence.add_secret(secret)
        return response

    async def info(self) -> ApiResponse:
        return await as_response(self.http.backoff, "info", 200, self.session.info)

    async def stats(self) -> ApiResponse:
        return await as_response(self.http.backoff, "stats", 200, self.session.stats)

    async def messages(self) -> ApiResponse:
        async def messages() -> JsonObject:
            return {"messages": [message.to_dict() for message in await self.session.messages()]}

        return await as_response(self.http.backoff, "messages", 200, messages)


class SdkSseSession(_SdkSession):
    """Drives the client's session: `run`, `events` and the methods that send HTTP requests."""

    @asynccontextmanager
    async def run(self, text: str) -> AsyncGenerator[Run]:
        """Send a prompt and read its run with the client's `session.run`."""
        self.announce(text)
        async with self.session.run(text) as events:
            reader = SdkReader(events, "sse", self.http.observer, self.key, deadline=self.http.deadline)
            async with reader.start():
                await reader.wait_for_count(1)
                yield Run(reader, None, 0)

    @asynccontextmanager
    async def open_reader(self) -> AsyncGenerator[Reader]:
        """Read from now on."""
        async with (
            self.session.events() as events,
            SdkReader(events, "sse", self.http.observer, self.key, deadline=self.http.deadline).start() as reader,
        ):
            yield reader

    async def prompt(self, text: str) -> ApiResponse:
        return await as_response(self.http.backoff, "prompt", 202, lambda: self.session.prompt(text))

    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> ApiResponse:
        if action == "approve":
            return await as_response(
                self.http.backoff, "approve", 200, lambda: self.session.approve(approval, **members)
            )
        return await as_response(self.http.backoff, "reject", 200, lambda: self.session.reject(approval, **members))

    async def respond(self, ref: str, response: str) -> ApiResponse:
        return await as_response(self.http.backoff, "respond", 200, lambda: self.session.respond(ref, response))

    async def abort(self, **members: Any) -> ApiResponse:
        return _aborted(await as_response(self.http.backoff, "abort", 202, lambda: self.session.abort(**members)))


class SdkWsSession(_SdkSession):
    """Drives the client's WebSocket."""

    def __init__(self, id_: str, http: ApiClient, key: str, session: cmdc_client.AsyncSession) -> None:
        super().__init__(id_, http, key, session)
        self._stack = AsyncExitStack()
        self._socket: cmdc_client.AsyncSocket | None = None
        self._reader: SdkReader | None = None

    async def socket(self) -> cmdc_client.AsyncSocket:
        """The open WebSocket. Raises Blocked."""
        if self._socket is None:
            try:
                self._socket = await with_backoff(
                    self.http.backoff, lambda: self._stack.enter_async_context(self.session.connect())
                )
            except cmdc_client.CmdcError as failure:
                raise blocked("connect", failure) from None
            reader = SdkReader(self._socket, "ws", self.http.observer, self.key, deadline=self.http.deadline)
            self._reader = await self._stack.enter_async_context(reader.start())
        return self._socket

    @asynccontextmanager
    async def open_reader(self) -> AsyncGenerator[Reader]:
        """Read from now on."""
        await self.socket()
        assert self._reader is not None
        yield self._reader

    async def prompt(self, text: str) -> ApiResponse:
        socket = await self.socket()
        return await as_response(self.http.backoff, "socket.prompt", 202, lambda: socket.prompt(text))

    async def decide(self, action: Literal["approve", "reject"], approval: str, **members: Any) -> ApiResponse:
        socket = await self.socket()
        if action == "approve":
            return await as_response(
                self.http.backoff, "socket.approve", 200, lambda: socket.approve(approval, **members)
            )
        return await as_response(self.http.backoff, "socket.reject", 200, lambda: socket.reject(approval, **members))

    async def respond(self, ref: str, response: str) -> ApiResponse:
        socket = await self.socket()
        return await as_response(self.http.backoff, "socket.respond", 200, lambda: socket.respond(ref, response))

    async def abort(self, **members: Any) -> ApiResponse:
        socket = await self.socket()
        return _aborted(await as_response(self.http.backoff, "socket.abort", 202, lambda: socket.abort(**members)))

    async def close(self) -> None:
        """Close the WebSocket and delete the session."""
        await self._stack.aclose()
        await super().close()


def _aborted(response: ApiResponse) -> ApiResponse:
    """The response to an abort: the client does not tell a 202 from the 200 for an idle session."""
    return dataclasses.replace(response, status=200) if response.body.get("ok") is False else response


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
