"""Talking to a session over HTTP in tests: scripts for the scripted model, and what the session shows of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

import httpx

_PATIENCE_SECONDS = 30


def script(*replies: Mapping[str, Any], nonce: str = "") -> str:
    """A prompt that makes the scripted model give these replies, one a step (PROTOCOL §10)."""
    return f"Obey:\n```script\n{json.dumps({'nonce': nonce, 'replies': replies})}\n```"


def calling(*calls: tuple[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """A reply that asks for tools, each given as its name and its arguments."""
    return {"toolCalls": [{"name": name, "args": args} for name, args in calls], **more}


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as a reader of the stream gets it."""

    id: str
    event: str
    data: dict[str, Any]


async def frames(lines: AsyncIterator[str]) -> AsyncIterator[Seen]:
    """The events in the lines of a stream."""
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
    """Events without what differs from run to run: their ids and their requestId."""
    return [(seen.event, {name: value for name, value in seen.data.items() if name != "requestId"}) for seen in events]


def names(events: list[Seen]) -> list[str]:
    """The names of events, in order."""
    return [seen.event for seen in events]


class Conversation:
    """One session and an HTTP client that talks to it."""

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
        """POST; headers are given with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"{self.path}/{action}", json={} if body is None else body, headers=sent)

    async def info(self) -> dict[str, Any]:
        return (await self.get()).json()

    async def messages(self) -> list[dict[str, Any]]:
        return (await self.get("/messages")).json()["messages"]

    async def prompt(self, text: str) -> str:
        """Have a prompt accepted; return its requestId."""
        answer = await self.post("prompt", {"text": text})
        assert answer.status_code == 202, answer.text
        return answer.json()["requestId"]

    async def run(self, text: str) -> list[Seen]:
        """Have a prompt accepted and read its run to the end."""
        return await self.events(await self.prompt(text))

    async def events(self, request_id: str) -> list[Seen]:
        """A run from its first event to its terminal one, which is waited for."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return [seen async for seen in self.stream(requestId=request_id)]

    async def stream(self, **params: Any) -> AsyncGenerator[Seen]:
        """Events as they come, to the end of the stream."""
        async with self.client.stream("GET", f"{self.path}/events", params=params) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for seen in frames(answer.aiter_lines()):
                yield seen

    async def first(self, event: str, *, nth: int = 1) -> dict[str, Any]:
        """The data of the session's first event of this name, or its nth; waits for it."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            async with aclosing(self.stream(after="start", follow="true", types=event)) as stream:
                for _ in range(nth - 1):
                    await anext(stream)
                return (await anext(stream)).data
