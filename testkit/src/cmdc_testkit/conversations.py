"""A client for one session over HTTP, and scripts for the scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Self

import httpx

from cmdc_testkit.events import ReceivedEvent, parse_events

_TIMEOUT_SECONDS = 30


def script(*replies: Mapping[str, Any], nonce: str = "") -> str:
    """A prompt that makes the scripted model give these replies, one per model call."""
    return f"Obey:\n```script\n{json.dumps({'nonce': nonce, 'replies': replies})}\n```"


def calling(*calls: tuple[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """A reply that calls tools, each given by its name and its arguments."""
    return {"toolCalls": [{"name": name, "args": args} for name, args in calls], **more}


def call(name: str, **args: Any) -> dict[str, Any]:
    """One tool call of a reply."""
    return {"name": name, "args": args}


class Conversation:
    """One session, and the HTTP client that uses it."""

    def __init__(self, client: httpx.AsyncClient, session_id: str) -> None:
        self.client = client
        self.id = session_id
        self.path = f"/v1/sessions/{session_id}"

    @classmethod
    async def begin(cls, client: httpx.AsyncClient, **settings: Any) -> Self:
        """Create a session, with the scripted model unless the settings name another one."""
        answer = await client.post("/v1/sessions", json={"model": "scripted:x", **settings})
        assert answer.status_code == 201, answer.text
        return cls(client, answer.json()["sessionId"])

    async def get(self, what: str = "", **params: Any) -> httpx.Response:
        return await self.client.get(f"{self.path}{what}", params=params)

    async def post(self, action: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send a POST request; in header names, `_` stands for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"{self.path}/{action}", json={} if body is None else body, headers=sent)

    async def info(self) -> dict[str, Any]:
        return (await self.get()).json()

    async def messages(self) -> list[dict[str, Any]]:
        return (await self.get("/messages")).json()["messages"]

    async def prompt(self, text: str) -> str:
        """Send a prompt and return its requestId."""
        answer = await self.post("prompt", {"text": text})
        assert answer.status_code == 202, answer.text
        return answer.json()["requestId"]

    async def run(self, text: str) -> list[ReceivedEvent]:
        """Send a prompt and read its run to the end."""
        return await self.events(await self.prompt(text))

    async def events(self, request_id: str) -> list[ReceivedEvent]:
        """Read a run from its first event to its terminal event."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return [event async for event in self.stream(requestId=request_id)]

    async def stream(self, **params: Any) -> AsyncGenerator[ReceivedEvent]:
        """Yield events as they arrive, until the server ends the stream."""
        async with self.client.stream("GET", f"{self.path}/events", params=params) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for event in parse_events(answer.aiter_raw()):
                yield event

    async def first(self, event: str, *, nth: int = 1) -> dict[str, Any]:
        """Wait for the session's nth event of this name and return its data."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            async with aclosing(self.stream(after="start", follow="true", types=event)) as stream:
                for _ in range(nth - 1):
                    await anext(stream)
                return dict((await anext(stream)).data)
