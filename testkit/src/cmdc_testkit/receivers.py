"""A callback tool on loopback that records its requests and returns configured responses."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Call:
    """One received request."""

    line: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)


@dataclass(slots=True)
class Receiver:
    """`async with Receiver() as receiver:` listens at `receiver.url`.

    It returns `answer` with `status`. `answers` are used first, one for each call, as a status and a body. While
    `released` is not set, responses wait for it.
    """

    answer: bytes = b'{"result": "done"}'
    status: str = "200 OK"
    headers: str = ""
    answers: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    calls: list[Call] = field(default_factory=list[Call])
    released: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _called: asyncio.Condition = field(default_factory=asyncio.Condition)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/tool"

    async def wait_for_calls(self, times: int = 1) -> list[Call]:
        """Wait until there were `times` calls; return all calls."""
        async with asyncio.timeout(15), self._called:
            await self._called.wait_for(lambda: len(self.calls) >= times)
        return self.calls

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.released.set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None, "it was entered"
        self.released.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            raw = await reader.readexactly(int(headers.get("content-length", "0")))
            if line.startswith(("GET /healthz ", "GET /readyz ")):
                return  # a test still polls a gateway that had this port
            status, answer = self.answers.pop(0) if self.answers else (self.status, self.answer)
            async with self._called:
                self.calls.append(Call(line, headers, raw))
                self._called.notify_all()
            await self.released.wait()
            start = f"HTTP/1.1 {status}\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n{self.headers}\r\n"
            writer.write(start.encode() + answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
