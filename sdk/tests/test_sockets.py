"""The WebSocket: events, and actions that wait for their acknowledgement."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from cmdc_client import (
    AgentEnd,
    ApprovalRequired,
    AskUser,
    AsyncClient,
    AsyncSession,
    AsyncSocket,
    BadRequest,
    Client,
    ConnectionFailed,
    NotFound,
    ProtocolError,
    SocketClosed,
    Unauthorized,
    is_terminal,
)
from cmdc_testkit.conversations import call, script
from cmdc_testkit.gateways import KEY, InProcessGateway
from faulty_server import faulty_server, handle, http, sync_handle
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

BOTH = script(
    {"toolCalls": [call("shell", command="echo one")]},
    {"toolCalls": [call("ask_user", question="Color?")]},
    {"text": ["Done."]},
)
TOOLS = {"model": "scripted:x", "tools": ["shell", "ask_user"], "plugins": ["human_approval"]}


@asynccontextmanager
async def session_of(gateway: InProcessGateway) -> AsyncGenerator[AsyncSession]:
    async with AsyncClient(gateway.url, api_key=KEY) as client:
        yield await client.sessions.create(model="scripted:x", tools=["shell", "ask_user"], plugins=["human_approval"])


async def test_a_conversation_over_one_connection(gateway: InProcessGateway) -> None:
    async with session_of(gateway) as session, session.connect() as socket:
        accepted = await socket.prompt(BOTH)
        seen: list[str] = []
        async for event in socket:
            seen.append(event.event)
            match event:
                case ApprovalRequired():
                    await event.approve(args={"command": "echo two"})
                case AskUser():
                    await event.answer("red")
                case AgentEnd():
                    break
                case _:
                    pass

        page = await session.event_page()
        assert seen == [entry.event.event for entry in page.entries]
        assert {entry.event.request_id for entry in page.entries} == {accepted.request_id}
        assert str(socket.cursor) == page.latest


async def test_actions_and_events_at_the_same_time(gateway: InProcessGateway) -> None:
    async with session_of(gateway) as session, session.connect() as socket:

        async def until_both_ended() -> int:
            ends = 0
            async for event in socket:
                ends += is_terminal(event)
                if ends == 5:
                    break
            return ends

        reading = asyncio.create_task(until_both_ended())
        await asyncio.sleep(0.05)
        answers = await asyncio.gather(*(socket.prompt(f"number {number}") for number in range(5)))
        async with asyncio.timeout(10):
            assert await reading == 5
        assert len({answer.request_id for answer in answers}) == 5


async def test_a_failed_action_raises_and_the_connection_stays_open(gateway: InProcessGateway) -> None:
    async with session_of(gateway) as session, session.connect() as socket:
        with pytest.raises(NotFound) as raised:
            await socket.approve("nothing")
        assert raised.value.request.endswith("/ws: approve")
        assert raised.value.http_status == 404
        with pytest.raises(BadRequest):
            await socket.prompt("")
        assert not (await socket.abort()).ok


async def test_a_connection_may_begin_at_a_cursor(gateway: InProcessGateway) -> None:
    async with session_of(gateway) as session:
        await session.ask("hello")
        page = await session.event_page(limit=5)
        async with session.connect(after=page.next) as socket, asyncio.timeout(10):
            assert [(await anext(socket)).seq, (await anext(socket)).seq] == [6, 7]


async def test_a_cancelled_read_leaves_the_connection_usable(gateway: InProcessGateway) -> None:
    async with session_of(gateway) as session, session.connect() as socket:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(socket)
        assert (await socket.prompt("hello")).request_id
        assert (await anext(socket)).event == "prompt_received"


async def test_a_deleted_session_closes_the_connection_with_its_code(gateway: InProcessGateway) -> None:
    async with session_of(gateway) as session, session.connect() as socket:
        await session.delete()
        with pytest.raises(SocketClosed) as raised:
            await anext(socket)
        assert raised.value.close_code == 4004


async def test_a_rejected_connection_raises_the_error_of_the_server(gateway: InProcessGateway) -> None:
    async with AsyncClient(gateway.url, api_key=KEY) as client:
        session = await client.sessions.create(model="scripted:x")
        await session.delete()
        with pytest.raises(NotFound):
            async with session.connect():
                pass
    async with AsyncClient(gateway.url, api_key="wrong") as stranger:
        with pytest.raises(Unauthorized):
            async with handle(stranger).connect():
                pass


async def test_the_sync_client_can_be_used_from_two_threads(gateway: InProcessGateway) -> None:
    def talk() -> list[str]:
        seen: list[str] = []
        with Client(gateway.url, api_key=KEY) as client:
            session = client.sessions.create(
                model="scripted:x", tools=["shell", "ask_user"], plugins=["human_approval"]
            )
            with session.connect() as socket:

                def read() -> None:
                    for event in socket:
                        match event:
                            case ApprovalRequired():
                                event.approve()
                            case AskUser():
                                event.answer("red")
                            case AgentEnd():
                                seen.append(event.event)
                                if len(seen) == 2:
                                    break
                            case _:
                                pass

                reading = threading.Thread(target=read)
                reading.start()
                socket.prompt(BOTH)
                socket.prompt("again")
                reading.join(10)
                assert not reading.is_alive()
                with pytest.raises(NotFound):
                    socket.approve("nothing")
        return seen

    assert await asyncio.to_thread(talk) == ["agent_end", "agent_end"]


async def test_a_key_appears_in_no_log_even_at_the_level_debug(
    gateway: InProcessGateway, caplog: pytest.LogCaptureFixture
) -> None:
    def talk() -> None:
        with Client(gateway.url, api_key=KEY) as client, client.sessions.create(model="scripted:x") as session:
            session.ask("hello")
            with session.connect() as socket:
                socket.prompt("hello")

    with caplog.at_level(logging.DEBUG):
        async with session_of(gateway) as session, session.connect() as socket:
            await socket.prompt("hello")
        await asyncio.to_thread(talk)

    assert caplog.text.count("> X-API-Key: (not shown)") == 2
    assert KEY not in caplog.text


# -- servers that violate the protocol ---------------------------------------------------------------------------------


@asynccontextmanager
async def faulty_session(
    behave: Callable[[ServerConnection], Awaitable[None]], *extended: str
) -> AsyncGenerator[tuple[AsyncSession, str]]:
    """A session of a server whose WebSocket behaves so, and the URL of that server."""
    limits = dict.fromkeys(("bodyBytes", "headerBytes", "queuedPrompts", "wsMessageBytes", "heartbeatMs", "graceMs"), 1)
    capabilities: dict[str, object] = {
        "protocol": "0.1",
        "models": [],
        "tools": [],
        "plugins": [],
        "durability": "memory",
    }
    capabilities |= {"extended": extended, "limits": {**limits, "replayEvents": None, "rpm": 0}}
    body = json.dumps(capabilities).encode()

    def respond_over_http(connection: ServerConnection, request: Request) -> Response | None:
        if request.path.endswith("/ws"):
            return None
        response = connection.respond(200, "")
        response.body = body
        del response.headers["Content-Type"], response.headers["Content-Length"]
        response.headers["Content-Type"] = "application/json"
        response.headers["Content-Length"] = str(len(body))
        return response

    async with serve(behave, "127.0.0.1", 0, process_request=respond_over_http) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with AsyncClient(url, timeout=0.5) as client:
            yield handle(client), url


def sends(*messages: str | bytes) -> Callable[[ServerConnection], Awaitable[None]]:
    async def behave(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()

    return behave


def event(seq: int, **data: object) -> str:
    return json.dumps({"event": "agent_start", "id": f"e.{seq}", "data": {"requestId": "r", **data}})


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        (["{"], "is not JSON"),
        (["[]"], "is not a JSON object"),
        ([b"\x00"], "unexpected binary message"),
        (['{"event": "agent_start", "id": "e.1", "data": []}'], "an object with `event`, `data` and `id`"),
        (['{"event": "agent_start", "id": 3, "data": {}}'], "an object with `event`, `data` and `id`"),
        (['{"event": "agent_start", "id": "x", "data": {}}'], "'x' is not a cursor"),
        (['{"event": "agent_start", "id": "e.1", "data": {}}'], r"data\.requestId: is missing"),
        ([event(1), event(3)], r"e\.3 follows e\.1"),
    ],
)
async def test_an_invalid_message_raises_a_protocol_error(messages: list[str | bytes], error: str) -> None:
    async with faulty_session(sends(*messages)) as (session, _), session.connect() as socket:
        with pytest.raises(ProtocolError, match=error):
            [_ async for _ in socket]


@pytest.mark.parametrize(
    "raw", [b"\x81\x02\xff\xfe", b"\x8f\x00", b"\x81\xff"], ids=["not UTF-8", "unknown opcode", "masked"]
)
async def test_invalid_websocket_data_raises_a_protocol_error(raw: bytes) -> None:
    async def behave(connection: ServerConnection) -> None:
        connection.transport.write(raw)
        await connection.wait_closed()

    async with faulty_session(behave) as (session, url), session.connect() as socket:
        with pytest.raises(ProtocolError, match="/ws: invalid WebSocket data"):
            await anext(socket)

        def read() -> None:
            with Client(url) as client, sync_handle(client).connect() as socket:
                next(socket)

        with pytest.raises(ProtocolError, match="/ws: invalid WebSocket data"):
            await asyncio.to_thread(read)


async def test_duplicate_events_are_dropped() -> None:
    async with faulty_session(sends(event(1), event(1), event(2))) as (session, _), session.connect() as socket:
        assert [(await anext(socket)).seq, (await anext(socket)).seq] == [1, 2]


async def test_an_action_without_an_acknowledgement_times_out() -> None:
    async with faulty_session(sends(event(1))) as (session, _), session.connect() as socket:
        with pytest.raises(ConnectionFailed, match=r"prompt: not acknowledged within 0\.5 s"):
            await socket.prompt("hi")
        assert (await anext(socket)).seq == 1


async def test_without_action_ids_responses_are_matched_by_their_order() -> None:
    async def behave(connection: ServerConnection) -> None:
        actions = [json.loads(await connection.recv()) for _ in range(2)]
        assert all("actionId" not in action for action in actions)
        for action in actions:
            await connection.send(json.dumps({"requestId": action["text"], "sessionId": "s", "queued": False}))
        await connection.send('{"event": "agent_start", "data": {}}')
        await connection.wait_closed()

    async with faulty_session(behave) as (session, _), session.connect() as socket:
        one, two = await asyncio.gather(socket.prompt("one"), socket.prompt("two"))
        assert (one.request_id, two.request_id) == ("one", "two")
        assert (await anext(socket)).id == ""


async def test_a_normal_close_ends_the_loop_and_a_lost_connection_raises() -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.close(1001)

    async def lose(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with faulty_session(close) as (session, _), session.connect() as socket:
        assert [_ async for _ in socket] == []
    async with faulty_session(lose) as (session, _), session.connect() as socket:
        with pytest.raises(SocketClosed) as raised:
            [_ async for _ in socket]
        assert raised.value.close_code == 1006


async def test_a_redirect_of_the_websocket_is_not_followed() -> None:
    async with faulty_server(lambda _: [http(200, {})]) as other:
        redirect = http(307, b"", Location=f"{other.url}/steal")
        async with faulty_server(
            lambda request: (
                [http(404, {"error": "not_found", "message": "x"})] if "capab" in request.path else [redirect]
            )
        ) as server:
            async with AsyncClient(server.url, api_key="k") as client:
                with pytest.raises(ProtocolError, match="redirect"):
                    async with handle(client).connect():
                        pass

            def connect() -> None:
                with Client(server.url, api_key="k") as client, sync_handle(client).connect():
                    pass

            with pytest.raises(ProtocolError, match="redirect"):
                await asyncio.to_thread(connect)
    assert other.requests == []


def test_the_types_are_exported() -> None:
    assert AsyncSocket.__name__ == "AsyncSocket"
