"""Conversations with a gateway, through the async and the sync client."""

import asyncio
from collections.abc import AsyncGenerator
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
from cmdc_testkit.conversations import call, script
from cmdc_testkit.gateways import KEY, InProcessGateway
from faulty_server import handle

SHELL = script({"text": ["Let me."], "toolCalls": [call("shell", command="echo one")]}, {"text": ["Done."]})
QUESTION = script({"toolCalls": [call("ask_user", question="Color?", options=["red", "blue"])]}, {"text": ["Thanks."]})
SLOW = script({"text": ["one ", "two ", "three "], "delayMs": 300})


async def session_of(client: AsyncClient) -> AsyncSession:
    return await client.sessions.create(
        model="scripted:x", tools=["shell", "ask_user"], approval=ApprovalSettings(tools=["shell"])
    )


@pytest.fixture
async def client(gateway: InProcessGateway) -> AsyncGenerator[AsyncClient]:
    async with AsyncClient(gateway.url, api_key=KEY) as client:
        yield client


async def test_a_run_yields_the_words_of_the_agent_one_by_one(client: AsyncClient) -> None:
    session = await session_of(client)

    words = [event.delta async for event in session.run("hello") if isinstance(event, MessageDelta)]

    assert words == ["You ", "said: ", "hello"]


async def test_a_reply_has_the_text_the_tool_calls_and_the_usage(client: AsyncClient) -> None:
    session = await session_of(client)

    reply = await session.ask(SHELL, policy="approve")

    assert (reply.text, reply.transcript.earlier) == ("Done.", ("Let me.",))
    assert [(each.name, each.status, each.result) for each in reply.tool_calls] == [
        ("shell", "ok", "one\n[exit code 0]")
    ]
    assert reply.usage.total_tokens == (await session.stats()).total_tokens
    assert [message.role for message in await session.messages()] == ["user", "assistant", "tool_result", "assistant"]


async def test_a_live_approval_approves_the_call_with_other_arguments(client: AsyncClient) -> None:
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


async def test_a_live_approval_rejects_the_call_and_the_agent_receives_the_reason(client: AsyncClient) -> None:
    session = await session_of(client)

    async for event in session.run(SHELL):
        if isinstance(event, ApprovalRequired):
            await event.reject(reason="not on a Sunday")

    [result] = [message for message in await session.messages() if message.role == "tool_result"]
    assert "not on a Sunday" in result.content


async def test_a_live_question_answers_itself(client: AsyncClient) -> None:
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
async def test_a_policy_decides_about_a_tool_call(client: AsyncClient, policy: AsyncPolicy, runs: int) -> None:
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


