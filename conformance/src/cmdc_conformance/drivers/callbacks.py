"""Callback tools that the suite hosts and the server under test calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from cmdc_conformance.drivers.http_server import Request, Response
from cmdc_conformance.findings import Blocked

Behavior = Callable[[Request], Awaitable[Response]]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


def returning(result: Any) -> Behavior:
    """Respond to each call with this result."""

    async def behavior(_: Request) -> Response:
        return Response.json({"result": result})

    return behavior


def responding_with(response: Response) -> Behavior:
    """Respond to each call with exactly this."""

    async def behavior(_: Request) -> Response:
        return response

    return behavior


@dataclass(slots=True)
class HostedTool:
    """A callback tool: its URL, its behavior, and the calls received so far. While `gate` is set but not open, calls block."""

    url: str
    behavior: Behavior
    calls: list[Request] = field(default_factory=list[Request])
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    gate: asyncio.Event | None = None

    async def wait_for_calls(self, times: int = 1, *, within: float) -> list[Request]:
        """Wait for this many calls and return all of them. Raises Blocked."""
        try:
            async with asyncio.timeout(within), self.arrived:
                await self.arrived.wait_for(lambda: len(self.calls) >= times)
        except TimeoutError:
            raise Blocked(
                f"the tool was called {len(self.calls)} times within {within:g} s, expected {times}"
            ) from None
        return self.calls


class Callbacks:
    """All callback tools of a suite run, by the paths of their URLs."""

    def __init__(self, host: str) -> None:
        self.port = 0
        self._host = host
        self._tools: dict[str, HostedTool] = {}

    def host(self, behavior: Behavior | None = None) -> HostedTool:
        """Host a new tool. By default, its result is `sunny`."""
        path = f"/tool/{token_hex(8)}"
        tool = HostedTool(f"http://{self._host}:{self.port}{path}", behavior or returning("sunny"))
        self._tools[path] = tool
        return tool

    async def handle(self, request: Request) -> Response:
        """Respond to a request of the server."""
        tool = self._tools.get(request.path)
        if tool is None:
            return Response.json({"error": "unknown tool"}, 404)
        async with tool.arrived:
            tool.calls.append(request)
            tool.arrived.notify_all()
        if tool.gate is not None:
            await tool.gate.wait()
        return await tool.behavior(request)
