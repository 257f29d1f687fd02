"""The few things that are not the same but for `await`: waiting, and WebSockets. Each stands here twice.

`derive_sync.py` takes the `async_` and `Async` off a name, and so comes from the one to the other.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from cmdc_client.answers import Answer, refused
from cmdc_client.errors import CmdcError, ConnectionFailed, ProtocolError, SocketClosed

if TYPE_CHECKING:  # imported when the first WebSocket is opened: many programs never open one
    import websockets.asyncio.client
    import websockets.sync.client
    from websockets.exceptions import ConnectionClosed

AsyncCondition = asyncio.Condition
Condition = threading.Condition


class _KeepsKeys(logging.Filter):
    """Takes keys out of what the library logs: to whoever debugs it tells the headers that it sends."""

    def filter(self, record: logging.LogRecord) -> bool:
        match record.args:
            case (str(name), _) if name.lower() == "x-api-key":
                record.args = (name, "(not shown)")
            case _:
                pass
        return True


_log = logging.getLogger("cmdc_client.websockets")
_log.addFilter(_KeepsKeys())

_LARGEST_MESSAGE = 64 * 1024 * 1024
_BROKEN = (1002, 1007, 1009)  # with these the library closes what it cannot read


async def async_sleep(seconds: float) -> None:
    """Wait that long."""
    await asyncio.sleep(seconds)


def sleep(seconds: float) -> None:
    """Wait that long."""
    time.sleep(seconds)


async def async_wait(condition: AsyncCondition, seconds: float | None) -> None:
    """Wait until the condition is notified, or for that long."""
    try:
        async with asyncio.timeout(seconds):
            await condition.wait()
    except TimeoutError:
        pass


def wait(condition: Condition, seconds: float | None) -> None:
    """Wait until the condition is notified, or for that long."""
    condition.wait(seconds)


class AsyncWire:
    """A WebSocket: texts in, texts out, failures as errors of ours."""

    def __init__(self, connection: websockets.asyncio.client.ClientConnection, where: str) -> None:
        self._connection = connection
        self._where = where

    @classmethod
    async def open(cls, url: str, headers: Mapping[str, str], *, within: float, where: str) -> AsyncWire:
        """Open it. Raises ApiError, ProtocolError or ConnectionFailed."""
        from websockets.asyncio.client import connect  # noqa: PLC0415
        from websockets.exceptions import WebSocketException  # noqa: PLC0415

        class Connect(connect):
            def process_redirect(self, exc: Exception) -> Exception | str:
                return exc  # a redirect would take the key along

        try:
            connection = await Connect(
                url,
                additional_headers=headers,
                compression=None,
                open_timeout=within,
                max_size=_LARGEST_MESSAGE,
                logger=_log,
            )
        except (WebSocketException, OSError, TimeoutError) as failure:
            _not_opened(failure, where)
        return cls(connection, where)

    async def send(self, text: str) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            await self._connection.send(text)
        except ConnectionClosed as closed:
            raise _closed(closed, self._where) from None

    async def receive(self, seconds: float | None) -> str | None:
        """The next text; None if there is none in that time."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            async with asyncio.timeout(seconds):
                message = await self._connection.recv()
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            raise _closed(closed, self._where) from None
        return _text(message, self._where)

    async def aclose(self) -> None:
        await self._connection.close()


class Wire:
    """A WebSocket: texts in, texts out, failures as errors of ours."""

    def __init__(
        self, connection: websockets.sync.client.ClientConnection, where: str, close: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._where = where
        self._close = close

    @classmethod
    def open(cls, url: str, headers: Mapping[str, str], *, within: float, where: str) -> Wire:
        """Open it. Raises ApiError, ProtocolError or ConnectionFailed."""
        from websockets.exceptions import WebSocketException  # noqa: PLC0415
        from websockets.sync.client import reconnect  # noqa: PLC0415

        class Connect(reconnect):
            def process_redirect(self, exc: Exception) -> Exception | str:
                return exc  # a redirect would take the key along

        line = ExitStack()
        try:
            connection = line.enter_context(
                Connect(
                    url,
                    additional_headers=headers,
                    compression=None,
                    open_timeout=within,
                    max_size=_LARGEST_MESSAGE,
                    logger=_log,
                )
            )
        except (WebSocketException, OSError, TimeoutError) as failure:
            _not_opened(failure, where)
        return cls(connection, where, line.close)

    def send(self, text: str) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            self._connection.send(text)
        except ConnectionClosed as closed:
            raise _closed(closed, self._where) from None

    def receive(self, seconds: float | None) -> str | None:
        """The next text; None if there is none in that time."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            message = self._connection.recv(seconds)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            raise _closed(closed, self._where) from None
        return _text(message, self._where)

    def close(self) -> None:
        self._close()


def _not_opened(failure: Exception, where: str) -> NoReturn:
    from websockets.exceptions import InvalidStatus, WebSocketException  # noqa: PLC0415

    match failure:
        case InvalidStatus(response=response):
            headers = {name.lower(): value for name, value in response.headers.raw_items()}
            error: CmdcError = refused(Answer(where, response.status_code, headers, bytes(response.body or b"")))
        case WebSocketException():
            error = ProtocolError(where, f"the WebSocket could not be opened: {failure}")
        case _:
            error = ConnectionFailed(f"{where}: no connection: {failure or type(failure).__name__}", sent=False)
    raise error from failure


def _closed(closed: ConnectionClosed, where: str) -> SocketClosed | ProtocolError:
    if closed.sent is not None and closed.sent.code in _BROKEN and not closed.rcvd_then_sent:
        return ProtocolError(where, f"what came is no WebSocket message: {closed.sent.reason or closed.sent.code}")
    code = closed.rcvd.code if closed.rcvd is not None else 1006
    reason = closed.rcvd.reason if closed.rcvd is not None else ""
    return SocketClosed(
        f"{where}: the WebSocket is closed ({code} {reason})".replace(" )", ")"), close_code=code, reason=reason
    )


def _text(message: str | bytes, where: str) -> str:
    if isinstance(message, bytes):
        raise ProtocolError(where, "a binary message, where only text is expected")
    return message
