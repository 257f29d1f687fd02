"""`CallbackServer`: calls by a gateway over real sockets, and invalid requests."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from cmdc_client import ApprovalRequired, AsyncClient, Client, RegistrationFailed, ToolExecutionEnd
from cmdc_client.callbacks import CallbackCall, CallbackServer, Tools, new_secret, sign
from cmdc_client.callbacks.dispatcher import MAX_BODY, CallDispatcher
from cmdc_client.callbacks.http_connection import MAX_FIELDS, MAX_HEAD, Timeouts
from cmdc_client.callbacks.server import Listener
from cmdc_testkit.conversations import call, script
from cmdc_testkit.gateways import KEY, InProcessGateway

SECRET = new_secret()
SHORT = Timeouts(idle=0.2, head=0.2, body=0.2, response=0.2)


@pytest.fixture
def tools() -> Tools:
    tools = Tools()

    @tools.tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    @tools.tool(requires_approval=True)
    async def who(call: CallbackCall) -> str:
        """Return the id of the session."""
        return call.session_id

    return tools


def signed_post(tool: str, call_id: str = "c1", *, more: str = "", **args: Any) -> bytes:
    """Return the bytes of a request with a signed call."""
    body = json.dumps({"callId": call_id, "toolName": tool, "args": args, "sessionId": "s"}).encode()
    headers = sign(SECRET, call_id, int(time.time()), body) | {"Host": "h", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /{tool} HTTP/1.1\r\n{lines}{more}\r\n".encode() + body


async def responses_to(url: str, *chunks: bytes) -> list[tuple[int, Any]]:
    """Send these bytes and return the statuses and bodies until the connection is closed."""
    reader, writer = await _connect(url)
    for chunk in chunks:
        writer.write(chunk)
    writer.write_eof()
    async with asyncio.timeout(10):
        responses = [response async for response in _responses(reader)]
    writer.close()
    return responses


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def _responses(reader: asyncio.StreamReader, *, without_body: bool = False) -> AsyncGenerator[tuple[int, Any]]:
    while line := await reader.readline():
        headers: dict[str, str] = {}
        while (field := (await reader.readline()).decode().strip()) != "":
            name, _, value = field.partition(": ")
            headers[name] = value
        if line.startswith(b"HTTP/1.1 100"):
            continue
        body = b"null" if without_body else await reader.readexactly(int(headers["Content-Length"]))
        assert headers["Content-Type"] == "application/json"
        yield int(line.split()[1]), json.loads(body)


@asynccontextmanager
async def listening(tools: Tools, timeouts: Timeouts | None = None) -> AsyncGenerator[str]:
    """Run the server with these timeouts, and return its URL."""
    listener = await Listener.open(CallDispatcher(tools, SECRET), "127.0.0.1", 0, timeouts)
    try:
        yield listener.url
    finally:
        await listener.aclose(0)


# -- with a gateway ----------------------------------------------------------------------------------------------------

PROMPT = script({"toolCalls": [call("double", number=21), call("who"), call("double", number="x")]}, {"text": ["ok"]})


async def test_a_gateway_calls_the_tools_of_an_async_program(gateway: InProcessGateway, tools: Tools) -> None:
    async with (
        AsyncClient(gateway.url, api_key=KEY) as client,
        await client.sessions.create(model="scripted:x") as session,
        CallbackServer(tools) as server,
    ):
        await server.register(session)
        listed = {entry.name: entry for entry in await session.tools.list()}
        reply = await session.ask(PROMPT, policy="approve")

        results = {done.name: (done.status, done.result) for done in reply.tool_calls}
        assert results == {"double": ("ok", "42"), "who": ("ok", session.id)}
    assert listed["who"].requires_approval
    assert listed["double"].parameters.to_dict()["properties"] == {"number": {"type": "integer"}}


async def test_a_gateway_calls_the_tools_of_a_sync_program(gateway: InProcessGateway, tools: Tools) -> None:
    def run() -> tuple[list[str | None], list[str], str]:
        with Client(gateway.url, api_key=KEY) as client, CallbackServer(tools, secret=SECRET) as server:
            session = client.sessions.create(model="scripted:x")
            assert server.secret == SECRET
            server.register(session)
            seen: list[str] = []
            for event in session.run(PROMPT):
                match event:
                    case ApprovalRequired():
                        event.reject()
                    case ToolExecutionEnd(tool_name=name):
                        seen.append(name)
                    case _:
                        pass
            return [message.content for message in session.messages()], seen, repr(server)

    contents, seen, shown = await asyncio.to_thread(run)
    assert seen == ["double"]
    assert "42" in contents
    assert shown.startswith("<CallbackServer http://127.0.0.1:")
    assert SECRET not in shown


async def test_registering_fails_if_the_gateway_may_not_call_the_address(
    gateway: InProcessGateway, tools: Tools
) -> None:
    async with AsyncClient(gateway.url, api_key=KEY) as client, CallbackServer(tools) as server:
        session = await client.sessions.create(model="scripted:x")
        with pytest.raises(RegistrationFailed):
            await tools.register(session, url="http://169.254.169.254", secret=server.secret)
        with pytest.raises(ValueError, match="there are no tools to register"):
            await Tools().register(session, url=server.url, secret=server.secret)


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_several_calls_over_one_connection_in_any_division_into_chunks(tools: Tools) -> None:
    first, second = signed_post("double", number=1), signed_post("double", "c2", number=2)
    both = first + second

    async with listening(tools) as url:
        together = await responses_to(url, both)
        divided = await responses_to(url, *(both[at : at + 7] for at in range(0, len(both), 7)))

    assert together == divided == [(200, {"result": 2}), (200, {"result": 4})]


async def test_the_connection_is_closed_when_the_caller_asks_for_it(tools: Tools) -> None:
    closing, after = (
        signed_post("double", number=1, more="Connection: close\r\n"),
        signed_post("double", "c2", number=2),
    )
    old = signed_post("double", "c3", number=3).replace(b"HTTP/1.1", b"HTTP/1.0", 1)

    async with listening(tools) as url:
        assert await responses_to(url, closing + after) == [(200, {"result": 2})]
        assert await responses_to(url, old + after) == [(200, {"result": 6})]


async def test_expect_100_continue_is_answered(tools: Tools) -> None:
    head, _, body = signed_post("double", number=1, more="Expect: 100-continue\r\n").partition(b"\r\n\r\n")

    async with listening(tools) as url:
        reader, writer = await _connect(url)
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert await anext(_responses(reader)) == (200, {"result": 2})
        writer.close()


@pytest.mark.parametrize(
    ("old", "new", "status", "message"),
    [
        (b"POST /double HTTP/1.1", b"\x16\x03\x01", 400, "illegal request line"),
        (b"HTTP/1.1", b"HTTP/2.0", 400, "only HTTP/1.1 is supported"),
        (b"Host: h\r\n", b"", 400, "Missing mandatory Host: header"),
        (b"Host: h", b"Host: h\r\nHost: i", 400, "Found multiple Host: headers"),
        (b"Host: h", b"Host : h", 400, "illegal header line"),
        (b"Host: h", b"Host: h\r\n folded", 400, "folded header lines are not supported"),
        (b"Content-Length: ", b"Content-Length: +", 400, "bad Content-Length"),
        (b"Host: h", b"Host: h\r\nContent-Length: 0", 400, "conflicting Content-Length headers"),
        (b"Host: h", b"Host: h\r\nTransfer-Encoding: chunked", 411, "must have a Content-Length"),
        (b"Content-Length: ", b"Content-Length: 999999999", 413, f"the body is longer than {MAX_BODY} bytes"),
        (b"Host: h", b"Host: h\r\nX: " + b"x" * MAX_HEAD, 431, "the headers are longer"),
        (b"Host: h", b"Host: h" + b"\r\nX: x" * MAX_FIELDS, 431, f"more than {MAX_FIELDS} headers"),
        (b"POST", b"GET", 405, "tools are called with POST"),
        (b'"number": 1', b'"number": 2', 401, "invalid signature"),
    ],
    ids=[
        *("not HTTP", "other version", "no host", "two hosts", "space in header", "folded line", "invalid length"),
        *("two lengths", "chunked", "long body", "long head", "many headers", "other method", "other body"),
    ],
)
async def test_an_invalid_request_is_rejected(tools: Tools, old: bytes, new: bytes, status: int, message: str) -> None:
    raw = signed_post("double", number=1)
    assert old in raw

    async with listening(tools) as url:
        [(answered, body), *more] = await responses_to(url, raw.replace(old, new, 1))

    assert (answered, more) == (status, [])
    assert message in body["error"]


async def test_the_response_to_head_has_no_body(tools: Tools) -> None:
    async with listening(tools) as url:
        reader, writer = await _connect(url)
        writer.write(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        writer.write_eof()
        async with asyncio.timeout(10):
            assert [response async for response in _responses(reader, without_body=True)] == [(405, None)]
        writer.close()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", []),
        (b"POST / HTTP/1.1\r\nHo", [(408, {"error": "the headers took too long to arrive"})]),
        (signed_post("double", number=1)[:-3], [(408, {"error": "the body took too long to arrive"})]),
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_a_request_that_stalls_times_out(tools: Tools, sent: bytes, expected: list[Any]) -> None:
    async with listening(tools, SHORT) as url:
        reader, writer = await _connect(url)
        writer.write(sent)
        async with asyncio.timeout(10):
            assert [response async for response in _responses(reader)] == expected
        writer.close()


async def test_a_client_that_disconnects_within_a_request_leaves_no_task(tools: Tools) -> None:
    others = asyncio.all_tasks()

    async with listening(tools) as url:
        for size in (0, 3, 60, 200):
            assert await responses_to(url, signed_post("double", number=1)[:size]) == []
        assert await responses_to(url, signed_post("double", number=4)) == [(200, {"result": 8})]

    assert asyncio.all_tasks() == others


# -- starting and stopping ---------------------------------------------------------------------------------------------


async def test_a_call_that_is_running_when_the_server_stops_is_answered(tools: Tools) -> None:
    started, proceed = asyncio.Event(), asyncio.Event()

    @tools.tool
    async def wait() -> str:
        """Wait for the event."""
        started.set()
        await proceed.wait()
        return "done"

    server = CallbackServer(tools, secret=SECRET)
    async with server:
        url = server.url
        calling = asyncio.create_task(responses_to(url, signed_post("wait")))
        idle, idle_writer = await _connect(url)
        async with asyncio.timeout(10):
            await started.wait()
        asyncio.get_running_loop().call_later(0.05, proceed.set)

    async with asyncio.timeout(10):
        assert await calling == [(200, {"result": "done"})]
        assert await idle.read() == b""  # a connection without a request is closed immediately
    idle_writer.close()
    with pytest.raises(OSError, match=r"."):
        await _connect(url)


async def test_a_call_that_exceeds_the_grace_period_is_answered_with_503(tools: Tools) -> None:
    started = asyncio.Event()

    @tools.tool
    async def hang() -> None:
        """Never return."""
        started.set()
        await asyncio.Event().wait()

    async with CallbackServer(tools, secret=SECRET, grace_seconds=0.05) as server:
        calling = asyncio.create_task(responses_to(server.url, signed_post("hang")))
        async with asyncio.timeout(10):
            await started.wait()

    async with asyncio.timeout(10):
        assert await calling == [(503, {"error": "the program that serves this tool is shutting down"})]


def test_a_sync_server_runs_in_a_thread_that_ends_with_it(tools: Tools) -> None:
    server = CallbackServer(tools, secret=SECRET)
    for _ in range(2):  # a server can be started again
        with server:
            parts = urlsplit(server.url)
            connection = http.client.HTTPConnection(parts.netloc, timeout=10)
            body = b'{"callId": "c", "toolName": "double", "args": {"number": 3}, "sessionId": "s"}'
            connection.request("POST", "/", body, sign(SECRET, "c", int(time.time()), body))
            assert json.loads(connection.getresponse().read()) == {"result": 6}
            connection.close()
            with pytest.raises(RuntimeError, match="is already running"):
                server.__enter__()
        assert "cmdc-callbacks" not in {thread.name for thread in threading.enumerate()}
        with pytest.raises(RuntimeError, match="is not running"):
            _ = server.url


def test_an_error_on_start_is_raised_to_the_caller(tools: Tools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"), CallbackServer(tools, port=port):
            pass
    with pytest.raises(ValueError, match="needs the public_url"):
        CallbackServer(tools, "0.0.0.0")
    with pytest.raises(ValueError, match="a secret must be whsec_"):
        CallbackServer(tools, secret="secret")


async def test_tools_are_registered_under_the_public_url(gateway: InProcessGateway, tools: Tools) -> None:
    async with (
        AsyncClient(gateway.url, api_key=KEY) as client,
        CallbackServer(tools, public_url="http://127.0.0.1:9/x/") as server,
    ):
        session = await client.sessions.create(model="scripted:x")
        await server.register(session)
        addresses = [entry.callback_url for entry in await session.tools.list()]

    assert addresses == ["http://127.0.0.1:9/x/double", "http://127.0.0.1:9/x/who"]
