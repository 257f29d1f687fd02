"""Servers that fail, lie, or lose the line: what the client sends again, what it raises, and what it never sends."""

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
from wayward import (
    Part,
    Request,
    Wayward,
    accepted,
    capabilities,
    connections,
    frame,
    http,
    refusal,
    run_of,
    stream,
    sync_handle,
    wayward,
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
async def talking(
    answer: Callable[[Request], Iterable[Part]], **options: Any
) -> AsyncGenerator[tuple[AsyncSession, Wayward]]:
    """A session of a server that answers so; making it is answered already."""

    def answered(request: Request) -> Iterable[Part]:
        return [CREATED] if request.path == "/v1/sessions" else answer(request)

    async with wayward(answered) as server, AsyncClient(server.url, api_key="k", **options) as client:
        yield await client.sessions.create(model="m"), server


def in_turn(*answers: Iterable[Part]) -> Callable[[Request], Iterable[Part]]:
    """One answer after the other, and the last for all that follow."""
    left = [*answers]
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def by_path(**answers: Callable[[Request], Iterable[Part]]) -> Callable[[Request], Iterable[Part]]:
    """The answers for what a path ends with."""
    return lambda request: answers[request.path.rpartition("/")[2]](request)


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_a_get_is_sent_again_when_the_line_is_lost() -> None:
    async with wayward(in_turn(["cut"], [http(200, HEALTH)])) as server, AsyncClient(server.url) as client:
        assert (await client.health()).status == "ok"
    assert len(server.requests) == 2


async def test_a_prompt_is_sent_again_with_the_same_key_where_the_server_heeds_keys() -> None:
    answers = by_path(prompt=in_turn(["cut"], [accepted()]), capabilities=in_turn([capabilities("idempotency")]))

    async with talking(answers) as (session, server):
        assert (await session.prompt("hi")).request_id == "r1"

    first, second = server.asked("POST", "/prompt")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body


@pytest.mark.parametrize("answer", [capabilities("cursors"), refusal(404, "not_found"), http(500, b"", "text/plain")])
async def test_a_prompt_is_not_sent_again_where_that_might_prompt_twice(answer: bytes) -> None:
    answers = by_path(prompt=in_turn(["cut"]), capabilities=in_turn([answer]))

    async with talking(answers) as (session, server):
        with pytest.raises(ConnectionFailed, match="POST /v1/sessions/s/prompt: the connection was lost"):
            await session.prompt("hi")

    assert len(server.asked("POST", "/prompt")) == 1


async def test_a_first_answer_that_is_still_on_its_way_is_waited_for() -> None:
    answers = in_turn([refusal(409, "idempotency_in_progress")], [accepted()])

    async with talking(answers) as (session, server):
        await session.prompt("hi")

    assert len({request.headers["idempotency-key"] for request in server.asked("POST", "/prompt")}) == 1


async def test_a_deletion_is_not_sent_twice() -> None:
    async with talking(in_turn(["cut"])) as (session, server):
        with pytest.raises(ConnectionFailed):
            await session.delete()
    assert len(server.asked("DELETE", "/s")) == 1


async def test_the_rate_limit_is_waited_for_as_long_as_the_server_says() -> None:
    loop = asyncio.get_running_loop()

    async with talking(in_turn([refusal(429, "rate_limited", retryAfter=1)], [accepted()])) as (session, _):
        begun = loop.time()
        await session.prompt("hi")
        assert loop.time() - begun >= 1


@pytest.mark.parametrize(
    ("answer", "kind", "tries"),
    [
        (refusal(429, "rate_limited", retryAfter=3600), RateLimited, 1),
        (refusal(429, "queue_full"), QueueFull, 1),
        (refusal(422, "create_failed"), CreateFailed, 1),
        (http(503, {"error": "unavailable", "message": "x"}, Retry_After="0"), Unavailable, 3),
        (http(502, b"<html>", "text/html"), ProtocolError, 3),
        (http(500, b"<html>", "text/html"), ProtocolError, 1),
    ],
)
async def test_only_what_may_pass_is_tried_again(answer: bytes, kind: type[Exception], tries: int) -> None:
    async with talking(in_turn([answer]), max_retries=2) as (session, server):
        with pytest.raises(kind):
            await session.stats()
    assert len(server.requests) == 1 + tries


async def test_a_list_that_comes_back_to_where_it_was_is_given_up() -> None:
    again = http(200, {"sessions": [], "nextCursor": "x"})

    async with wayward(in_turn([again])) as server, AsyncClient(server.url) as client:
        with pytest.raises(ProtocolError, match="the page after 'x' says that it comes next itself"):
            _ = [summary async for summary in client.sessions.list()]
    assert len(server.requests) == 2


async def test_a_server_that_is_not_there_is_a_failed_connection() -> None:
    async with wayward(in_turn([b""])) as server:
        gone = server.url
    async with AsyncClient(gone, max_retries=1) as client:
        with pytest.raises(ConnectionFailed, match="GET /healthz: no connection") as failure:
            await client.health()
    assert not failure.value.sent


async def test_a_server_that_says_nothing_is_a_failed_connection() -> None:
    async with wayward(in_turn(["wait"])) as server, AsyncClient(server.url, timeout=0.1, max_retries=0) as client:
        with pytest.raises(ConnectionFailed, match="ReadTimeout"):
            await client.health()


async def test_the_key_is_sent_to_the_server_alone_and_shown_nowhere() -> None:
    async with (
        wayward(in_turn([http(200, HEALTH)])) as other,
        wayward(in_turn([http(307, b"", Location=f"{other.url}/steal")])) as server,
        AsyncClient(server.url, api_key="secret-key") as client,
    ):
        session = await _failing(client.sessions.create(model="m"))
        stats = await _failing(client.usage())
    assert [request.headers["x-api-key"] for request in server.requests] == ["secret-key"] * 2
    assert other.requests == []
    assert "127.0.0.1, which is not followed" in str(session)
    assert "secret-key" not in repr([session, stats, client, client.sessions, vars(client)])


async def _failing(request: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as failure:
        await request
    return failure.value


# -- runs --------------------------------------------------------------------------------------------------------------

RUN = run_of("a", "b", "c")
ENDED = {"toolName": "t", "callId": "c", "result": ""}


async def seqs(session: AsyncSession) -> list[int]:
    async with session.run("hi") as run:
        return [event.seq async for event in run]


async def test_a_run_is_taken_up_after_the_last_event() -> None:
    events = in_turn([stream(*RUN[:2], whole=False), "cut"], [stream(*RUN[2:4])], [stream(*RUN[4:])])

    async with talking(by_path(prompt=in_turn([accepted()]), events=events)) as (session, server):
        assert await seqs(session) == [1, 2, 3, 4, 5, 6, 7]

    streams = server.asked("GET", "/events")
    assert [each.headers["last-event-id"] for each in streams] == ["e.0", "e.2", "e.4"]
    assert {each.target for each in streams} == {"/v1/sessions/s/events?requestId=r1"}


@pytest.mark.parametrize(
    "between",
    [
        ["cut"],
        [http(502, b"<html>", "text/html")],
        [refusal(503, "unavailable")],
        [refusal(429, "rate_limited", retryAfter=0)],
        [stream()],
        [stream(RUN[2][:-5])],
    ],
)
async def test_a_run_outlives_what_passes(between: list[Part]) -> None:
    events = in_turn([stream(*RUN[:2])], between, [stream(*RUN[2:])])

    async with talking(by_path(prompt=in_turn([accepted()]), events=events)) as (session, _):
        assert await seqs(session) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        ([http(410, {"error": "cursor_expired", "message": "x", "earliest": "e.9"})], CursorExpired, "cursor_expired"),
        ([refusal(404, "not_found")], NotFound, "not_found"),
        ([http(200, {})], ProtocolError, "application/json where text/event-stream was expected"),
        ([http(302, b"", Location="http://elsewhere.example/")], ProtocolError, "redirect .302. to elsewhere.example"),
        ([stream(*RUN[:1], RUN[2])], ProtocolError, r"e\.3 came after e\.1"),
        ([stream("data: {\n\n")], ProtocolError, "is not JSON"),
        ([stream(b"data: \xff\n\n")], ProtocolError, "not UTF-8"),
        ([stream(RUN[0][:-5])], ProtocolError, "within a frame"),
        ([stream(frame("message_delta", 1))], ProtocolError, r"data\.delta: is missing"),
        ([stream(RUN[-1].replace("0.5", "9" * 400))], ProtocolError, "too large"),
        ([stream(RUN[-1].replace("0.5", "9e999"))], ProtocolError, "beyond all numbers"),
        (
            [stream(frame("tool_execution_end", 1, **{**ENDED, "status": "fine"}))],
            ProtocolError,
            "'fine' is none of ok",
        ),
        ([stream(frame("prompt_received", 1, requestId="r2", text="x"))], ProtocolError, "is of the run 'r2'"),
        ([stream("id: 1\nevent: agent_start\ndata: {}\n\n")], ProtocolError, "'1' is no cursor"),
    ],
)
async def test_a_run_does_not_outlive_what_stays(answer: list[Part], kind: type[Exception], told: str) -> None:
    async with talking(by_path(prompt=in_turn([accepted()]), events=in_turn(answer))) as (session, _):
        with pytest.raises(kind, match=told):
            await seqs(session)


