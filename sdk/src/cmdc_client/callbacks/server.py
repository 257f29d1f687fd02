"""A small HTTP server for the tools of a program.

With `async with`, the server and the async tools run in the event loop of the program. With `with`, they run in a thread
that has an event loop of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, overload

from cmdc_client.callbacks.dispatcher import MAX_BODY, CallDispatcher, error_response
from cmdc_client.callbacks.http_connection import MAX_HEAD, HttpConnection, RequestHead, RequestRejected, Timeouts
from cmdc_client.callbacks.tools import HasAsyncTools, HasTools, Tools
from cmdc_client.signatures import check_secret, new_secret

MAX_CONNECTIONS: Final = 256

_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 8 * 1024 * 1024


class CallbackServer:
    """Serves tools to a gateway that can reach this program.

        with CallbackServer(tools) as server, client.sessions.create(model=…) as session:
            server.register(session)
            print(session.ask("What is the weather in Oslo?").text)

    By default it listens on loopback, which a gateway calls only if its operator allows that. For a gateway on another
    machine, pass the `host` to listen on and the `public_url` at which the gateway reaches it, for instance that of a
    proxy with TLS.
    """

    def __init__(
        self,
        tools: Tools,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        public_url: str | None = None,
        secret: str | None = None,
        grace_seconds: float = 5.0,
    ) -> None:
        """Create a server, which starts when its context is entered.

        Args:
            tools: The tools to serve.
            host: The address to listen on.
            port: The port to listen on; 0 chooses a free one.
            public_url: The URL at which the gateway reaches the server. By default its own address.
            secret: The secret that signs the calls. By default a new one is generated.
            grace_seconds: How long running calls may continue when the server stops.

        Raises:
            ValueError: The secret is invalid, or `host` means all addresses and there is no `public_url`.
        """
        if secret is not None:
            check_secret(secret)
        if public_url is None and _is_unspecified(host):
            raise ValueError("a server that listens on all addresses needs the public_url at which it is called")
        self._tools = tools
        self._host = host
        self._port = port
        self._public_url = public_url
        self._secret = secret if secret is not None else new_secret()
        self._grace = grace_seconds
        self._listener: Listener | None = None
        self._thread: tuple[threading.Thread, Callable[[], object]] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url if self._listener else 'not running'}>"

    @property
    def secret(self) -> str:
        """The secret with which the tools are registered and their calls signed."""
        return self._secret

    @property
    def url(self) -> str:
        """The `public_url`, or else the address of the server. Raises RuntimeError if it is not running."""
        if self._public_url is not None:
            return self._public_url
        if self._listener is None:
            raise RuntimeError("the server is not running; enter it with `with` or `async with`")
        return self._listener.url

    @overload
    def register(self, session: HasTools) -> None: ...
    @overload
    def register(self, session: HasAsyncTools) -> Awaitable[None]: ...
    def register(self, session: HasTools | HasAsyncTools) -> Awaitable[None] | None:
        """Register all tools with a session. With an AsyncSession, await the result.

        Raises RegistrationFailed, for instance if the gateway is not allowed to call the address of this server, and
        ValueError if there are no tools.
        """
        return self._tools.register(session, url=self.url, secret=self._secret)

    async def __aenter__(self) -> Self:
        self._check_not_running()
        self._listener = await self._listen()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._listener is not None, "set by __aenter__"
        listener, self._listener = self._listener, None
        await listener.aclose(self._grace)

    def __enter__(self) -> Self:
        self._check_not_running()
        started: Future[Callable[[], object]] = Future()
        thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), name="cmdc-callbacks", daemon=True)
        thread.start()
        self._thread = thread, started.result()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._thread is not None, "set by __enter__"
        (thread, stop), self._thread = self._thread, None
        stop()
        thread.join()

    def _check_not_running(self) -> None:
        if self._listener is not None:
            raise RuntimeError("the server is already running")

    async def _listen(self) -> Listener:
        return await Listener.open(CallDispatcher(self._tools, self._secret), self._host, self._port)

    async def _run(self, started: Future[Callable[[], object]]) -> None:
        """Serve until stopped. `started` receives the function that stops it, or the exception that prevents the start."""
        try:
            self._listener = await self._listen()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            started.set_exception(error)
            return
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(lambda: loop.call_soon_threadsafe(stopped.set))
        await stopped.wait()
        listener, self._listener = self._listener, None
        await listener.aclose(self._grace)


class Listener:
    """A listening socket, and the connections that it has accepted."""

    def __init__(self, dispatcher: CallDispatcher, address: tuple[str, int], timeouts: Timeouts) -> None:
        self._dispatcher = dispatcher
        self._timeouts = timeouts
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[Any]] = set()
        self._stopping = False
        host, port = address
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @classmethod
    async def open(cls, dispatcher: CallDispatcher, host: str, port: int, timeouts: Timeouts | None = None) -> Listener:
        """Start to listen. Raises OSError."""
        # One socket: a host name with two addresses would get two, with different ports.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        listener = cls(dispatcher, listening.getsockname()[:2], timeouts if timeouts is not None else Timeouts())
        listener._server = await asyncio.start_server(listener._accept, sock=listening, limit=MAX_HEAD)
        return listener

    async def aclose(self, grace: float) -> None:
        """Accept no more requests, let the current ones finish within `grace` seconds, and cancel the others."""
        assert self._server is not None, "set by open()"
        self._stopping = True
        self._server.close()
        for task in self._idle:
            task.cancel()
        await self._wait_for_connections(grace)
        await self._dispatcher.aclose()
        await self._wait_for_connections(_LINGER_SECONDS)  # they respond that the program is shutting down
        for task in self._connections:
            task.cancel()
        await self._wait_for_connections(None)
        await self._server.wait_closed()

    async def _wait_for_connections(self, seconds: float | None) -> None:
        if self._connections:
            await asyncio.wait(self._connections, timeout=seconds)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS or self._stopping:
            writer.close()
            return
        serving = self._serve(HttpConnection(reader, writer, self._timeouts), writer)
        task = asyncio.get_running_loop().create_task(serving, name="cmdc-callback connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: HttpConnection, writer: asyncio.StreamWriter) -> None:
        try:
            await self._respond_to_requests(connection)
        except (OSError, TimeoutError):
            pass  # the client has closed the connection, or does not read the response
        finally:
            await _close(writer)

    async def _respond_to_requests(self, connection: HttpConnection) -> None:
        try:
            while connection.reusable and (head := await self._next_head(connection)) is not None:
                await self._respond(connection, head)
        except RequestRejected as error:
            await connection.send(error_response(error.status, str(error)), close=True)
            async with asyncio.timeout(_LINGER_SECONDS):
                await connection.discard_input(_LINGER_BYTES)

    async def _next_head(self, connection: HttpConnection) -> RequestHead | None:
        task = asyncio.current_task()
        assert task is not None, "every connection has a task"
        self._idle.add(task)
        try:
            return await connection.read_head()
        finally:
            self._idle.discard(task)

    async def _respond(self, connection: HttpConnection, head: RequestHead) -> None:
        body = await connection.read_body(head, MAX_BODY)
        if head.method == "POST":
            response = await self._dispatcher.dispatch(head.headers, body)
        else:
            response = error_response(405, "tools are called with POST")
        await connection.send(response, close=self._stopping)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()  # the client does not read what is still to be sent


def _is_unspecified(host: str) -> bool:
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
