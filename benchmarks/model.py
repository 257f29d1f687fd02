"""A minimal model server: OpenAI's chat completions, streamed as fast as the client reads.

It follows the script in the last message, as the scripted model does. Each chunk is a separate write. Where the script
says `stamp`, the text is the time of sending in ns.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_STAMP = "stamp"


class Model(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self) -> None:
        self._received = b""
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, gap, body = self._received.partition(b"\r\n\r\n")
        if gap and len(body) >= int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            self._received = b""
            self._answering = asyncio.get_running_loop().create_task(self._answer(json.loads(body)))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._answering:
            self._answering.cancel()

    async def _answer(self, request: dict[str, object]) -> None:
        messages = request["messages"]
        assert isinstance(messages, list)
        prompt = str(messages[-1]["content"])  # pyright: ignore[reportUnknownArgumentType]
        reply = json.loads(prompt.split("```script\n")[1].split("\n```", maxsplit=1)[0])["replies"][0]
        self._transport.write(_HEAD)
        for text in reply["text"]:
            await asyncio.sleep(reply["delayMs"] / 1000)
            content = f"{time.monotonic_ns()} " if text == _STAMP else text
            self._send({"index": 0, "delta": {"content": content}, "finish_reason": None})
        self._send({"index": 0, "delta": {}, "finish_reason": "stop"})
        count = len(reply["text"])
        self._send(None, {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": count + 10})
        self._chunk(b"[DONE]")
        self._transport.write(b"0\r\n\r\n")

    def _send(self, choice: dict[str, object] | None, usage: dict[str, int] | None = None) -> None:
        chunk: dict[str, object] = {
            "id": "chatcmpl-benchmark",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "benchmark",
            "choices": [choice] if choice else [],
        }
        self._chunk(json.dumps(chunk if usage is None else {**chunk, "usage": usage}).encode())

    def _chunk(self, data: bytes) -> None:
        event = b"data: " + data + b"\n\n"
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Model, "127.0.0.1", 0)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
