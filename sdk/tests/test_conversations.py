"""Whole conversations with a gateway, in the async client and in the sync one."""

import asyncio
from typing import Any

import pytest
from cmdc_client import (
    AgentAbort,
    AgentEnd,
    AlreadyResolved,
    ApprovalRequired,
    ApprovalSettings,
    AskUser,
    AsyncClient,
    AsyncPolicy,
    AsyncSession,
    BadRequest,
    Budget,
    Client,
    CreateFailed,
    Cursor,
    CursorExpired,
    Event,
    InvalidCursor,
    MessageDelta,
    NotFound,
    RegistrationFailed,
    RunAborted,
    SessionExists,
    ToolExecutionStart,
    Unauthorized,
    is_terminal,
)
from cmdc_testkit.gateways import KEY, Served
from cmdc_testkit.conversations import call, script
from wayward import handle

SHELL = script({"text": ["Let me."], "toolCalls": [call("shell", command="echo one")]}, {"text": ["Done."]})
QUESTION = script({"toolCalls": [call("ask_user", question="Colour?", options=["red", "blue"])]}, {"text": ["Thanks."]})
SLOW = script({"text": ["one ", "two ", "three "], "delayMs": 300})


async def session_of(client: AsyncClient) -> AsyncSession:
    return await client.sessions.create(
        model="scripted:x", tools=["shell", "ask_user"], approval=ApprovalSettings(tools=["shell"])
    )


@pytest.fixture
async def client(gateway: Served):
    async with AsyncClient(gateway.url, api_key=KEY) as made:
        yield made


async def test_a_run_is_the_words_of_the_agent_one_by_one(client: AsyncClient) -> None:
    session = await session_of(client)

    words = [event.delta async for event in session.run("hello") if isinstance(event, MessageDelta)]

    assert words == ["You ", "said: ", "hello"]


async def test_a_reply_has_the_text_the_tool_calls_and_what_they_cost(client: AsyncClient) -> None:
    session = await session_of(client)

    reply = await session.ask(SHELL, policy="approve")

    assert (reply.text, reply.transcript.earlier) == ("Done.", ("Let me.",))
    assert [(each.name, each.status, each.result) for each in reply.tool_calls] == [
        ("shell", "ok", "one\n[exit code 0]")
    ]
    assert reply.usage.total_tokens == (await session.stats()).total_tokens
    assert [message.role for message in await session.messages()] == ["user", "assistant", "tool_result", "assistant"]


async def test_an_event_is_approved_where_it_is_seen_also_with_other_arguments(client: AsyncClient) -> None:
    session = await session_of(client)
    ran: list[object] = []

    async for event in session.run(SHELL):
        match event:
            case ApprovalRequired():
                await event.approve(args={"command": "echo two"})
            case ToolExecutionStart(args=args):
                ran.append(args)
            case _:
                pass

    assert ran == [{"command": "echo two"}]


async def test_an_event_is_rejected_where_it_is_seen_and_the_agent_is_told_why(client: AsyncClient) -> None:
    session = await session_of(client)

    async for event in session.run(SHELL):
        if isinstance(event, ApprovalRequired):
            await event.reject(reason="not on a Sunday")

    [result] = [message for message in await session.messages() if message.role == "tool_result"]
    assert "not on a Sunday" in result.content


async def test_a_question_is_answered_where_it_is_seen(client: AsyncClient) -> None:
    session = await session_of(client)

    async for event in session.run(QUESTION):
        if isinstance(event, AskUser):
            with pytest.raises(BadRequest):
                await event.answer("green")
            await event.answer("red")

    assert [message.content for message in await session.messages() if message.role == "tool_result"] == ["red"]


def yes(_: ApprovalRequired) -> bool:
    return True


def no(_: ApprovalRequired) -> bool:
    return False


@pytest.mark.parametrize(("policy", "runs"), [("approve", 1), ("reject", 0), (yes, 1), (no, 0)])
async def test_a_policy_decides(client: AsyncClient, policy: AsyncPolicy, runs: int) -> None:
    session = await session_of(client)

    assert len((await session.ask(SHELL, policy=policy)).tool_calls) == runs


async def test_a_policy_and_an_answerer_may_be_async(client: AsyncClient) -> None:
    session = await session_of(client)

    async def only_echo(event: ApprovalRequired) -> bool:
        await asyncio.sleep(0)
        return event.tool_name == "shell" and str(event.args["command"]).startswith("echo")

    async def first(question: AskUser) -> str:
        await asyncio.sleep(0)
        return (question.options or [""])[0]

    assert len((await session.ask(SHELL, policy=only_echo)).tool_calls) == 1
    assert (await session.ask(QUESTION, answer=first)).tool_calls[0].result == "red"


