"""A small HTTP server for the suite's own model and the callback tools that it hosts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import h11

_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body parsed as JSON; None if it is invalid."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Response:
    """A response with a body, or with chunks that are sent as they become available.

    `cut` closes the connection after the last chunk, without ending the response.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    chunks: AsyncIterator[bytes] | None = None
    cut: bool = False

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Response:
        """A response with a value as JSON."""
        return cls(status, json.dumps(value).encode())


Handler = Callable[[Request], Awaitable[Response]]


class HttpServer:
    """Listens on `port` while its context is entered. Port 0 lets the system choose one."""

    def __init__(self, handler: Handler, host: str = "127.0.0.1", port: int = 0) -> None:
        self.port = port
        self._host = host
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await _Connection(reader, writer, self._handler).serve()
        except asyncio.CancelledError:
            pass  # the server is closing
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        """Handle requests until the peer closes the connection."""
        with suppress(OSError, h11.ProtocolError):
            while (request := await self._request()) is not None:
                response = await self._handler(request)
                await self._respond(response)
                if response.cut or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()

    async def _request(self) -> Request | None:
        head = await self._event()
        if not isinstance(head, h11.Request):
            return None
        body = b""
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        return Request(head.method.decode(), head.target.decode(), headers, body)

    async def _event(self) -> h11.Event | type[h11.PAUSED] | None:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_CHUNK))
        return None if isinstance(event, h11.ConnectionClosed) else event  # pyright: ignore[reportReturnType]

    async def _respond(self, response: Response) -> None:
        headers = [*response.headers.items()]
        if response.chunks is None:
            headers.append(("Content-Length", str(len(response.body))))
        self._send(h11.Response(status_code=response.status, headers=headers))
        if response.chunks is None:
            self._send(h11.Data(data=response.body))
        else:
            async for chunk in response.chunks:
                self._send(h11.Data(data=chunk))
                await self._writer.drain()
        if not response.cut:
            self._send(h11.EndOfMessage())
        await self._writer.drain()

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
