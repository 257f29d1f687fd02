"""A bad network on loopback: slow, sending byte by byte, breaking connections, or going silent."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

_CHUNK_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class ConnectionFault:
    """The fault of one connection, in bytes of the response.

    After `after` bytes the connection is closed, reset, or (`silence`) left open without another byte; None: never. Each
    chunk is delayed by `latency` seconds, and the first `slices` bytes are sent one by one.
    """

    after: int | None = None
    how: Literal["close", "reset", "silence"] = "close"
    latency: float = 0.0
    slices: int = 0


@dataclass
class FaultProxy:
    """`async with FaultProxy(port, choose) as proxy:` forwards `proxy.port` to `port`, with the fault that `choose` returns.

    `cuts` counts the connections that were broken.
    """

    target: int
    choose: Callable[[], ConnectionFault]
    port: int = 0
    cuts: int = 0
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None, "it was entered"
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "runs in a task"
        self._connections.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                upstream = await asyncio.open_connection("127.0.0.1", self.target)
                try:
                    await self._forward(reader, writer, *upstream)
                finally:
                    upstream[1].transport.abort()
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        responses: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> None:
        requesting = asyncio.create_task(_pump(reader, requests))
        responding = asyncio.create_task(self._respond(responses, writer, self.choose()))
        try:
            await asyncio.wait([requesting, responding], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (requesting, responding):
                task.cancel()
            await asyncio.gather(requesting, responding, return_exceptions=True)

    async def _respond(
        self, responses: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: ConnectionFault
    ) -> None:
        sent = 0
        while chunk := await responses.read(_CHUNK_BYTES):
            if fault.latency:
                await asyncio.sleep(fault.latency)
            for part in _split(chunk, fault.slices - sent):
                left = len(part) if fault.after is None else fault.after - sent
                writer.write(part[:left])
                await writer.drain()
                sent += len(part[:left])
                if sent == fault.after:
                    await self._break(writer, fault)
                    return
        writer.close()
        await writer.wait_closed()

    async def _break(self, writer: asyncio.StreamWriter, fault: ConnectionFault) -> None:
        self.cuts += 1
        match fault.how:
            case "close":
                writer.close()
                await writer.wait_closed()
            case "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            case "silence":
                await asyncio.get_running_loop().create_future()  # until the client gives up


def _split(chunk: bytes, slices: int) -> list[bytes]:
    alone = max(0, min(slices, len(chunk)))
    return [*(chunk[index : index + 1] for index in range(alone)), *([chunk[alone:]] if chunk[alone:] else [])]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