async def test_a_run_is_given_up_when_patience_ends() -> None:
    events = in_turn([stream(*RUN[:2])], ["cut"])

    async with talking(by_path(prompt=in_turn([accepted()]), events=events), patience=0.5) as (session, _):
        with pytest.raises(ConnectionFailed, match="GET /v1/sessions/s/events"):
            await seqs(session)


async def test_a_line_that_has_fallen_silent_counts_as_lost() -> None:
    events = in_turn([stream(*RUN[:2], whole=False), "wait"], [stream(*RUN[2:])])

    async with talking(by_path(prompt=in_turn([accepted()]), events=events), silence=0.2) as (session, _):
        assert await seqs(session) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_cursor_that_is_none_is_told_where_it_came_from() -> None:
    async with talking(in_turn([accepted("over there")])) as (session, _):
        with pytest.raises(ProtocolError, match="POST /v1/sessions/s/prompt: 'over there' is no cursor"):
            await seqs(session)


async def test_a_reply_needs_an_end_and_an_abort_is_raised_with_what_there_was() -> None:
    told = [*RUN[:4], frame("error", 5, reason="no model"), frame("agent_abort", 6, reason="error")]

    async with talking(by_path(prompt=in_turn([accepted()]), events=in_turn([stream(*told)]))) as (session, _):
        async with session.run("hi") as run:
            events = [event async for event in run]
        with pytest.raises(RunAborted, match="the run was stopped: error; no model") as failure:
            await session.ask("hi")

    assert isinstance(events[-1], AgentAbort)
    assert (failure.value.reason, failure.value.transcript.text, failure.value.request_id) == ("error", "a", "r1")


