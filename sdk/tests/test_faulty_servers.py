"""Servers that fail, violate the protocol, or lose the connection: what the client repeats, raises and never sends."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from cmdc_client import (
    AgentAbort,
    AsyncClient,
    AsyncSession,
    CannotResume,
    Client,
    ConnectionFailed,
    CreateFailed,
    CursorExpired,
    NotFound,
    ProtocolError,
    QueueFull,
    RateLimited,
    RunAborted,
    Unavailable,
)
from faulty_server import (
    FaultyServer,
    Request,
    Step,
    accepted,
    capabilities,
    error,
    faulty_server,
    frame,
    http,
    open_connections_of,
    run_of,
    stream,
    sync_handle,
)

CREATED = http(201, {"sessionId": "s", "status": "created"})
HEALTH: dict[str, Any] = {
    "status": "ok",
    "version": "1",
    "sessions": {"active": 0},
    "meter": {"tracked_keys": 0},
    "timestamp": "2026-01-01T00:00:00.000000Z",
}


@asynccontextmanager
async def session_with(
    respond: Callable[[Request], Iterable[Step]], **options: Any
) -> AsyncGenerator[tuple[AsyncSession, FaultyServer]]:
    """A session of a server that responds so; its creation succeeds."""

    def respond_or_create(request: Request) -> Iterable[Step]:
        return [CREATED] if request.path == "/v1/sessions" else respond(request)

    async with faulty_server(respond_or_create) as server, AsyncClient(server.url, api_key="k", **options) as client:
        yield await client.sessions.create(model="m"), server


def in_turn(*responses: Iterable[Step]) -> Callable[[Request], Iterable[Step]]:
    """Each response in turn, and the last one for all further requests."""
    left = [*responses]
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def by_path(**responders: Callable[[Request], Iterable[Step]]) -> Callable[[Request], Iterable[Step]]:
    """A responder for each last segment of a path."""
    return lambda request: responders[request.path.rpartition("/")[2]](request)


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_a_get_is_repeated_when_the_connection_is_lost() -> None:
    async with faulty_server(in_turn(["cut"], [http(200, HEALTH)])) as server, AsyncClient(server.url) as client:
        assert (await client.health()).status == "ok"
    assert len(server.requests) == 2


async def test_a_prompt_is_repeated_with_the_same_key_if_the_server_supports_idempotency() -> None:
    respond = by_path(prompt=in_turn(["cut"], [accepted()]), capabilities=in_turn([capabilities("idempotency")]))

    async with session_with(respond) as (session, server):
        assert (await session.prompt("hi")).request_id == "r1"

    first, second = server.received("POST", "/prompt")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body


@pytest.mark.parametrize("answer", [capabilities("cursors"), error(404, "not_found"), http(500, b"", "text/plain")])
async def test_a_prompt_is_not_repeated_if_that_might_run_it_twice(answer: bytes) -> None:
    respond = by_path(prompt=in_turn(["cut"]), capabilities=in_turn([answer]))

    async with session_with(respond) as (session, server):
        with pytest.raises(ConnectionFailed, match="POST /v1/sessions/s/prompt: the connection was lost"):
            await session.prompt("hi")

    assert len(server.received("POST", "/prompt")) == 1


async def test_a_request_whose_first_attempt_is_in_progress_is_repeated_with_the_same_key() -> None:
    respond = in_turn([error(409, "idempotency_in_progress")], [accepted()])

    async with session_with(respond) as (session, server):
        await session.prompt("hi")

    assert len({request.headers["idempotency-key"] for request in server.received("POST", "/prompt")}) == 1


async def test_a_deletion_is_not_repeated() -> None:
    async with session_with(in_turn(["cut"])) as (session, server):
        with pytest.raises(ConnectionFailed):
            await session.delete()
    assert len(server.received("DELETE", "/s")) == 1


async def test_a_rate_limit_is_waited_for_as_long_as_the_server_asks() -> None:
    loop = asyncio.get_running_loop()

    async with session_with(in_turn([error(429, "rate_limited", retryAfter=1)], [accepted()])) as (session, _):
        started = loop.time()
        await session.prompt("hi")
        assert loop.time() - started >= 1


@pytest.mark.parametrize(
    ("response", "error_class", "retries"),
    [
        (error(429, "rate_limited", retryAfter=3600), RateLimited, 1),
        (error(429, "queue_full"), QueueFull, 1),
        (error(422, "create_failed"), CreateFailed, 1),
        (http(503, {"error": "unavailable", "message": "x"}, Retry_After="0"), Unavailable, 3),
        (http(502, b"<html>", "text/html"), ProtocolError, 3),
        (http(500, b"<html>", "text/html"), ProtocolError, 1),
    ],
)
async def test_only_transient_errors_are_retried(response: bytes, error_class: type[Exception], retries: int) -> None:
    async with session_with(in_turn([response]), max_retries=2) as (session, server):
        with pytest.raises(error_class):
            await session.stats()
    assert len(server.requests) == 1 + retries


async def test_a_page_that_names_itself_as_the_next_one_is_an_error() -> None:
    same_page = http(200, {"sessions": [], "nextCursor": "x"})

    async with faulty_server(in_turn([same_page])) as server, AsyncClient(server.url) as client:
        with pytest.raises(ProtocolError, match="the page after 'x' names itself as the next page"):
            _ = [summary async for summary in client.sessions.list()]
    assert len(server.requests) == 2


async def test_an_unreachable_server_is_a_failed_connection() -> None:
    async with faulty_server(in_turn([b""])) as server:
        gone = server.url
    async with AsyncClient(gone, max_retries=1) as client:
        with pytest.raises(ConnectionFailed, match="GET /healthz: cannot connect") as raised:
            await client.health()
    assert not raised.value.sent


async def test_a_server_that_does_not_respond_is_a_failed_connection() -> None:
    async with (
        faulty_server(in_turn(["wait"])) as server,
        AsyncClient(server.url, timeout=0.1, max_retries=0) as client,
    ):
        with pytest.raises(ConnectionFailed, match="ReadTimeout"):
            await client.health()


async def test_the_key_is_sent_to_the_server_only_and_appears_in_no_message() -> None:
    async with (
        faulty_server(in_turn([http(200, HEALTH)])) as other,
        faulty_server(in_turn([http(307, b"", Location=f"{other.url}/steal")])) as server,
        AsyncClient(server.url, api_key="secret-key") as client,
    ):
        creation = await _failing(client.sessions.create(model="m"))
        usage = await _failing(client.usage())
    assert [request.headers["x-api-key"] for request in server.requests] == ["secret-key"] * 2
    assert other.requests == []
    assert "127.0.0.1, which is not followed" in str(creation)
    assert "secret-key" not in repr([creation, usage, client, client.sessions, vars(client)])


async def _failing(request: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as raised:
        await request
    return raised.value


# -- runs --------------------------------------------------------------------------------------------------------------

RUN = run_of("a", "b", "c")
ENDED = {"toolName": "t", "callId": "c", "result": ""}


async def seqs(session: AsyncSession) -> list[int]:
    async with session.run("hi") as run:
        return [event.seq async for event in run]


async def test_a_lost_run_is_resumed_after_the_last_event() -> None:
    events = in_turn([stream(*RUN[:2], complete=False), "cut"], [stream(*RUN[2:4])], [stream(*RUN[4:])])

    async with session_with(by_path(prompt=in_turn([accepted()]), events=events)) as (session, server):
        assert await seqs(session) == [1, 2, 3, 4, 5, 6, 7]

    streams = server.received("GET", "/events")
    assert [each.headers["last-event-id"] for each in streams] == ["e.0", "e.2", "e.4"]
    assert {each.target for each in streams} == {"/v1/sessions/s/events?requestId=r1"}


@pytest.mark.parametrize(
    "failure",
    [
        ["cut"],
        [http(502, b"<html>", "text/html")],
        [error(503, "unavailable")],
        [error(429, "rate_limited", retryAfter=0)],
        [stream()],
        [stream(RUN[2][:-5])],
    ],
)
async def test_a_run_survives_transient_errors(failure: list[Step]) -> None:
    events = in_turn([stream(*RUN[:2])], failure, [stream(*RUN[2:])])

    async with session_with(by_path(prompt=in_turn([accepted()]), events=events)) as (session, _):
        assert await seqs(session) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("response", "error_class", "message"),
    [
        ([http(410, {"error": "cursor_expired", "message": "x", "earliest": "e.9"})], CursorExpired, "cursor_expired"),
        ([error(404, "not_found")], NotFound, "not_found"),
        ([http(200, {})], ProtocolError, "application/json, not text/event-stream"),
        ([http(302, b"", Location="http://elsewhere.example/")], ProtocolError, "redirect .302. to elsewhere.example"),
        ([stream(*RUN[:1], RUN[2])], ProtocolError, r"e\.3 follows e\.1"),
        ([stream("data: {\n\n")], ProtocolError, "is not JSON"),
        ([stream(b"data: \xff\n\n")], ProtocolError, "not UTF-8"),
        ([stream(RUN[0][:-5])], ProtocolError, "within a frame"),
        ([stream(frame("message_delta", 1))], ProtocolError, r"data\.delta: is missing"),
        ([stream(RUN[-1].replace("0.5", "9" * 400))], ProtocolError, "too large"),
        ([stream(RUN[-1].replace("0.5", "9e999"))], ProtocolError, "out of range"),
        (
            [stream(frame("tool_execution_end", 1, **{**ENDED, "status": "fine"}))],
            ProtocolError,
            "'fine' is not one of ok",
        ),
        ([stream(frame("prompt_received", 1, requestId="r2", text="x"))], ProtocolError, "belongs to the run 'r2'"),
        ([stream("id: 1\nevent: agent_start\ndata: {}\n\n")], ProtocolError, "'1' is not a cursor"),
    ],
)
async def test_a_permanent_error_ends_a_run(response: list[Step], error_class: type[Exception], message: str) -> None:
    async with session_with(by_path(prompt=in_turn([accepted()]), events=in_turn(response))) as (session, _):
        with pytest.raises(error_class, match=message):
            await seqs(session)


async def test_reconnecting_ends_at_the_timeout() -> None:
    events = in_turn([stream(*RUN[:2])], ["cut"])

    async with session_with(by_path(prompt=in_turn([accepted()]), events=events), reconnect_timeout=0.5) as (
        session,
        _,
    ):
        with pytest.raises(ConnectionFailed, match="GET /v1/sessions/s/events"):
            await seqs(session)


async def test_an_idle_connection_counts_as_lost() -> None:
    events = in_turn([stream(*RUN[:2], complete=False), "wait"], [stream(*RUN[2:])])

    async with session_with(by_path(prompt=in_turn([accepted()]), events=events), idle_timeout=0.2) as (session, _):
        assert await seqs(session) == [1, 2, 3, 4, 5, 6, 7]


async def test_an_invalid_cursor_of_an_accepted_prompt_is_an_error() -> None:
    async with session_with(in_turn([accepted("over there")])) as (session, _):
        with pytest.raises(ProtocolError, match="POST /v1/sessions/s/prompt: 'over there' is not a cursor"):
            await seqs(session)


async def test_an_aborted_run_raises_an_error_with_its_transcript() -> None:
    frames = [*RUN[:4], frame("error", 5, reason="no model"), frame("agent_abort", 6, reason="error")]

    async with session_with(by_path(prompt=in_turn([accepted()]), events=in_turn([stream(*frames)]))) as (session, _):
        async with session.run("hi") as run:
            events = [event async for event in run]
        with pytest.raises(RunAborted, match="the run was aborted: error; no model") as raised:
            await session.ask("hi")

    assert isinstance(events[-1], AgentAbort)
    assert (raised.value.reason, raised.value.transcript.text, raised.value.request_id) == ("error", "a", "r1")


# -- servers of the base protocol --------------------------------------------------------------------------------------

BASE_RUN = run_of("a", "b", ids=False)


async def test_a_run_of_the_base_protocol_is_read_while_the_connection_lasts() -> None:
    respond = by_path(prompt=in_turn([accepted(None)]), events=in_turn([stream(*BASE_RUN)]))

    async with session_with(respond) as (session, server):
        reply = await session.ask("hi")

    assert (reply.text, reply.request_id, reply.cost_usd) == ("ab", "r1", 0)
    [opened] = server.received("GET", "/events")
    assert opened.target == "/v1/sessions/s/events"
    assert "last-event-id" not in opened.headers


async def test_a_lost_run_of_the_base_protocol_cannot_be_resumed() -> None:
    respond = by_path(prompt=in_turn([accepted(None)]), events=in_turn([stream(*BASE_RUN[:3], complete=False), "cut"]))

    async with session_with(respond) as (session, _):
        with pytest.raises(CannotResume, match="cannot be resumed because this server sends no event ids"):
            await session.ask("hi")


async def test_a_queued_prompt_of_the_base_protocol_cannot_be_streamed() -> None:
    async with session_with(in_turn([accepted(None, queued=True)])) as (session, _):
        with pytest.raises(CannotResume, match="queued behind another run"):
            await session.ask("hi")


# -- leaving a loop ----------------------------------------------------------------------------------------------------

ENDLESS = by_path(prompt=in_turn([accepted()]), events=in_turn([stream(*RUN[:3], complete=False), "wait"]))


@pytest.mark.parametrize("exit_by", ["cancel", "break", "close", "raise"])
async def test_leaving_a_run_closes_its_connection_and_leaves_no_task(exit_by: str) -> None:
    async with session_with(ENDLESS) as (session, server):
        others = asyncio.all_tasks()
        reached = asyncio.Event()

        async def read() -> None:
            run = session.run("hi")
            async for event in run:
                if event.seq == 3:
                    reached.set()
                    if exit_by == "break":
                        break
                    if exit_by == "close":
                        await run.aclose()

        async def raise_within() -> None:
            with suppress(ZeroDivisionError):
                async with session.run("hi") as run:
                    async for event in run:
                        reached.set()
                        _ = 1 / (event.seq - 3)

        reading = asyncio.create_task(raise_within() if exit_by == "raise" else read())
        await reached.wait()
        if exit_by == "cancel":
            await asyncio.sleep(0.05)
            reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled() == (exit_by == "cancel")
        del reading

        async with asyncio.timeout(5):
            await server.left.wait()
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() - others <= {asyncio.current_task()}
        assert open_connections_of(session) == 0


async def test_leaving_a_sync_run_closes_its_connection() -> None:
    def read(url: str) -> list[int]:
        with Client(url) as client:
            session = sync_handle(client)
            for event in session.run("hi"):
                if event.seq == 3:
                    break
            return [open_connections_of(session)]

    async with faulty_server(ENDLESS) as server:
        assert await asyncio.to_thread(read, server.url) == [0]
        async with asyncio.timeout(5):
            await server.left.wait()


async def test_the_sync_client_resumes_a_run_too() -> None:
    events = in_turn([stream(*RUN[:2], complete=False), "cut"], [stream(*RUN[2:])])

    def read(url: str) -> list[int]:
        with Client(url) as client:
            return [event.seq for event in sync_handle(client).run("hi")]

    async with faulty_server(by_path(prompt=in_turn([accepted()]), events=events)) as server:
        assert await asyncio.to_thread(read, server.url) == [1, 2, 3, 4, 5, 6, 7]
