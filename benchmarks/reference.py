"""The reference server: the obvious first implementation, about sixty lines of FastAPI.

It has a queue per reader and encodes an event once. It stores nothing, validates nothing, needs no key, loses events that
happen before a reader connects, and lets a slow reader fill its memory. Its routes and scripts are those of the gateway.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

app = FastAPI()
queues: dict[str, set[asyncio.Queue[bytes | None]]] = defaultdict(set)
runs: set[asyncio.Task[None]] = set()


class Prompt(BaseModel):
    """The body of `POST …/prompt`."""

    text: str


class Accepted(BaseModel):
    """The response of `POST …/prompt`."""

    requestId: str  # noqa: N815 - as on the wire
    sessionId: str  # noqa: N815
    queued: bool


class Info(BaseModel):
    """The response of `GET …/{id}`, with as many fields as the gateway's."""

    sessionId: str  # noqa: N815
    state: str = "idle"
    turns: int = 0
    toolCalls: int = 0  # noqa: N815
    totalTokens: int = 0  # noqa: N815
    uptimeMs: int = 0  # noqa: N815
    model: str = "scripted:x"
    createdAt: int = 0  # noqa: N815
    metadata: dict[str, str] = {}
    queue: list[str] = []
    pendingApprovals: list[str] = []  # noqa: N815
    pendingQuestions: list[str] = []  # noqa: N815
    cursor: str = "0.0"


def publish(session_id: str, event: str, **data: Any) -> None:
    """Encode an event and put it into every reader's queue."""
    frame = f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
    for queue in queues[session_id]:
        queue.put_nowait(frame)


async def run(session_id: str, request_id: str, text: str) -> None:
    """Run the script of a prompt."""
    reply = json.loads(text.split("```script\n")[1].split("\n```", maxsplit=1)[0])["replies"][0]
    publish(session_id, "prompt_received", text=text, requestId=request_id)
    publish(session_id, "agent_start", requestId=request_id)
    publish(session_id, "message_start", requestId=request_id)
    for number, delta in enumerate(reply["text"], start=1):
        if reply["delayMs"]:
            await asyncio.sleep(reply["delayMs"] / 1000)
        elif number % 64 == 0:
            await asyncio.sleep(0)
        publish(session_id, "message_delta", delta=delta, requestId=request_id)
    content = "".join(reply["text"])
    publish(session_id, "agent_end", lastMessage={"role": "assistant", "content": content}, requestId=request_id)
    for queue in queues[session_id]:
        queue.put_nowait(None)


@app.post("/v1/sessions/{session_id}/prompt", status_code=202)
async def post_prompt(session_id: str, prompt: Prompt) -> Accepted:
    """Start a run."""
    request_id = uuid4().hex[:16]
    if "```script" in prompt.text:
        task = asyncio.create_task(run(session_id, request_id, prompt.text))
        runs.add(task)
        task.add_done_callback(runs.discard)
    return Accepted(requestId=request_id, sessionId=session_id, queued=False)


@app.get("/v1/sessions/{session_id}")
async def get_session(session_id: str) -> Info:
    """Get a session."""
    return Info(sessionId=session_id)


@app.get("/v1/sessions/{session_id}/events")
async def read_events(session_id: str) -> StreamingResponse:
    """Stream one run."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    queues[session_id].add(queue)

    async def frames() -> AsyncIterator[bytes]:
        try:
            while (frame := await queue.get()) is not None:
                yield frame
        finally:
            queues[session_id].discard(queue)

    return StreamingResponse(frames(), media_type="text/event-stream")


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])
