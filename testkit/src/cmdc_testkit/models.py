"""A language model's HTTP endpoint on loopback: OpenAI's chat completions, streamed.

It follows scripts as the scripted model inside the server does, and can misbehave in ways that no script describes: see
`Fault`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from cmdc_gateway.kernel.signals import TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import Message
from cmdc_gateway.providers.errors import status_message
from cmdc_gateway.providers.provider import ModelError
from cmdc_gateway.providers.scripted.script import AttemptCounter, Chunk, Reply, reply_for

Fault = Literal[
    "stall",  # headers, then nothing
    "silence",  # not even headers
    "drop",  # a word, then the connection is closed
    "hang_up",  # the connection is closed without a response
    "garbage",  # an event stream whose data is not JSON
    "not_a_stream",  # a page of HTML, with status 200
    "huge_line",  # one word of 10 MiB
    "error_chunk",  # a word, then an error inside the stream
]

HUGE = 10 * 1024 * 1024

_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool_result"}


@dataclass(slots=True)
class ReceivedRequest:
    """One received request. `disconnected` is set if its client leaves before the response is complete."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)


class ScriptedModelServer:
    """`async with ScriptedModelServer() as server:` listens at `server.base_url`, on a free port of loopback.

    `requests` lists what was received, `connections` counts connections. If `fault` is set, the server misbehaves so
    instead of following scripts. `refuse_with` is an HTTP status and a message for every request; `retry_after` is sent
    with every error. `raw_chunks` are sent unchanged, each as the data of one event, in place of a reply; `raw_replies`
    are lists of such chunks, one for each request. `usage` tells whether the usage chunk is sent.
    """

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.fault: Fault | None = None
        self.refuse_with: tuple[int, str] | None = None
        self.retry_after: str | None = None
        self.raw_chunks: list[dict[str, Any]] | None = None
        self.raw_replies: list[list[dict[str, Any]]] | None = None
        self.usage = True
        self.base_url = ""
        self.connections = 0
        self._received = asyncio.Event()
        self._attempts = AttemptCounter()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._open:
            connection.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def received(self) -> ReceivedRequest:
        """Wait for the first request; return the latest."""
        await self._received.wait()
        return self.requests[-1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                self._received.set()
                responding = asyncio.create_task(self._answer(request, writer))
                # A client sends nothing while it waits, so readable data is the next request or the end of the connection.
                disconnecting = asyncio.create_task(_until_gone(reader))
                try:
                    await asyncio.wait((responding, disconnecting), return_when=asyncio.FIRST_COMPLETED)
                    if not responding.done():
                        request.disconnected.set()
                        return
                    if not responding.result():
                        return
                finally:
                    responding.cancel()
                    disconnecting.cancel()
                    await asyncio.gather(responding, disconnecting, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _answer(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> bool:
        """Respond to one request; return whether the connection can be used for another."""
        if (request.method, request.path) != ("POST", "/v1/chat/completions"):
            return await _refuse(writer, 404, f"{request.method} {request.path} is not supported")
        if self.refuse_with is not None:
            return await _refuse(writer, *self.refuse_with, retry_after=self.retry_after)
        if self.fault is not None:
            return await _misbehave(self.fault, writer)
        if self.raw_chunks is not None:
            return await _stream(writer, iter(self.raw_chunks), delay=0)
        if self.raw_replies is not None:
            return await _stream(writer, iter(self.raw_replies.pop(0)), delay=0)
        try:
            reply = reply_for([_message(message) for message in request.body["messages"]])
        except ModelError as error:
            return await _refuse(writer, 400, error.reason)
        if (status := self._attempts.failure_status(reply)) is not None:
            return await _refuse(writer, status, status_message(status), retry_after=self.retry_after)
        chunks = _cut_chunks(reply) if reply.cut else _chunks(reply, usage=self.usage)
        return await _stream(writer, chunks, delay=reply.delay, done=not reply.cut)


def _message(data: Mapping[str, Any]) -> Message:
    content = data.get("content") or ""
    if not isinstance(content, str):  # a list of parts, of which some are text
        content = "".join(part.get("text", "") for part in content)
    return Message(_ROLES[data["role"]], content)  # pyright: ignore[reportArgumentType]


def _chunks(reply: Reply, *, usage: bool) -> Iterator[dict[str, Any]]:
    calls = 0
    for chunk in reply.chunks:
        yield _chunk(_delta(chunk, calls))
        calls += isinstance(chunk, ToolRequested)
    yield _chunk({}, finish="tool_calls" if calls else "stop")
    if usage:
        counts = reply.usage
        yield {
            **_chunk({}),
            "choices": [],
            "usage": {
                "prompt_tokens": counts.prompt_tokens,
                "completion_tokens": counts.completion_tokens,
                "total_tokens": counts.total_tokens,
            },
        }


def _cut_chunks(reply: Reply) -> Iterator[dict[str, Any]]:
    for chunk in reply.visible_chunks:
        yield _chunk(_delta(chunk, 0))


def _delta(chunk: Chunk, index: int) -> dict[str, Any]:
    match chunk:
        case ThoughtArrived(text):
            return {"reasoning_content": text}
        case TextArrived(text):
            return {"content": text}
        case ToolRequested(name, args):
            function = {"name": name, "arguments": json.dumps(args)}
            return {"tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def text_chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    """Return a chunk with answer text, for `raw_chunks`."""
    return _chunk({"content": text}, finish)


def call_chunk(*fragments: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    """Return a chunk with fragments of tool calls in OpenAI's format, for `raw_chunks`."""
    return _chunk({"tool_calls": list(fragments)}, finish)


async def _until_gone(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        if reader.exception():
            return
        await asyncio.sleep(0.01)


async def _read_request(reader: asyncio.StreamReader) -> ReceivedRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    return ReceivedRequest(method, path, headers, json.loads(raw or b"{}"))


async def _refuse(writer: asyncio.StreamWriter, status: int, message: str, *, retry_after: str | None = None) -> bool:
    body = json.dumps({"error": {"message": message, "type": "scripted", "code": None}}).encode()
    extra = f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
    head = f"HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return True


async def _stream(
    writer: asyncio.StreamWriter, chunks: Iterator[dict[str, Any]], *, delay: float, done: bool = True
) -> bool:
    await _begin(writer)
    for chunk in chunks:
        if delay:
            await asyncio.sleep(delay)
        await _data(writer, json.dumps(chunk).encode())
    if done:
        await _data(writer, b"[DONE]")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def _begin(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    await writer.drain()


async def _data(writer: asyncio.StreamWriter, data: bytes) -> None:
    event = b"data: " + data + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
    await writer.drain()


async def _misbehave(fault: Fault, writer: asyncio.StreamWriter) -> bool:
    if fault == "silence":
        await asyncio.Event().wait()
    if fault == "hang_up":
        return False
    if fault == "not_a_stream":
        page = b"<html>Down for maintenance</html>\n" * 100
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page))
        await writer.drain()
        return True
    await _begin(writer)
    if fault == "stall":
        await asyncio.Event().wait()
    if fault == "garbage":
        await _data(writer, b'{"choices": [{"del')
    if fault == "huge_line":
        await _data(writer, json.dumps(_chunk({"content": "x" * HUGE})).encode())
        await _data(writer, json.dumps(_chunk({}, finish="stop")).encode())
    if fault in ("drop", "error_chunk"):
        await _data(writer, json.dumps(_chunk({"content": "Hel"})).encode())
    if fault == "error_chunk":
        await _data(writer, json.dumps({"error": {"message": "the engine died", "code": 500}}).encode())
    if fault == "drop":
        await asyncio.sleep(0.05)  # the client reads what was sent before the connection is closed
        return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True
