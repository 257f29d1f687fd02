"""The types of the public API, as a type checker sees them. `nox -s types` checks this file; it is never run."""

from typing import Any, Literal, assert_type

from cmdc_client import (
    AlreadyResolved,
    ApiError,
    ApprovalRequired,
    ApprovalSettings,
    AskUser,
    AsyncClient,
    AsyncLiveEvent,
    AsyncRun,
    AsyncSession,
    AsyncSocket,
    Budget,
    Client,
    Cursor,
    CursorExpired,
    LiveEvent,
    LogEntry,
    RateLimited,
    Reply,
    Run,
    RunAborted,
    Session,
    Socket,
    TokenUsage,
    ToolCall,
    Transcript,
)
from cmdc_client.callbacks import CallbackCall, CallbackServer, Tools, callback_app, new_secret, verify_callback
from cmdc_client.models import MessageEntry, PromptAccepted, SessionSummary, TenantUsage


def sync(client: Client) -> None:
    """The sync client."""
    session = client.sessions.create(
        model="scripted:x",
        approval=ApprovalSettings(tools=["shell"]),
        budget=Budget(max_tokens=10),
        metadata={"a": "b"},
    )
    assert_type(session, Session)
    assert_type(session.prompt("Hello!"), PromptAccepted)
    with session.run("Hello!") as run:
        assert_type(run, Run)
        for event in run:
            assert_type(event, LiveEvent)
        assert_type(run.transcript, Transcript)
        assert_type(run.transcript.approvals, dict[str, ApprovalRequired])
        assert_type(run.transcript.questions, dict[str, AskUser])
        assert_type(run.transcript.usage, TokenUsage | None)
    reply = session.ask("Hello!", policy="ask", answer="ask")
    assert_type(reply, Reply)
    assert_type(reply.text, str)
    assert_type(reply.tool_calls, tuple[ToolCall, ...])
    assert_type(reply.usage.total_tokens, int)
    for entry in session.event_page(limit=10).entries:
        assert_type(entry, LogEntry)
    with session.connect(after=Cursor("e", 1)) as socket:
        assert_type(socket, Socket)
        assert_type(next(socket), LiveEvent)
        assert_type(socket.prompt("Hello!"), PromptAccepted)
    assert_type(session.messages(), list[MessageEntry])
    assert_type(client.usage(), TenantUsage)
    for summary in client.sessions.list(state="idle"):
        assert_type(summary, SessionSummary)
    session.ask("Hello!", policy="perhaps")  # type: ignore[arg-type]
    session.run("Hello!").approve()  # type: ignore[attr-defined]


async def asynchronous(client: AsyncClient) -> None:
    """The async client."""
    session = await client.sessions.create(model="scripted:x")
    assert_type(session, AsyncSession)
    async with session.run("Hello!") as run:
        assert_type(run, AsyncRun)
        async for event in run:
            assert_type(event, AsyncLiveEvent)
            if isinstance(event, ApprovalRequired):
                await event.approve()
            if isinstance(event, AskUser):
                await event.answer("red")
    assert_type(await session.ask("Hello!", policy=async_policy), Reply)
    async with session.connect() as socket:
        assert_type(socket, AsyncSocket)
        assert_type(await anext(socket), AsyncLiveEvent)
    async for summary in client.sessions.list():
        assert_type(summary, SessionSummary)


async def async_policy(event: ApprovalRequired) -> bool:
    """Decide asynchronously."""
    return event.tool_name == "read_file"


def errors(session: Session) -> float | None:
    """Every error class has its own attributes."""
    try:
        session.approve("apr_1")
    except AlreadyResolved as error:
        assert_type(error.status, str)
    except CursorExpired as error:
        assert_type(error.earliest, str)
    except RateLimited as error:
        return assert_type(error.retry_after, float | None)
    except RunAborted as error:
        assert_type(error.transcript, Transcript)
    except ApiError as error:
        assert_type(error.code, str)
        assert_type(error.http_status, int)
    return None


tools = Tools()


@tools.tool
def get_weather(city: str, unit: Literal["C", "F"] = "C") -> str:
    """Get the weather in a city."""
    return f"18 °{unit} in {city}"


@tools.tool(requires_approval=True, idempotent=True)
async def book(call: CallbackCall, days: list[int]) -> dict[str, Any]:
    """Book some days."""
    return {"session": call.session_id, "days": days}


def serves(session: Session, headers: dict[str, str], body: bytes) -> None:
    """A tool remains a function with its own type."""
    assert_type(get_weather("Oslo"), str)
    with CallbackServer(tools) as server:
        assert_type(server.register(session), None)
    callback_app(tools, secret=new_secret())
    assert_type(verify_callback(new_secret(), headers, body), CallbackCall)
    get_weather(60)  # type: ignore[arg-type]


async def serves_async(session: AsyncSession) -> None:
    """Register tools with an async session."""
    async with CallbackServer(tools) as server:
        await server.register(session)