async def test_whoever_sits_at_the_terminal_decides(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await session_of(client)
    asked: list[str] = []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return "y" if "Let this run?" in prompt else "blue"

    monkeypatch.setattr("builtins.input", typed)

    assert len((await session.ask(SHELL, policy="ask")).tool_calls) == 1
    assert (await session.ask(QUESTION, answer="ask")).tool_calls[0].result == "blue"
    assert 'shell {"command":"echo one"}' in asked[0]
    assert "- red\n  - blue" in asked[1]


async def test_a_policy_that_was_too_late_is_no_failure(client: AsyncClient) -> None:
    session = await session_of(client)

    async def decide_elsewhere(event: ApprovalRequired) -> bool:
        await session.reject(event.approval_id)
        return True

    assert (await session.ask(SHELL, policy=decide_elsewhere)).tool_calls == ()


async def test_a_decision_that_was_made_otherwise_is_told(client: AsyncClient) -> None:
    session = await session_of(client)

    async for event in session.run(SHELL):
        if isinstance(event, ApprovalRequired):
            await event.approve()
            await event.approve()
            with pytest.raises(AlreadyResolved) as failure:
                await event.reject()
            assert failure.value.status == "approved"


async def test_an_aborted_run_has_no_reply(client: AsyncClient) -> None:
    session = await session_of(client)

    async with session.run(SLOW) as run:
        async for event in run:
            if isinstance(event, MessageDelta):
                await session.abort(reason="enough")
    assert run.transcript.aborted == "enough"

    async with session.events() as events:
        asking = asyncio.create_task(session.ask(SLOW))
        assert (await anext(events)).event == "prompt_received"
        assert (await session.abort()).ok
    with pytest.raises(RunAborted) as failure:
        await asking
    assert failure.value.reason == "aborted"


async def test_prompts_may_wait_and_each_is_read_as_its_own_run(client: AsyncClient) -> None:
    session = await session_of(client)

    replies = await asyncio.gather(*(session.ask(f"number {number}") for number in range(5)))

    assert [reply.text for reply in replies] == [f"You said: number {number}" for number in range(5)]


async def test_the_log_is_read_from_any_place(client: AsyncClient) -> None:
    session = await session_of(client)
    reply = await session.ask("hello")
    await session.ask("again")
    page = await session.event_page(limit=3)
    every = (await session.event_page()).entries

    async def read(**options: Any) -> list[Event]:
        return [event async for event in session.events(**options)]

    first = await read(after="start")
    assert [event.id for event in first] == [entry.event.id for entry in every[:7]]
    assert is_terminal(first[-1])
    assert [event.seq for event in await read(after=page.next)] == [4, 5, 6, 7]
    assert [event.seq for event in await read(after=Cursor.parse(page.next))] == [4, 5, 6, 7]
    assert await read(request_id=reply.request_id) == first
    assert await read(request_id=reply.request_id, after=first[-1].id) == []
    assert [event.event for event in await read(after="start", types=["message_delta"])] == ["message_delta"] * 3
    assert every[-1].event.id == page.latest == (await session.info()).cursor
    assert all(entry.at > 0 for entry in every)

    with pytest.raises(ValueError, match="'over there' is no cursor"):
        session.events(after="over there")
    with pytest.raises(CursorExpired):
        await read(after="zzz.1")
    with pytest.raises(InvalidCursor):
        await read(after=f"{page.next.partition('.')[0]}.99")
    with pytest.raises(NotFound):
        await read(request_id="nobody")


async def test_a_session_that_is_followed_shows_one_run_after_the_other(client: AsyncClient) -> None:
    session = await session_of(client)
    await session.ask("before")
    before = (await session.info()).cursor
    seen: list[Event] = []

    async with asyncio.timeout(20), session.events(after="latest", follow=True) as events:
        reading = asyncio.create_task(anext(events))
        while not reading.done():  # where the present is, the stream asks when it is first read
            await session.prompt("during")
            await asyncio.wait([reading], timeout=0.2)
        seen.append(await reading)
        last = [await session.prompt(text) for text in ("one", "two")][-1]
        async for event in events:
            seen.append(event)
            if isinstance(event, AgentEnd) and event.request_id == last.request_id:
                break

    assert seen[0].seq > Cursor.parse(before).seq
    assert [event.seq for event in seen] == list(range(seen[0].seq, seen[-1].seq + 1))


async def test_sessions_are_made_found_listed_and_deleted(client: AsyncClient) -> None:
    made = [
        await client.sessions.create(
            model="scripted:x", session_id=f"s{number}", metadata={"n": str(number)}, budget=Budget(max_tokens=10)
        )
        for number in range(5)
    ]

    assert [summary.session_id async for summary in client.sessions.list(page_size=2)] == ["s4", "s3", "s2", "s1", "s0"]
    assert (await (await client.sessions.get("s3")).info()).metadata["n"] == "3"
    with pytest.raises(SessionExists):
        await client.sessions.create(model="scripted:x", session_id="s1")
    with pytest.raises(CreateFailed):
        await client.sessions.create(model="nobody:x")
    assert (await made[3].delete()).status == "deleted"
    with pytest.raises(NotFound, match="s3"):
        await client.sessions.get("s3")


async def test_a_session_as_a_context_manager_is_deleted_at_the_end(client: AsyncClient) -> None:
    async with await client.sessions.create(model="scripted:x") as session:
        await session.ask("hi")
    with pytest.raises(NotFound):
        await session.info()

    async with await client.sessions.create(model="scripted:x") as session:
        await session.delete()  # it may be gone already


async def test_tools_are_registered_listed_and_removed(client: AsyncClient) -> None:
    session = await session_of(client)
    tool: dict[str, Any] = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}

    registered = await session.tools.register(**tool, callback_url="http://127.0.0.1:1/x", requires_approval=True)
    assert str(registered.secret).startswith("whsec_")
    listed = {entry.name: entry for entry in await session.tools.list()}
    assert (listed["weather"].kind, listed["weather"].requires_approval) == ("callback", True)
    await session.tools.remove("weather")
    with pytest.raises(NotFound):
        await session.tools.remove("weather")
    with pytest.raises(RegistrationFailed):
        await session.tools.register(**tool, callback_url="nowhere")


