"""A bad network on loopback: it is slow, cuts what it carries into bytes, breaks connections, or says nothing more."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

_PIECE = 4_096


@dataclass(frozen=True, slots=True)
class ConnectionFault:
    """What becomes of one connection, counted in bytes of its answer.

    After `after` bytes it is closed, reset, or (`silence`) left open without another byte; None: never. Each piece comes
    `latency` seconds late, and the first `slices` bytes come one by one.
    """

    after: int | None = None
    how: Literal["close", "reset", "silence"] = "close"
    latency: float = 0.0
    slices: int = 0


@dataclass
class FaultProxy:
    """`async with FaultProxy(port, choose) as proxy:` carries `proxy.port` to `port`; `choose` says how, each time.

    `cuts` counts the connections that were broken.
    """

    target: int
    choose: Callable[[], ConnectionFault]
    port: int = 0
    cuts: int = 0
    _server: asyncio.Server | None = None
    _carrying: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None, "it was entered"
        self._server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "this is one"
        self._carrying.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                upstream = await asyncio.open_connection("127.0.0.1", self.target)
                try:
                    await self._carry(reader, writer, *upstream)
                finally:
                    upstream[1].transport.abort()
        finally:
            writer.transport.abort()
            self._carrying.discard(task)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> None:
        asking = asyncio.create_task(_pump(reader, requests))
        answering = asyncio.create_task(self._answer(answers, writer, self.choose()))
        try:
            await asyncio.wait([asking, answering], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)

    async def _answer(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: ConnectionFault
    ) -> None:
        carried = 0
        while piece := await answers.read(_PIECE):
            if fault.latency:
                await asyncio.sleep(fault.latency)
            for part in _parts(piece, fault.slices - carried):
                left = len(part) if fault.after is None else fault.after - carried
                writer.write(part[:left])
                await writer.drain()
                carried += len(part[:left])
                if carried == fault.after:
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


def _parts(piece: bytes, slices: int) -> list[bytes]:
    alone = max(0, min(slices, len(piece)))
    return [*(piece[index : index + 1] for index in range(alone)), *([piece[alone:]] if piece[alone:] else [])]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