# -- servers of the base protocol --------------------------------------------------------------------------------------

BASE_RUN = run_of("a", "b", ids=False)


async def test_a_base_server_is_enough_while_the_line_holds() -> None:
    answers = by_path(prompt=in_turn([accepted(None)]), events=in_turn([stream(*BASE_RUN)]))

    async with talking(answers) as (session, server):
        reply = await session.ask("hi")

    assert (reply.text, reply.request_id, reply.cost_usd) == ("ab", "r1", 0)
    [opened] = server.asked("GET", "/events")
    assert opened.target == "/v1/sessions/s/events"
    assert "last-event-id" not in opened.headers


async def test_a_base_server_whose_line_is_lost_is_not_guessed_at() -> None:
    answers = by_path(prompt=in_turn([accepted(None)]), events=in_turn([stream(*BASE_RUN[:3], whole=False), "cut"]))

    async with talking(answers) as (session, _):
        with pytest.raises(CannotResume, match="cannot be taken up again: this server gives its events no ids"):
            await session.ask("hi")


async def test_a_base_server_cannot_single_out_a_run_that_waits() -> None:
    async with talking(in_turn([accepted(None, queued=True)])) as (session, _):
        with pytest.raises(CannotResume, match="waits behind another run"):
            await session.ask("hi")


# -- leaving -----------------------------------------------------------------------------------------------------------

ENDLESS = by_path(prompt=in_turn([accepted()]), events=in_turn([stream(*RUN[:3], whole=False), "wait"]))


@pytest.mark.parametrize("way", ["cancel", "break", "close", "raise"])
async def test_a_run_that_is_left_leaves_nothing_behind(way: str) -> None:
    async with talking(ENDLESS) as (session, server):
        others = asyncio.all_tasks()
        reached = asyncio.Event()

        async def read() -> None:
            run = session.run("hi")
            async for event in run:
                if event.seq == 3:
                    reached.set()
                    if way == "break":
                        break
                    if way == "close":
                        await run.aclose()

        async def raise_within() -> None:
            with suppress(ZeroDivisionError):
                async with session.run("hi") as run:
                    async for event in run:
                        reached.set()
                        _ = 1 / (event.seq - 3)

        reading = asyncio.create_task(raise_within() if way == "raise" else read())
        await reached.wait()
        if way == "cancel":
            await asyncio.sleep(0.05)
            reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled() == (way == "cancel")
        del reading

        async with asyncio.timeout(5):
            await server.left.wait()
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() - others <= {asyncio.current_task()}
        assert connections(session) == 0


async def test_a_sync_run_that_is_left_closes_its_line() -> None:
    def read(url: str) -> list[int]:
        with Client(url) as client:
            session = sync_handle(client)
            for event in session.run("hi"):
                if event.seq == 3:
                    break
            return [connections(session)]

    async with wayward(ENDLESS) as server:
        assert await asyncio.to_thread(read, server.url) == [0]
        async with asyncio.timeout(5):
            await server.left.wait()


async def test_the_sync_client_takes_a_run_up_too() -> None:
    events = in_turn([stream(*RUN[:2], whole=False), "cut"], [stream(*RUN[2:])])

    def read(url: str) -> list[int]:
        with Client(url) as client:
            return [event.seq for event in sync_handle(client).run("hi")]

    async with wayward(by_path(prompt=in_turn([accepted()]), events=events)) as server:
        assert await asyncio.to_thread(read, server.url) == [1, 2, 3, 4, 5, 6, 7]
