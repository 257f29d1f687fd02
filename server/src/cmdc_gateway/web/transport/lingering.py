"""A transport whose `close` lets the peer read the last response, and always completes.

If a socket is closed while it holds unread data, TCP sends a reset and the peer loses what it has not read yet: a client
that is still sending a long body never sees its 413. And a plain `close` waits without limit for a peer that does not
read. `LingeringTransport` sits between uvicorn's protocols and the event loop's transport and fixes both; it knows nothing
about HTTP or WebSocket.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class LingeringTransport(asyncio.Transport):
    """The transport of uvicorn's protocols.

    A closing connection that makes no progress for `linger_seconds` is aborted.
    """

    def __init__(self, transport: asyncio.Transport, linger_seconds: float) -> None:
        super().__init__()
        self._transport = transport
        self._linger_seconds = linger_seconds
        self._unsent = 0
        self.lingering = False
        self.peer_is_sending = False
        """True while the peer may send data that will not be used: `close` then reads and drops it until the peer is done."""

    def close(self) -> None:
        """Close after the buffered data has been sent."""
        if self.is_closing():
            return
        if self.peer_is_sending and self._transport.can_write_eof():
            self._linger()
        else:
            self._transport.close()
        self._unsent = self._transport.get_write_buffer_size()
        if self.lingering or self._unsent:
            self._watch()

    def abort(self) -> None:
        """Close now; unsent data is lost."""
        self._transport.abort()

    def reset(self) -> None:
        """Close now with a TCP reset.

        After a plain `abort` the system keeps the data for a peer that does not read, and the FIN behind it, for minutes.
        """
        connection = self._transport.get_extra_info("socket")
        if connection is not None and not self._transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
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
        asyncio.get_running_loop().call_later(self._linger_seconds, self._expect_progress)

    def _expect_progress(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:
            self._unsent = unsent
            self._watch()
        else:
            self._transport.abort()


class _Discard(asyncio.Protocol):
    """Drops received data, and passes every other callback to the protocol it replaces."""

    def __init__(self, replaced: asyncio.BaseProtocol) -> None:
        self._replaced = replaced

    def pause_writing(self) -> None:
        self._replaced.pause_writing()

    def resume_writing(self) -> None:
        self._replaced.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._replaced.connection_lost(exc)
