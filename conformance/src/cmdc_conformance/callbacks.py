"""Tools that the suite hosts: what the server calls, and what it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from cmdc_conformance.findings import Blocked
from cmdc_conformance.serving import Request, Response

Behaviour = Callable[[Request], Awaitable[Response]]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


def giving(result: Any) -> Behaviour:
    """Answers with this result."""

    async def behave(_: Request) -> Response:
        return Response.json({"result": result})

    return behave


def answering(response: Response) -> Behaviour:
    """Answers with just this."""

    async def behave(_: Request) -> Response:
        return response

    return behave


@dataclass(slots=True)
class HostedTool:
    """A tool of the suite: its address, how it behaves, and the calls that have come."""

    url: str
    behave: Behaviour
    calls: list[Request] = field(default_factory=list[Request])
    came: asyncio.Condition = field(default_factory=asyncio.Condition)
    gate: asyncio.Event | None = None

    async def called(self, times: int = 1, *, within: float) -> list[Request]:
        """The calls, once there are so many. Raises Blocked."""
        try:
            async with asyncio.timeout(within), self.came:
                await self.came.wait_for(lambda: len(self.calls) >= times)
        except TimeoutError:
            raise Blocked(f"the tool was called {len(self.calls)} times within {within:g} s, not {times}") from None
        return self.calls


class Callbacks:
    """All tools that the suite hosts, by the paths of their addresses."""

    def __init__(self, host: str) -> None:
        self.port = 0
        self._host = host
        self._tools: dict[str, HostedTool] = {}

    def host(self, behave: Behaviour | None = None) -> HostedTool:
        """A new tool; it answers `sunny` unless told otherwise."""
        path = f"/tool/{token_hex(8)}"
        tool = HostedTool(f"http://{self._host}:{self.port}{path}", behave or giving("sunny"))
        self._tools[path] = tool
        return tool

    async def answer(self, request: Request) -> Response:
        """Answer one request of the server."""
        tool = self._tools.get(request.path)
        if tool is None:
            return Response.json({"error": "there is no such tool"}, 404)
        async with tool.came:
            tool.calls.append(request)
            tool.came.notify_all()
        if tool.gate is not None:
            await tool.gate.wait()
        return await tool.behave(request)