async def test_the_server_tells_of_itself(client: AsyncClient, gateway: Served) -> None:
    assert "idempotency" in (await client.capabilities()).extended
    assert (await client.health()).status == "ok"
    assert (await client.usage()).tenant == "default"
    assert (await (await session_of(client)).ticket()).ticket
    async with AsyncClient(gateway.url, api_key="wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.usage()


async def test_the_environment_tells_where_and_as_whom(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDC_BASE_URL", gateway.url)
    monkeypatch.setenv("CMDC_API_KEY", KEY)

    async with AsyncClient() as client:
        assert (await client.usage()).tenant == "default"


async def test_the_sync_client_does_the_same(gateway: Served) -> None:
    def talk() -> list[str]:
        with Client(gateway.url, api_key=KEY) as client:
            told: list[str] = []
            approval = ApprovalSettings(tools=["shell"])
            with client.sessions.create(model="scripted:x", tools=["shell", "ask_user"], approval=approval) as session:
                for event in session.run(SHELL):
                    match event:
                        case ApprovalRequired():
                            event.approve(args={"command": "echo two"})
                        case MessageDelta(delta=text):
                            told.append(text)
                        case _:
                            pass
                told.append(session.ask(QUESTION, answer=lambda _: "blue").text)
                told.append(session.ask(SHELL, policy="reject").text)
                told += [event.event for event in session.events(after="start", types=["agent_end"])]
                told += [summary.session_id for summary in client.sessions.list() if summary.session_id == session.id]
                told.append(client.health().status)
            with pytest.raises(NotFound):
                session.info()
            told.remove(session.id)
            return told

    assert await asyncio.to_thread(talk) == ["Let me.", "Done.", "Thanks.", "Done.", "agent_end", "ok"]


async def test_every_door_of_the_sync_client_opens(gateway: Served) -> None:
    def talk() -> None:
        with Client(gateway.url, api_key=KEY) as client:
            session = client.sessions.create(model="scripted:x", tools=["shell", "ask_user"])
            assert session.id in repr(session)
            assert client.base_url in repr(client)
            assert client.capabilities().protocol == "0.1"
            assert client.usage().tenant == "default"
            accepted = session.prompt("hello")
            with session.events(request_id=accepted.request_id) as events:
                assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6, 7]
            assert [*session.events(request_id=accepted.request_id, after=session.info().cursor)] == []
            assert not session.abort(reason="nothing runs").ok
            assert session.stats().prompt_count == 1
            assert [message.role for message in session.messages()] == ["user", "assistant"]
            assert session.ticket("control").ticket
            session.tools.register(
                name="t", description="d", parameters={"type": "object"}, callback_url="http://127.0.0.1:9"
            )
            assert [entry.name for entry in session.tools.list() if entry.kind == "callback"] == ["t"]
            assert session.tools.remove("t").status == "removed"
            for refused in (session.approve, session.reject):
                with pytest.raises(NotFound):
                    refused("nothing")
            with pytest.raises(NotFound):
                session.respond("nothing", "x")
            with session.connect() as socket, pytest.raises(NotFound):
                socket.respond("nothing", "x")
            reasons: list[str] = []
            for event in session.run(SLOW):
                if isinstance(event, MessageDelta):
                    session.abort(reason="over")
                if isinstance(event, AgentAbort):
                    reasons.append(event.reason)
            assert reasons == ["over"]
            assert client.sessions.get(session.id).delete().status == "deleted"

    await asyncio.to_thread(talk)


async def test_what_went_wrong_in_a_session_is_told_and_not_that_it_could_not_be_deleted(gateway: Served) -> None:
    async with AsyncClient(gateway.url, api_key=KEY) as client:
        session = await client.sessions.create(model="scripted:x")
        async with AsyncClient(gateway.url, api_key="wrong") as stranger:

            async def use(divisor: int) -> None:
                async with handle(stranger, session.id):
                    _ = 1 / divisor

            with pytest.raises(ZeroDivisionError):
                await use(0)
            with pytest.raises(Unauthorized):
                await use(1)
        assert (await session.info()).state == "idle"
