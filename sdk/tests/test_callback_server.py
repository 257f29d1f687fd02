"""`CallbackServer`: tools served over real sockets, called by a real gateway, and left alone by whatever else comes."""

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
from cmdc_client.callbacks.desk import MAX_BODY, Desk
from cmdc_client.callbacks.http1 import MAX_FIELDS, MAX_HEAD, Timing
from cmdc_client.callbacks.server import _Listener  # pyright: ignore[reportPrivateUsage]
from cmdc_testkit.gateways import KEY, Served
from cmdc_testkit.conversations import call, script

SECRET = new_secret()
HASTY = Timing(idle=0.2, head=0.2, body=0.2, answer=0.2)


@pytest.fixture
def tools() -> Tools:
    tools = Tools()

    @tools.tool
    def double(number: int) -> int:
        """Twice a number."""
        return 2 * number

    @tools.tool(requires_approval=True)
    async def who(call: CallbackCall) -> str:
        """Who asks."""
        return call.session_id

    return tools


def posted(tool: str, call_id: str = "c1", *, more: str = "", **args: Any) -> bytes:
    """A signed call, as bytes."""
    body = json.dumps({"callId": call_id, "toolName": tool, "args": args, "sessionId": "s"}).encode()
    headers = sign(SECRET, call_id, int(time.time()), body) | {"Host": "h", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /{tool} HTTP/1.1\r\n{lines}{more}\r\n".encode() + body


async def told(url: str, *pieces: bytes) -> list[tuple[int, Any]]:
    """What is answered to these bytes, until the line is closed: statuses and bodies."""
    reader, writer = await _connected(url)
    for piece in pieces:
        writer.write(piece)
    writer.write_eof()
    async with asyncio.timeout(10):
        answers = [answer async for answer in _answers(reader)]
    writer.close()
    return answers


async def _connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def _answers(reader: asyncio.StreamReader, *, bodiless: bool = False) -> AsyncGenerator[tuple[int, Any]]:
    while line := await reader.readline():
        headers: dict[str, str] = {}
        while (field := (await reader.readline()).decode().strip()) != "":
            name, _, value = field.partition(": ")
            headers[name] = value
        if line.startswith(b"HTTP/1.1 100"):
            continue
        body = b"null" if bodiless else await reader.readexactly(int(headers["Content-Length"]))
        assert headers["Content-Type"] == "application/json"
        yield int(line.split()[1]), json.loads(body)


@asynccontextmanager
async def listening(tools: Tools, timing: Timing | None = None) -> AsyncGenerator[str]:
    """The server without what is round it, so that it can be made hasty."""
    listener = await _Listener.open(Desk(tools, SECRET), "127.0.0.1", 0, timing)
    try:
        yield listener.url
    finally:
        await listener.aclose(0)


# -- with a gateway ----------------------------------------------------------------------------------------------------

PROMPT = script({"toolCalls": [call("double", number=21), call("who"), call("double", number="x")]}, {"text": ["ok"]})


async def test_a_gateway_calls_the_tools_of_an_async_program(gateway: Served, tools: Tools) -> None:
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


async def test_a_gateway_calls_the_tools_of_a_sync_program(gateway: Served, tools: Tools) -> None:
    def talk() -> tuple[list[str | None], list[str], str]:
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

    contents, seen, shown = await asyncio.to_thread(talk)
    assert seen == ["double"]
    assert "42" in contents
    assert shown.startswith("<CallbackServer http://127.0.0.1:")
    assert SECRET not in shown


async def test_an_address_that_the_gateway_may_not_call_is_refused_when_registering(
    gateway: Served, tools: Tools
) -> None:
    async with AsyncClient(gateway.url, api_key=KEY) as client, CallbackServer(tools) as server:
        session = await client.sessions.create(model="scripted:x")
        with pytest.raises(RegistrationFailed):
            await tools.register(session, url="http://169.254.169.254", secret=server.secret)
        with pytest.raises(ValueError, match="there is no tool to register"):
            await Tools().register(session, url=server.url, secret=server.secret)


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_several_calls_may_come_over_one_line_and_in_any_pieces(tools: Tools) -> None:
    first, second = posted("double", number=1), posted("double", "c2", number=2)
    both = first + second

    async with listening(tools) as url:
        at_once = await told(url, both)
        in_pieces = await told(url, *(both[at : at + 7] for at in range(0, len(both), 7)))

    assert at_once == in_pieces == [(200, {"result": 2}), (200, {"result": 4})]


async def test_a_line_is_closed_when_the_caller_says_so(tools: Tools) -> None:
    closing, after = posted("double", number=1, more="Connection: close\r\n"), posted("double", "c2", number=2)
    old = posted("double", "c3", number=3).replace(b"HTTP/1.1", b"HTTP/1.0", 1)

    async with listening(tools) as url:
        assert await told(url, closing + after) == [(200, {"result": 2})]
        assert await told(url, old + after) == [(200, {"result": 6})]


async def test_a_body_that_is_announced_is_asked_for(tools: Tools) -> None:
    head, _, body = posted("double", number=1, more="Expect: 100-continue\r\n").partition(b"\r\n\r\n")

    async with listening(tools) as url:
        reader, writer = await _connected(url)
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert await anext(_answers(reader)) == (200, {"result": 2})
        writer.close()


@pytest.mark.parametrize(
    ("was", "now", "status", "sentence"),
    [
        (b"POST /double HTTP/1.1", b"\x16\x03\x01", 400, "this is no request of HTTP/1.1"),
        (b"HTTP/1.1", b"HTTP/2.0", 400, "this is no request of HTTP/1.1"),
        (b"Host: h\r\n", b"", 400, "the header Host is missing"),
        (b"Host: h", b"Host: h\r\nHost: i", 400, "the header host is there twice"),
        (b"Host: h", b"Host : h", 400, "a header is malformed"),
        (b"Host: h", b"Host: h\r\n folded", 400, "a header is malformed"),
        (b"Content-Length: ", b"Content-Length: +", 400, "the Content-Length must be a number"),
        (b"Host: h", b"Host: h\r\nContent-Length: 0", 400, "the header content-length is there twice"),
        (b"Host: h", b"Host: h\r\nTransfer-Encoding: chunked", 411, "the body must have a Content-Length"),
        (b"Content-Length: ", b"Content-Length: 999999999", 413, f"the body is longer than {MAX_BODY} bytes"),
        (b"Host: h", b"Host: h\r\nX: " + b"x" * MAX_HEAD, 431, "the headers are longer"),
        (b"Host: h", b"Host: h" + b"\r\nX: x" * MAX_FIELDS, 431, f"more than {MAX_FIELDS} headers"),
        (b"POST", b"GET", 405, "a tool is called with POST"),
        (b'"number": 1', b'"number": 2', 401, "no signature of this call is right"),
    ],
    ids=[
        *("no HTTP", "another version", "no host", "two hosts", "a space", "a folded line", "a length that is none"),
        *("two lengths", "chunks", "too long", "a long head", "many headers", "another method", "another body"),
    ],
)
async def test_what_is_no_call_is_answered_and_runs_nothing(
    tools: Tools, was: bytes, now: bytes, status: int, sentence: str
) -> None:
    raw = posted("double", number=1)
    assert was in raw

    async with listening(tools) as url:
        [(answered, body), *more] = await told(url, raw.replace(was, now, 1))

    assert (answered, more) == (status, [])
    assert sentence in body["error"]


async def test_a_head_is_answered_without_a_body(tools: Tools) -> None:
    async with listening(tools) as url:
        reader, writer = await _connected(url)
        writer.write(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        writer.write_eof()
        async with asyncio.timeout(10):
            assert [answer async for answer in _answers(reader, bodiless=True)] == [(405, None)]
        writer.close()


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", []),
        (b"POST / HTTP/1.1\r\nHo", [(408, {"error": "the headers took too long to arrive"})]),
        (posted("double", number=1)[:-3], [(408, {"error": "the body took too long to arrive"})]),
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_whoever_stalls_is_not_waited_for(tools: Tools, sent: bytes, answers: list[Any]) -> None:
    async with listening(tools, HASTY) as url:
        reader, writer = await _connected(url)
        writer.write(sent)
        async with asyncio.timeout(10):
            assert [answer async for answer in _answers(reader)] == answers
        writer.close()


async def test_whoever_leaves_in_the_middle_leaves_nothing_behind(tools: Tools) -> None:
    others = asyncio.all_tasks()

    async with listening(tools) as url:
        for size in (0, 3, 60, 200):
            assert await told(url, posted("double", number=1)[:size]) == []
        assert await told(url, posted("double", number=4)) == [(200, {"result": 8})]

    assert asyncio.all_tasks() == others


# -- beginning and ending ----------------------------------------------------------------------------------------------


async def test_a_call_that_runs_when_the_server_stops_is_answered(tools: Tools) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    @tools.tool
    async def wait() -> str:
        """Wait to be let go."""
        began.set()
        await go_on.wait()
        return "done"

    server = CallbackServer(tools, secret=SECRET)
    async with server:
        url = server.url
        calling = asyncio.create_task(told(url, posted("wait")))
        idle, idle_writer = await _connected(url)
        async with asyncio.timeout(10):
            await began.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)

    async with asyncio.timeout(10):
        assert await calling == [(200, {"result": "done"})]
        assert await idle.read() == b""  # a line without a request is closed at once
    idle_writer.close()
    with pytest.raises(OSError, match=r"."):
        await _connected(url)


async def test_a_call_that_does_not_come_to_its_end_is_told_that_the_program_stops(tools: Tools) -> None:
    began = asyncio.Event()

    @tools.tool
    async def hang() -> None:
        """Never return."""
        began.set()
        await asyncio.Event().wait()

    async with CallbackServer(tools, secret=SECRET, grace_seconds=0.05) as server:
        calling = asyncio.create_task(told(server.url, posted("hang")))
        async with asyncio.timeout(10):
            await began.wait()

    async with asyncio.timeout(10):
        assert await calling == [(503, {"error": "the program of this tool is stopping"})]


def test_a_sync_server_runs_in_a_thread_that_ends_with_it(tools: Tools) -> None:
    server = CallbackServer(tools, secret=SECRET)
    for _ in range(2):  # one after the other it may run as often as one likes
        with server:
            parts = urlsplit(server.url)
            line = http.client.HTTPConnection(parts.netloc, timeout=10)
            body = b'{"callId": "c", "toolName": "double", "args": {"number": 3}, "sessionId": "s"}'
            line.request("POST", "/", body, sign(SECRET, "c", int(time.time()), body))
            assert json.loads(line.getresponse().read()) == {"result": 6}
            line.close()
            with pytest.raises(RuntimeError, match="is running already"):
                server.__enter__()
        assert "cmdc-callbacks" not in {thread.name for thread in threading.enumerate()}
        with pytest.raises(RuntimeError, match="is not running yet"):
            _ = server.url


def test_what_cannot_be_listened_on_is_raised_where_it_is_started(tools: Tools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"), CallbackServer(tools, port=port):
            pass
    with pytest.raises(ValueError, match="needs the public_url"):
        CallbackServer(tools, "0.0.0.0")
    with pytest.raises(ValueError, match="a secret is whsec_"):
        CallbackServer(tools, secret="secret")


async def test_a_public_url_is_what_tools_are_registered_under(gateway: Served, tools: Tools) -> None:
    async with (
        AsyncClient(gateway.url, api_key=KEY) as client,
        CallbackServer(tools, public_url="http://127.0.0.1:9/x/") as server,
    ):
        session = await client.sessions.create(model="scripted:x")
        await server.register(session)
        addresses = [entry.callback_url for entry in await session.tools.list()]

    assert addresses == ["http://127.0.0.1:9/x/double", "http://127.0.0.1:9/x/who"]
