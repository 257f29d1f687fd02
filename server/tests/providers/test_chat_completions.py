"""What applies only to models that are called without litellm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cmdc_gateway.kernel.signals import ModelFinished, TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.chat_completions.endpoints import find_endpoint
from cmdc_gateway.providers.chat_completions.pool import ConnectionPool
from cmdc_gateway.providers.chat_completions.provider import ChatCompletionsProvider
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.testing.providers import collect, collect_until_error, request
from cmdc_testkit.models import ScriptedModelServer, text_chunk

KEY = "k3y-of-the-0perator"


@pytest.fixture
async def pool() -> AsyncIterator[ConnectionPool]:
    pool = ConnectionPool()
    yield pool
    await pool.close()


def provider(pool: ConnectionPool, api_base: str) -> ChatCompletionsProvider:
    target = ModelTarget("openai/m", api_base, KEY)
    endpoint = find_endpoint(target)
    assert endpoint is not None
    return ChatCompletionsProvider(target, endpoint, pool)


@asynccontextmanager
async def serving(*pieces: bytes) -> AsyncGenerator[tuple[str, list[bytes]]]:
    """A server that responds to every request with these bytes: its base URL, and the heads of the requests."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", heads


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


async def test_a_response_may_be_a_single_json_body(pool: ConnectionPool) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    message: dict[str, Any] = {"role": "assistant", "content": "Hello", "reasoning_content": "hm", "tool_calls": [call]}
    body = json.dumps(
        {
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    async with serving(head + body[:40], body[40:]) as (url, _):
        signals = await collect(provider(pool, url), request("Hi"))

    assert signals == [
        ThoughtArrived("hm"),
        TextArrived("Hello"),
        ToolRequested("f", {"x": 1}),
        ModelFinished(TokenUsage(7, 3)),
    ]


async def test_a_stream_may_have_comments_other_fields_and_any_line_ending(pool: ConnectionPool) -> None:
    stream = (
        b": waiting\r\n\r\nevent: x\r\ndata:"
        + json.dumps(text_chunk("a")).encode()
        + b"\r\n\r\n\ndata: "
        + json.dumps(text_chunk("b", finish="stop")).encode()
        + b"\n\ndata: [DONE]"
    )
    async with serving(STREAM, *(stream[at : at + 7] for at in range(0, len(stream), 7))) as (url, _):
        signals = await collect(provider(pool, url), request("Hi"))

    assert signals[:-1] == [TextArrived("a"), TextArrived("b")]


@pytest.mark.parametrize("data", [b"[]", b"7", b'{"choices": 7}', b'{"choices": [{"delta": "x"}]}', b'"x"', b"{"])
async def test_data_of_another_shape_is_an_invalid_response(pool: ConnectionPool, data: bytes) -> None:
    async with serving(STREAM + b"data: " + data + b"\n\n") as (url, _):
        signals, error = await collect_until_error(provider(pool, url), request("Hi"))

    assert signals == []
    assert error.reason == "the model's provider sent an invalid response"


async def test_an_error_in_the_stream_is_reported(pool: ConnectionPool) -> None:
    async with serving(STREAM + b'data: {"error": {"message": "no such model", "code": 404}}\n\n') as (url, _):
        _, error = await collect_until_error(provider(pool, url), request("Hi"))

    assert (error.reason, error.transient) == ("the model's provider returned status 404: no such model", False)


async def test_a_redirect_is_not_followed(pool: ConnectionPool, server: ScriptedModelServer) -> None:
    head = f"HTTP/1.1 307 Moved\r\nLocation: {server.base_url}/chat/completions\r\nContent-Length: 0\r\n\r\n"

    async with serving(head.encode()) as (url, heads):
        _, error = await collect_until_error(provider(pool, url), request("Hi"))

    assert (error.reason, error.transient) == ("the model's provider returned status 307", False)
    assert len(heads) == 1
    assert server.requests == []


async def test_a_reported_cost_takes_precedence(pool: ConnectionPool) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "cost": 0.25}
    stream = b"data: " + json.dumps({**text_chunk("a", finish="stop"), "usage": usage}).encode() + b"\n\n"

    async with serving(STREAM + stream) as (url, _):
        *_, finished = await collect(provider(pool, url), request("Hi"))

    assert finished == ModelFinished(TokenUsage(7, 3), 0.25)


async def test_successive_calls_share_a_connection(pool: ConnectionPool, server: ScriptedModelServer) -> None:
    model = provider(pool, server.base_url)
    for _ in range(3):
        await collect(model, request("Hi"))

    assert len(server.requests) == 3
    assert server.connections == 1
