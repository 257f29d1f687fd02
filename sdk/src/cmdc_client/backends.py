"""Primitives that differ between the async and the sync client by more than `await`.

These are sleeping, waiting for a condition, and WebSocket connections. Each exists twice, with and without the `async_` or
`Async` that `derive_sync.py` removes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from cmdc_client.errors import CmdcError, ConnectionFailed, ProtocolError, SocketClosed
from cmdc_client.responses import RawResponse, error_from_response

if TYPE_CHECKING:  # imported with the first WebSocket, because many programs never open one
    import websockets.asyncio.client
    import websockets.sync.client
    from websockets.exceptions import ConnectionClosed

AsyncCondition = asyncio.Condition
Condition = threading.Condition


class _RedactKeys(logging.Filter):
    """Redacts API keys: at the level DEBUG, websockets logs the headers that it sends."""

    def filter(self, record: logging.LogRecord) -> bool:
        match record.args:
            case (str(name), _) if name.lower() == "x-api-key":
                record.args = (name, "(not shown)")
            case _:
                pass
        return True


_log = logging.getLogger("cmdc_client.websockets")
_log.addFilter(_RedactKeys())

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_INVALID_INPUT_CODES = (1002, 1007, 1009)  # websockets closes with these when it receives invalid data


async def async_sleep(seconds: float) -> None:
    """Wait for this many seconds."""
    await asyncio.sleep(seconds)


def sleep(seconds: float) -> None:
    """Wait for this many seconds."""
    time.sleep(seconds)


async def async_wait(condition: AsyncCondition, seconds: float | None) -> None:
    """Wait until the condition is notified, for at most this many seconds (None: without limit)."""
    try:
        async with asyncio.timeout(seconds):
            await condition.wait()
    except TimeoutError:
        pass


def wait(condition: Condition, seconds: float | None) -> None:
    """Wait until the condition is notified, for at most this many seconds (None: without limit)."""
    condition.wait(seconds)


class AsyncWebSocketConnection:
    """A WebSocket that carries text. Exceptions of websockets are raised as exceptions of this package."""

    def __init__(self, connection: websockets.asyncio.client.ClientConnection, where: str) -> None:
        self._connection = connection
        self._where = where

    @classmethod
    async def open(
        cls, url: str, headers: Mapping[str, str], *, open_timeout: float, where: str
    ) -> AsyncWebSocketConnection:
        """Open a connection; `open_timeout` is in seconds. Raises ApiError, ProtocolError or ConnectionFailed."""
        from websockets.asyncio.client import connect  # noqa: PLC0415
        from websockets.exceptions import WebSocketException  # noqa: PLC0415

        class Connect(connect):
            def process_redirect(self, exc: Exception) -> Exception | str:
                return exc  # following a redirect would send the key to another host

        try:
            connection = await Connect(
                url,
                additional_headers=headers,
                compression=None,
                open_timeout=open_timeout,
                max_size=_MAX_MESSAGE_BYTES,
                logger=_log,
            )
        except (WebSocketException, OSError, TimeoutError) as error:
            _raise_open_error(error, where)
        return cls(connection, where)

    async def send(self, text: str) -> None:
        """Send a text message. Raises SocketClosed or ProtocolError."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            await self._connection.send(text)
        except ConnectionClosed as closed:
            raise _closed_error(closed, self._where) from None

    async def receive(self, seconds: float | None) -> str | None:
        """Return the next text message, or None after this many seconds. Raises SocketClosed or ProtocolError."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            async with asyncio.timeout(seconds):
                message = await self._connection.recv()
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            raise _closed_error(closed, self._where) from None
        return _as_text(message, self._where)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.close()


class WebSocketConnection:
    """A WebSocket that carries text. Exceptions of websockets are raised as exceptions of this package."""

    def __init__(
        self, connection: websockets.sync.client.ClientConnection, where: str, close: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._where = where
        self._close = close

    @classmethod
    def open(cls, url: str, headers: Mapping[str, str], *, open_timeout: float, where: str) -> WebSocketConnection:
        """Open a connection; `open_timeout` is in seconds. Raises ApiError, ProtocolError or ConnectionFailed."""
        from websockets.exceptions import WebSocketException  # noqa: PLC0415
        from websockets.sync.client import reconnect  # noqa: PLC0415

        class Connect(reconnect):
            def process_redirect(self, exc: Exception) -> Exception | str:
                return exc  # following a redirect would send the key to another host

        stack = ExitStack()
        try:
            connection = stack.enter_context(
                Connect(
                    url,
                    additional_headers=headers,
                    compression=None,
                    open_timeout=open_timeout,
                    max_size=_MAX_MESSAGE_BYTES,
                    logger=_log,
                )
            )
        except (WebSocketException, OSError, TimeoutError) as error:
            _raise_open_error(error, where)
        return cls(connection, where, stack.close)

    def send(self, text: str) -> None:
        """Send a text message. Raises SocketClosed or ProtocolError."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            self._connection.send(text)
        except ConnectionClosed as closed:
            raise _closed_error(closed, self._where) from None

    def receive(self, seconds: float | None) -> str | None:
        """Return the next text message, or None after this many seconds. Raises SocketClosed or ProtocolError."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            message = self._connection.recv(seconds)
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            raise _closed_error(closed, self._where) from None
        return _as_text(message, self._where)

    def close(self) -> None:
        """Close the connection."""
        self._close()


def _raise_open_error(error: Exception, where: str) -> NoReturn:
    from websockets.exceptions import InvalidStatus, WebSocketException  # noqa: PLC0415

    match error:
        case InvalidStatus(response=response):
            headers = {name.lower(): value for name, value in response.headers.raw_items()}
            raw = RawResponse(where, response.status_code, headers, bytes(response.body or b""))
            raised: CmdcError = error_from_response(raw)
        case WebSocketException():
            raised = ProtocolError(where, f"the WebSocket could not be opened: {error}")
        case _:
            raised = ConnectionFailed(f"{where}: cannot connect: {error or type(error).__name__}", sent=False)
    raise raised from error


def _closed_error(closed: ConnectionClosed, where: str) -> SocketClosed | ProtocolError:
    if closed.sent is not None and closed.sent.code in _INVALID_INPUT_CODES and not closed.rcvd_then_sent:
        return ProtocolError(where, f"invalid WebSocket data: {closed.sent.reason or closed.sent.code}")
    code = closed.rcvd.code if closed.rcvd is not None else 1006
    reason = closed.rcvd.reason if closed.rcvd is not None else ""
    return SocketClosed(
        f"{where}: the WebSocket is closed ({code} {reason})".replace(" )", ")"), close_code=code, reason=reason
    )


def _as_text(message: str | bytes, where: str) -> str:
    if isinstance(message, bytes):
        raise ProtocolError(where, "unexpected binary message")
    return message
