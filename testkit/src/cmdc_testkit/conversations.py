"""A session driven over HTTP in tests, and scripts for the scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

import httpx

_TIMEOUT_SECONDS = 30


def script(*replies: Mapping[str, Any], nonce: str = "") -> str:
    """A prompt that makes the scripted model give these replies, one per step."""
    return f"Obey:\n```script\n{json.dumps({'nonce': nonce, 'replies': replies})}\n```"


def calling(*calls: tuple[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """A reply that requests tool calls, each given as name and arguments."""
    return {"toolCalls": [{"name": name, "args": args} for name, args in calls], **more}


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as received from the stream."""

    id: str
    event: str
    data: dict[str, Any]


async def frames(lines: AsyncIterator[str]) -> AsyncIterator[Seen]:
    """Parse the lines of a stream into events."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Seen(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def shown(events: list[Seen]) -> list[tuple[str, dict[str, Any]]]:
    """Events without the parts that differ between runs, their ids and requestIds."""
    return [(seen.event, {name: value for name, value in seen.data.items() if name != "requestId"}) for seen in events]


def names(events: list[Seen]) -> list[str]:
    """The names of events, in order."""
    return [seen.event for seen in events]


class Conversation:
    """A session and the HTTP client that uses it."""

    def __init__(self, client: httpx.AsyncClient, session_id: str) -> None:
        self.client = client
        self.id = session_id
        self.path = f"/v1/sessions/{session_id}"

    @classmethod
    async def begin(cls, client: httpx.AsyncClient, **settings: Any) -> Self:
        """Make a session; with the scripted model, unless the settings say otherwise."""
        answer = await client.post("/v1/sessions", json={"model": "scripted:x", **settings})
        assert answer.status_code == 201, answer.text
        return cls(client, answer.json()["sessionId"])

    async def get(self, what: str = "", **params: Any) -> httpx.Response:
        return await self.client.get(f"{self.path}{what}", params=params)

    async def post(self, action: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send a POST; header names are given with `_` instead of `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"{self.path}/{action}", json={} if body is None else body, headers=sent)

    async def info(self) -> dict[str, Any]:
        return (await self.get()).json()

    async def messages(self) -> list[dict[str, Any]]:
        return (await self.get("/messages")).json()["messages"]

    async def prompt(self, text: str) -> str:
        """Send a prompt that must be accepted; return its requestId."""
        answer = await self.post("prompt", {"text": text})
        assert answer.status_code == 202, answer.text
        return answer.json()["requestId"]

    async def run(self, text: str) -> list[Seen]:
        """Send a prompt and return the events of its run."""
        return await self.events(await self.prompt(text))

    async def events(self, request_id: str) -> list[Seen]:
        """Return the events of a run; waits for its terminal event."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return [seen async for seen in self.stream(requestId=request_id)]

    async def stream(self, **params: Any) -> AsyncGenerator[Seen]:
        """Yield events until the stream ends."""
        async with self.client.stream("GET", f"{self.path}/events", params=params) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for seen in frames(answer.aiter_lines()):
                yield seen

    async def first(self, event: str, *, nth: int = 1) -> dict[str, Any]:
        """Wait for the first, or `nth`, event of this name and return its data."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            async with aclosing(self.stream(after="start", follow="true", types=event)) as stream:
                for _ in range(nth - 1):
                    await anext(stream)
                return (await anext(stream)).data