async def test_the_policy_and_the_answerer_ask_prompt_at_the_terminal(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await session_of(client)
    prompts: list[str] = []

    def fake_input(prompt: str) -> str:
        prompts.append(prompt)
        return "y" if "Approve?" in prompt else "blue"

    monkeypatch.setattr("builtins.input", fake_input)

    assert len((await session.ask(SHELL, policy="ask")).tool_calls) == 1
    assert (await session.ask(QUESTION, answer="ask")).tool_calls[0].result == "blue"
    assert 'shell {"command":"echo one"}' in prompts[0]
    assert "- red\n  - blue" in prompts[1]


async def test_a_policy_that_decides_too_late_is_ignored(client: AsyncClient) -> None:
    session = await session_of(client)

    async def decide_elsewhere(event: ApprovalRequired) -> bool:
        await session.reject(event.approval_id)
        return True

    assert (await session.ask(SHELL, policy=decide_elsewhere)).tool_calls == ()


async def test_a_contradicting_decision_raises_already_resolved(client: AsyncClient) -> None:
    session = await session_of(client)

    async for event in session.run(SHELL):
        if isinstance(event, ApprovalRequired):
            await event.approve()
            await event.approve()
            with pytest.raises(AlreadyResolved) as raised:
                await event.reject()
            assert raised.value.status == "approved"


async def test_asking_raises_run_aborted_if_the_run_is_aborted(client: AsyncClient) -> None:
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
    with pytest.raises(RunAborted) as raised:
        await asking
    assert raised.value.reason == "aborted"


async def test_queued_prompts_are_each_read_as_their_own_run(client: AsyncClient) -> None:
    session = await session_of(client)

    replies = await asyncio.gather(*(session.ask(f"number {number}") for number in range(5)))

    assert [reply.text for reply in replies] == [f"You said: number {number}" for number in range(5)]


async def test_the_log_is_read_from_any_position(client: AsyncClient) -> None:
    session = await session_of(client)
    reply = await session.ask("hello")
    await session.ask("again")
    page = await session.event_page(limit=3)
    entries = (await session.event_page()).entries

    async def read(**options: Any) -> list[Event]:
        return [event async for event in session.events(**options)]

    first = await read(after="start")
    assert [event.id for event in first] == [entry.event.id for entry in entries[:7]]
    assert is_terminal(first[-1])
    assert [event.seq for event in await read(after=page.next)] == [4, 5, 6, 7]
    assert [event.seq for event in await read(after=Cursor.parse(page.next))] == [4, 5, 6, 7]
    assert await read(request_id=reply.request_id) == first
    assert await read(request_id=reply.request_id, after=first[-1].id) == []
    assert [event.event for event in await read(after="start", types=["message_delta"])] == ["message_delta"] * 3
    assert entries[-1].event.id == page.latest == (await session.info()).cursor
    assert all(entry.at > 0 for entry in entries)

    with pytest.raises(ValueError, match="'over there' is not a cursor"):
        session.events(after="over there")
    with pytest.raises(CursorExpired):
        await read(after="zzz.1")
    with pytest.raises(InvalidCursor):
        await read(after=f"{page.next.partition('.')[0]}.99")
    with pytest.raises(NotFound):
        await read(request_id="nobody")


async def test_following_a_session_yields_one_run_after_the_other(client: AsyncClient) -> None:
    session = await session_of(client)
    await session.ask("before")
    before = (await session.info()).cursor
    seen: list[Event] = []

    async with asyncio.timeout(20), session.events(after="latest", follow=True) as events:
        reading = asyncio.create_task(anext(events))
        while not reading.done():  # `latest` is resolved when the stream is first read
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


async def test_sessions_are_created_found_listed_and_deleted(client: AsyncClient) -> None:
    created = [
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
    assert (await created[3].delete()).status == "deleted"
    with pytest.raises(NotFound, match="s3"):
        await client.sessions.get("s3")


async def test_a_session_as_a_context_manager_is_deleted_at_the_end(client: AsyncClient) -> None:
    async with await client.sessions.create(model="scripted:x") as session:
        await session.ask("hi")
    with pytest.raises(NotFound):
        await session.info()

    async with await client.sessions.create(model="scripted:x") as session:
        await session.delete()  # deleting it again at the end is not an error


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


async def test_capabilities_health_usage_and_tickets(client: AsyncClient, gateway: InProcessGateway) -> None:
    assert "idempotency" in (await client.capabilities()).extended
    assert (await client.health()).status == "ok"
    assert (await client.usage()).tenant == "default"
    assert (await (await session_of(client)).ticket()).ticket
    async with AsyncClient(gateway.url, api_key="wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.usage()


async def test_the_environment_provides_the_url_and_the_key(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMDC_BASE_URL", gateway.url)
    monkeypatch.setenv("CMDC_API_KEY", KEY)

    async with AsyncClient() as client:
        assert (await client.usage()).tenant == "default"


async def test_the_sync_client_does_the_same(gateway: InProcessGateway) -> None:
    def talk() -> list[str]:
        with Client(gateway.url, api_key=KEY) as client:
            seen: list[str] = []
            approval = ApprovalSettings(tools=["shell"])
            with client.sessions.create(model="scripted:x", tools=["shell", "ask_user"], approval=approval) as session:
                for event in session.run(SHELL):
                    match event:
                        case ApprovalRequired():
                            event.approve(args={"command": "echo two"})
                        case MessageDelta(delta=text):
                            seen.append(text)
                        case _:
                            pass
                seen.append(session.ask(QUESTION, answer=lambda _: "blue").text)
                seen.append(session.ask(SHELL, policy="reject").text)
                seen += [event.event for event in session.events(after="start", types=["agent_end"])]
                seen += [summary.session_id for summary in client.sessions.list() if summary.session_id == session.id]
                seen.append(client.health().status)
            with pytest.raises(NotFound):
                session.info()
            seen.remove(session.id)
            return seen

    assert await asyncio.to_thread(talk) == ["Let me.", "Done.", "Thanks.", "Done.", "agent_end", "ok"]


async def test_every_method_of_the_sync_client(gateway: InProcessGateway) -> None:
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
            for decide in (session.approve, session.reject):
                with pytest.raises(NotFound):
                    decide("nothing")
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


async def test_an_exception_in_a_session_takes_precedence_over_a_failed_deletion(gateway: InProcessGateway) -> None:
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
