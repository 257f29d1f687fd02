"""The server side of WebSocket (RFC 6455)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct

from minimal_gateway.errors import ApiError, bad_request
from minimal_gateway.http1 import Connection, Disconnected, Request

MESSAGE_BYTES = 1024 * 1024
PING_SECONDS = 20.0

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


class WebSocket:
    """One open WebSocket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._closed = False
        self._pong = asyncio.Event()

    @classmethod
    def accept(cls, connection: Connection, request: Request) -> WebSocket:
        """Respond to the handshake. Raises ApiError."""
        if "websocket" not in (request.header("upgrade") or "").lower():
            raise ApiError("upgrade_required", "this route needs a WebSocket upgrade", {"Upgrade": "websocket"})
        key = request.header("sec-websocket-key") or ""
        if request.header("sec-websocket-version") != "13" or len(key) != 24:
            raise bad_request("not a WebSocket 13 handshake")
        accepted = base64.b64encode(hashlib.sha1(key.encode() + _MAGIC).digest()).decode()
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accepted}
        connection.start(None, 101, upgrade)
        return cls(connection)

    async def receive(self) -> str | None:
        """Receive a text message; None for a binary one. Raises Disconnected."""
        data, kind = b"", 0
        while True:
            final, opcode, payload = await self._frame(MESSAGE_BYTES - len(data))
            match opcode:
                case _ if opcode == _CLOSE:
                    self.close(int.from_bytes(payload[:2]) if len(payload) >= 2 else 1000)
                    raise Disconnected
                case _ if opcode == _PING:
                    self._send(_PONG, payload)
                    continue
                case _ if opcode == _PONG:
                    self._pong.set()
                    continue
                case _ if (opcode == _CONTINUATION) != (kind != 0) or opcode > _BINARY:
                    raise self._failed(1002)
                case _:
                    kind, data = kind or opcode, data + payload
            if final:
                break
        if kind == _BINARY:
            return None
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._failed(1007) from None

    async def _frame(self, room: int) -> tuple[bool, int, bytes]:
        first, second = await self._connection.read(2)
        opcode, size = first & 0x0F, second & 0x7F
        control = opcode >= _CLOSE
        if first & 0x70 or not second & 0x80 or (control and (size > 125 or not first & 0x80)):
            raise self._failed(1002)
        if size == 126:
            size = int.from_bytes(await self._connection.read(2))
        elif size == 127:
            size = int.from_bytes(await self._connection.read(8))
        if not control and size > room:
            raise self._failed(1009)
        mask = await self._connection.read(4)
        masked = await self._connection.read(size)
        pattern = (mask * (size // 4 + 1))[:size]
        payload = (int.from_bytes(masked) ^ int.from_bytes(pattern)).to_bytes(size) if size else b""
        return bool(first & 0x80), opcode, payload

    async def send(self, text: str) -> None:
        self._send(_TEXT, text.encode())
        await self._connection.drain()

    def close(self, code: int) -> None:
        if not self._closed:
            self._send(_CLOSE, struct.pack("!H", code))
            self._closed = True

    async def keep_alive(self) -> None:
        """Send pings; return when one is not answered."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            self._pong.clear()
            self._send(_PING, b"")
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._pong.wait()
            except TimeoutError:
                return

    def _failed(self, code: int) -> Disconnected:
        self.close(code)
        return Disconnected()

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._closed:
            return
        size = len(payload)
        if size < 126:
            length = bytes([size])
        elif size < 65536:
            length = b"\x7e" + size.to_bytes(2)
        else:
            length = b"\x7f" + size.to_bytes(8)
        self._connection.write(bytes([0x80 | opcode]) + length + payload)
