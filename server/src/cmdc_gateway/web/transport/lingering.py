"""A transport whose `close` lets the last answer be read, and always ends.

TCP forgets what a peer has not yet read when the socket is closed while something the peer sent is still unread here:
the 413 that refuses a long body is lost to the client that sends it. And a plain `close` waits for a peer that does not
read for as long as the peer likes. This stands between uvicorn's protocols and the event loop's transport and mends
both; it knows nothing of HTTP or WebSocket.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

_NO_LINGERING: Final = struct.pack("ii", 1, 0)


class LingeringTransport(asyncio.Transport):
    """What uvicorn's protocols write to and close.

    `patience` is how many seconds a closing connection may stay without any progress.
    """

    def __init__(self, transport: asyncio.Transport, patience: float) -> None:
        super().__init__()
        self._transport = transport
        self._patience = patience
        self._left = 0
        self.lingering = False
        self.peer_is_sending = False
        """True while more may come that nobody is going to read: a `close` then keeps reading until the peer is done."""

    def close(self) -> None:
        """Send what was written, then close."""
        if self.is_closing():
            return
        if self.peer_is_sending and self._transport.can_write_eof():
            self._linger()
        else:
            self._transport.close()
        self._left = self._transport.get_write_buffer_size()
        if self.lingering or self._left:
            self._watch()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        self._transport.abort()

    def reset(self) -> None:
        """Close now, and say so to a peer that does not read.

        A plain `abort` leaves what the system holds for such a peer where it is, for minutes, and the end behind it.
        """
        connection = self._transport.get_extra_info("socket")
        if connection is not None and not self._transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self._transport.abort()

    def is_closing(self) -> bool:
        return self.lingering or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.lingering:
            self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        if not self.lingering:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    def _linger(self) -> None:
        self.lingering = True
        self._transport.set_protocol(_Discard(self._transport.get_protocol()))
        self._transport.resume_reading()
        self._transport.write_eof()

    def _watch(self) -> None:
        asyncio.get_running_loop().call_later(self._patience, self._expect_progress)

    def _expect_progress(self) -> None:
        left = self._transport.get_write_buffer_size()
        if 0 < left < self._left:
            self._left = left
            self._watch()
        else:
            self._transport.abort()


class _Discard(asyncio.Protocol):
    """Reads and forgets, until the connection is lost; then its predecessor hears of it."""

    def __init__(self, before: asyncio.BaseProtocol) -> None:
        self._before = before

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)
