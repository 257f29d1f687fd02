"""A small HTTP server for the tools of one's own program.

With `async with` it runs in the event loop of the program, and so do the tools that are async; with `with` it runs in a
thread, which has a loop of its own. It is the same server both times.
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

from cmdc_client.callbacks import http1
from cmdc_client.callbacks.desk import MAX_BODY, Desk, refusal
from cmdc_client.callbacks.http1 import Head, Refused, Timing
from cmdc_client.callbacks.memory import Response
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

    It listens on loopback, where a gateway calls it only if its operator allows that. For a gateway elsewhere, give the
    `host` to listen on, and the `public_url` under which the gateway finds it, which may be that of a proxy with TLS.
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
        """Without a `port`, a free one is taken; without a `secret`, one is made.

        At the end, calls that run have `grace_seconds` to come to theirs. Raises ValueError.
        """
        if secret is not None:
            check_secret(secret)
        if public_url is None and _is_unspecified(host):
            raise ValueError("a server that listens on every address needs the public_url at which it is called")
        self._tools = tools
        self._host = host
        self._port = port
        self._public_url = public_url
        self._secret = secret if secret is not None else new_secret()
        self._grace = grace_seconds
        self._listener: _Listener | None = None
        self._thread: tuple[threading.Thread, Callable[[], object]] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url if self._listener else 'not running'}>"

    @property
    def secret(self) -> str:
        """With which the tools are registered, and their calls signed."""
        return self._secret

    @property
    def url(self) -> str:
        """Where it is called: the `public_url`, or its own address. Raises RuntimeError if it is not running."""
        if self._public_url is not None:
            return self._public_url
        if self._listener is None:
            raise RuntimeError("the server is not running yet: use it with `with` or `async with`")
        return self._listener.url

    @overload
    def register(self, session: HasTools) -> None: ...
    @overload
    def register(self, session: HasAsyncTools) -> Awaitable[None]: ...
    def register(self, session: HasTools | HasAsyncTools) -> Awaitable[None] | None:
        """Give the agent of this session all the tools. With an AsyncSession, to be awaited.

        Raises RegistrationFailed, if this server's address is not one that the gateway may call, say.
        """
        return self._tools.register(session, url=self.url, secret=self._secret)

    async def __aenter__(self) -> Self:
        self._refuse_if_running()
        self._listener = await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None, "it was entered"
        listener, self._listener = self._listener, None
        await listener.aclose(self._grace)

    def __enter__(self) -> Self:
        self._refuse_if_running()
        started: Future[Callable[[], object]] = Future()
        thread = threading.Thread(target=lambda: asyncio.run(self._live(started)), name="cmdc-callbacks", daemon=True)
        thread.start()
        self._thread = thread, started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None, "it was entered"
        (thread, stop), self._thread = self._thread, None
        stop()
        thread.join()

    def _refuse_if_running(self) -> None:
        if self._listener is not None:
            raise RuntimeError("the server is running already")

    async def _listen(self) -> _Listener:
        return await _Listener.open(Desk(self._tools, self._secret), self._host, self._port)

    async def _live(self, started: Future[Callable[[], object]]) -> None:
        """The life of the thread. `started` is how it is ended, or why it could not begin."""
        try:
            self._listener = await self._listen()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits for it
            started.set_exception(error)
            return
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(lambda: loop.call_soon_threadsafe(stopped.set))
        await stopped.wait()
        listener, self._listener = self._listener, None
        await listener.aclose(self._grace)


class _Listener:
    """A socket that is listened on, and the connections that were made to it."""

    def __init__(self, desk: Desk, address: tuple[str, int], timing: Timing) -> None:
        self._desk = desk
        self._timing = timing
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[Any]] = set()
        self._stopping = False
        host, port = address
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @classmethod
    async def open(cls, desk: Desk, host: str, port: int, timing: Timing | None = None) -> _Listener:
        """Listen. Raises OSError."""
        # One socket, where a name with two addresses would give two, with a port each.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        listener = cls(desk, listening.getsockname()[:2], timing if timing is not None else Timing())
        listener._server = await asyncio.start_server(listener._connected, sock=listening, limit=http1.MAX_HEAD)
        return listener

    async def aclose(self, grace: float) -> None:
        """Take no more requests, let those that are here be answered within `grace` seconds, and end the rest."""
        assert self._server is not None, "it was opened"
        self._stopping = True
        self._server.close()
        for task in self._idle:
            task.cancel()
        await self._ended(grace)
        await self._desk.aclose()
        await self._ended(_LINGER_SECONDS)  # they answer that the program is stopping
        for task in self._connections:
            task.cancel()
        await self._ended(None)
        await self._server.wait_closed()

    async def _ended(self, within: float | None) -> None:
        if self._connections:
            await asyncio.wait(self._connections, timeout=within)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS or self._stopping:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="cmdc-callback connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await self._head(reader, writer)) is not None:
                if not await self._request(head, reader, writer):
                    break
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # whoever was there is gone, or does not listen
        finally:
            await _close(writer)

    async def _head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Head | None:
        task = asyncio.current_task()
        assert task is not None, "it is called in one"
        self._idle.add(task)
        try:
            return await http1.read_head(reader, self._timing)
        except Refused as refused:
            await self._refuse(refused, reader, writer)
            return None
        finally:
            self._idle.discard(task)

    async def _request(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether there may be another one on this connection."""
        try:
            body = await http1.read_body(reader, writer, head, MAX_BODY, self._timing)
        except Refused as refused:
            await self._refuse(refused, reader, writer)
            return False
        if head.method == "POST":
            response = await self._desk.answer(head.headers, body)
        else:
            response = refusal(405, "a tool is called with POST")
        keep_alive = head.keep_alive and not self._stopping
        await self._send(writer, response, keep_alive=keep_alive, bodiless=head.method == "HEAD")
        return keep_alive

    async def _refuse(self, refused: Refused, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, refusal(refused.status, str(refused)), keep_alive=False)
        # Closed while the other side still sends, the connection would be reset, and the answer be lost.
        writer.write_eof()
        async with asyncio.timeout(_LINGER_SECONDS):
            for _ in range(_LINGER_BYTES // http1.MAX_HEAD):
                if not await reader.read(http1.MAX_HEAD):
                    return

    async def _send(
        self, writer: asyncio.StreamWriter, response: Response, *, keep_alive: bool, bodiless: bool = False
    ) -> None:
        writer.write(http1.answer(response.status, response.body, keep_alive=keep_alive, bodiless=bodiless))
        async with asyncio.timeout(self._timing.answer):
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()  # the other side does not take what is still to be sent


def _is_unspecified(host: str) -> bool:
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
