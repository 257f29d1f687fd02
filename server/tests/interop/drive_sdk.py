"""Checks of the whole public API of the published client.

Runs in an interpreter with `cmdc-sdk` 0.1.0 and without this project's packages. `drive_sdk.py NAME URL KEY` runs one
check, a function whose name begins with `check_`.
"""
# pyright: basic, reportMissingImports=false
# The client is not installed in the environment for type checks.

from __future__ import annotations

import asyncio
import builtins
import inspect
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cmdc
import httpx
from cmdc import (
    CMDC,
    ApprovalPolicy,
    AuthError,
    AutoApprove,
    AutoReject,
    BadRequestError,
    CMDCError,
    Event,
    LocalTool,
    PromptApproval,
    PromptResponse,
    RateLimitError,
    Session,
    SessionCreateError,
    SessionNotFoundError,
    SessionOptions,
)
from cmdc.approval import CallableApproval
from websockets.exceptions import InvalidStatus

MODEL = "scripted:interop"
ORIGINAL_TOOLS = ["CMDC.Tool.Shell", "CMDC.Tool.ReadFile"]
HUMAN_APPROVAL = "CMDC.Plugin.Builtin.HumanApproval"
FIFTEEN = {
    *("prompt_received", "agent_start", "thinking_start", "thinking_delta", "message_start", "message_delta"),
    *("tool_calls", "approval_required", "approval_resolved", "tool_execution_start", "ask_user"),
    *("tool_execution_end", "error", "agent_end", "agent_abort"),
}


@dataclass(frozen=True)
class Gateway:
    """The URL of a gateway, and an API key."""

    url: str
    key: str

    def client(self, **options: Any) -> CMDC:
        return CMDC(base_url=self.url, api_key=self.key, **options)


def script(*replies: dict[str, Any]) -> str:
    return f"```script\n{json.dumps({'replies': replies})}\n```"


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args}


SHELL = script({"toolCalls": [call("shell", command="echo from the shell")]}, {"text": ["It ", "ran."]})
ASKS = script({"toolCalls": [call("ask_user", question="Which?", options=["red", "blue"])]}, {"text": ["Thanks."]})


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def the(events: list[Event], name: str) -> dict[str, Any]:
    [event] = [event for event in events if event.type == name]
    return event.data


def raises(error: type[CMDCError], status: int, act: Callable[[], Any]) -> CMDCError:
    """The exception that `act` raises, which must be of exactly this class and have this status."""
    try:
        act()
    except CMDCError as raised:
        return checked(raised, error, status)
    raise AssertionError(f"nothing was raised, {error.__name__} was expected")


async def araises(error: type[CMDCError], status: int, act: Awaitable[Any]) -> CMDCError:
    """The exception that `act` raises, which must be of exactly this class and have this status."""
    try:
        await act
    except CMDCError as raised:
        return checked(raised, error, status)
    raise AssertionError(f"nothing was raised, {error.__name__} was expected")


def checked(raised: CMDCError, error: type[CMDCError], status: int) -> CMDCError:
    assert type(raised) is error, repr(raised)
    assert raised.status_code == status, raised.status_code
    assert str(raised) == raised.message != ""
    return raised


async def everything(stream: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in stream]


# The client


def check_the_version_and_the_public_names(gateway: Gateway) -> None:
    assert cmdc.__version__ == "0.1.0"
    for name in cmdc.__all__:
        assert hasattr(cmdc, name), name


def check_health(gateway: Gateway) -> None:
    with gateway.client() as client:
        before = client.health()
        client.create_session(MODEL).prompt_sync("hello")
        after = client.health()
    assert (before.status, before.active_sessions, before.tracked_keys) == ("ok", 0, 0)
    assert (after.active_sessions, after.tracked_keys) == (1, 1)
    assert after.version
    assert after.timestamp > before.timestamp


async def check_health_async(gateway: Gateway) -> None:
    async with gateway.client(timeout=5.0, connect_timeout=2.0, limits=httpx.Limits(max_connections=3)) as client:
        health = await client.ahealth()
    assert (health.status, health.active_sessions) == ("ok", 0)


# Sessions


def check_creating_sessions(gateway: Gateway) -> None:
    with gateway.client() as client:
        session = client.create_session(MODEL, session_id="mine", system_prompt="Be brief.")
        assert isinstance(session, Session)
        assert session.session_id == "mine"
        info = session.get_info()
        assert (info.session_id, info.state, info.turns) == ("mine", "idle", 0)
        assert (info.tool_calls, info.total_tokens) == (0, 0)
        assert info.uptime_ms >= 0
        assert [(message.role, message.content) for message in session.get_messages()] == [("system", "Be brief.")]
        assert client.create_session(model=MODEL).session_id != client.create_session(model=MODEL).session_id


def check_creating_a_session_with_every_option(gateway: Gateway) -> None:
    options = SessionOptions(
        model=MODEL,
        session_id="all-of-them",
        system_prompt="Be brief.",
        working_dir=".",
        tools=[*ORIGINAL_TOOLS, "CMDC.Tool.AskUser", "grep"],
        plugins=[HUMAN_APPROVAL],
        blueprint="helper",
        max_turns=7,
        max_tokens=100,
        skills_dirs=["."],
        provider_opts={"temperature": 0.7},
    )
    with gateway.client() as client:
        session = client.create_session(options=options)
        assert session.session_id == "all-of-them"
        assert session.prompt_sync("hello") == "You said: hello"


def check_creating_a_session_from_a_blueprint(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL, blueprint="helper") as session:
        assert [(message.role, message.content) for message in session.get_messages()] == [
            ("system", "From a blueprint.")
        ]


def check_that_leaving_the_context_stops_the_session(gateway: Gateway) -> None:
    with gateway.client() as client:
        with client.session(MODEL) as session:
            assert session.get_info().state == "idle"
        raises(SessionNotFoundError, 404, session.get_info)
        with client.create_session(MODEL) as session:
            session.stop()
        raises(SessionNotFoundError, 404, session.stop)


async def check_that_leaving_the_context_stops_the_session_async(gateway: Gateway) -> None:
    async with gateway.client() as client:
        async with client.asession(MODEL, session_id="mine") as session:
            assert session.session_id == "mine"
            await everything(await session.aprompt("hello"))
        await araises(SessionNotFoundError, 404, session.stop())
        async with await client.create_session_async(options=SessionOptions(model=MODEL)) as session:
            pass
        await araises(SessionNotFoundError, 404, session.aprompt("hello"))


# Prompts


def check_the_events_of_a_prompt(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL) as session:
        prompt = script(
            {"thinking": ["Hm."], "text": ["Hel", "lo"], "usage": {"promptTokens": 7, "completionTokens": 3}}
        )
        events = list(session.prompt(prompt))

        assert types(events) == [
            *("prompt_received", "agent_start", "thinking_start", "thinking_delta"),
            *("message_start", "message_delta", "message_delta", "agent_end"),
        ]
        assert [event.delta for event in events if event.type == "message_delta"] == ["Hel", "lo"]
        assert the(events, "prompt_received")["text"] == prompt
        end = events[-1]
        assert end.last_message is not None
        assert (end.last_message.role, end.last_message.content) == ("assistant", "Hello")
        assert end.token_usage is not None
        usage = end.token_usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 3, 10)
        assert end.data["messageCount"] == 2
        assert (end.delta, end.approval_id, end.ask_ref, end.question) == (None, None, None, None)
        assert "agent_end" in repr(end)


async def check_the_events_of_a_prompt_async(gateway: Gateway) -> None:
    async with gateway.client() as client, client.asession(MODEL) as session:
        events = await everything(await session.aprompt("hello there"))
        assert "".join(event.delta or "" for event in events) == "You said: hello there"
        assert events[-1].type == "agent_end"


def check_all_fifteen_events(gateway: Gateway) -> None:
    with gateway.client() as client:
        session = client.create_session(MODEL, tools=[*ORIGINAL_TOOLS, "ask_user"], plugins=[HUMAN_APPROVAL])
        seen: list[Event] = []
        script_with_all_but_the_last = script(
            {"thinking": ["Hm."], "text": ["One moment."], "toolCalls": [call("shell", command="true")]},
            {"toolCalls": [call("ask_user", question="Which?")]},
            {"toolCalls": [call("no_such_tool")]},
            {"text": ["Done."]},
        )
        for event in session.prompt(script_with_all_but_the_last, approval_policy="auto_approve"):
            seen.append(event)
            if event.type == "ask_user":
                assert event.question == "Which?"
                assert event.ask_ref
                session.respond(event.ask_ref, "this one")
        seen += session.prompt(script({"text": ["And th"], "cut": True}))

        assert set(types(seen)) == FIFTEEN
        assert seen[-1].data["reason"] == "error"
        assert types(seen)[-2:] == ["error", "agent_abort"]


def check_that_text_is_unchanged(gateway: Gateway) -> None:
    pieces = [
        "Grüße",
        " 你好\r\n",
        "\u2028\u2029\u0085",
        "\x0b\x0c\x1c\x1d\x1e",
        "👩‍",
        "👧",
        "\n\ndata: x\n\n",
        "\ufeff",
    ]
    with gateway.client() as client, client.session(MODEL) as session:
        events = list(session.prompt(script({"text": pieces})))
        assert [event.delta for event in events if event.type == "message_delta"] == pieces
        assert session.get_messages()[-1].content == "".join(pieces)


def check_100_fast_prompts(gateway: Gateway) -> None:
    """The client posts the prompt before it opens the stream."""
    with gateway.client() as client, client.session(MODEL) as session:
        for number in range(100):
            assert session.prompt_sync(f"number {number}") == f"You said: number {number}"
        assert len(session.get_messages()) == 200
        assert session.get_stats().prompt_count == 100


async def check_100_fast_prompts_async(gateway: Gateway) -> None:
    async with gateway.client() as client, client.asession(MODEL) as session:
        for number in range(100):
            events = await everything(await session.aprompt(f"number {number}"))
            assert types(events)[0] == "prompt_received"
            assert "".join(event.delta or "" for event in events) == f"You said: number {number}"


async def check_concurrent_sessions(gateway: Gateway) -> None:
    async with gateway.client() as client:

        async def talk(number: int) -> None:
            async with client.asession(MODEL) as session:
                for turn in range(5):
                    events = await everything(await session.aprompt(f"{number} {turn}"))
                    assert "".join(event.delta or "" for event in events) == f"You said: {number} {turn}"

        await asyncio.gather(*(talk(number) for number in range(15)))


def check_that_heartbeats_are_ignored(gateway: Gateway) -> None:
    """The gateway sends one every 20 ms."""
    with gateway.client() as client, client.session(MODEL) as session:
        for _ in range(2):  # the second time, the parser has an id
            events = list(session.prompt(script({"text": ["a", "b", "c", "d"], "delayMs": 60})))
            assert types(events) == [
                "prompt_received",
                "agent_start",
                "message_start",
                *["message_delta"] * 4,
                "agent_end",
            ]


def check_queued_prompts(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL, tools=["ask_user"]) as session:
        first = session.send_prompt(ASKS)
        second = session.send_prompt("and this")
        assert isinstance(first, PromptResponse)
        assert (first.session_id, first.queued) == (session.session_id, False)
        assert second.queued
        assert first.request_id != second.request_id
        while session.get_info().state != "waiting_input":
            pass
        ref = httpx.get(f"{gateway.url}/v1/sessions/{session.session_id}", headers={"X-API-Key": gateway.key})
        session.respond(ref.json()["pendingQuestions"][0]["ref"], "red")
        while session.get_info().state != "idle":
            pass
        assert [message.content for message in session.get_messages()][-2:] == ["and this", "You said: and this"]


# Approvals and questions


def check_every_form_of_approval_policy(gateway: Gateway) -> None:
    class Only(ApprovalPolicy):
        def decide(self, event: Event) -> bool:
            return event.data["args"]["command"] == "echo from the shell"

    approving = [
        "auto_approve",
        AutoApprove(),
        Only(),
        lambda event: True,
        CallableApproval(lambda event: event.approval_id),
    ]
    rejecting = ["auto_reject", AutoReject(), lambda event: event.data["toolName"] != "shell"]
    with gateway.client() as client, client.session(MODEL, tools=ORIGINAL_TOOLS, plugins=[HUMAN_APPROVAL]) as session:
        for policy in (*approving, *rejecting):
            events = list(session.prompt(SHELL, approval_policy=policy))
            requested, decided = the(events, "approval_required"), the(events, "approval_resolved")
            assert (requested["toolName"], requested["args"]) == ("shell", {"command": "echo from the shell"})
            assert isinstance(requested["hint"], str)
            assert isinstance(requested["requestedAt"], int)
            assert decided["approvalId"] == requested["approvalId"]
            assert events[-1].type == "agent_end"
            if policy in approving:
                assert decided["status"] == "approved"
                ran = the(events, "tool_execution_end")
                assert (ran["toolName"], ran["status"]) == ("shell", "ok")
                assert "from the shell" in ran["result"]
            else:
                assert decided["status"] == "rejected"
                assert "tool_execution_start" not in types(events)


def check_approval_on_the_terminal(gateway: Gateway) -> None:
    answers = iter(["perhaps", "y", "n", ""])
    requested: list[str] = []
    original = builtins.input
    builtins.input = lambda prompt="": requested.append(str(prompt)) or next(answers)
    try:
        with (
            gateway.client() as client,
            client.session(MODEL, tools=ORIGINAL_TOOLS, plugins=[HUMAN_APPROVAL]) as session,
        ):
            statuses = [
                the(list(session.prompt(SHELL, approval_policy=policy)), "approval_resolved")["status"]
                for policy in ("prompt", PromptApproval(), "prompt")
            ]
    finally:
        builtins.input = original
    assert statuses == ["approved", "rejected", "rejected"]
    assert len(requested) == 4


def check_invalid_approval_policies(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL) as session:
        for policy, error in (("maybe", ValueError), (7, TypeError)):
            try:
                list(session.prompt("hello", approval_policy=policy))
            except error:
                continue
            raise AssertionError(f"{policy!r} was accepted")
        assert session.get_stats().prompt_count == 0


def check_explicit_decisions(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL, tools=ORIGINAL_TOOLS, plugins=[HUMAN_APPROVAL]) as session:
        for decide, status in ((session.approve, "approved"), (session.reject, "rejected")):
            events: list[Event] = []
            for event in session.prompt(SHELL):
                events.append(event)
                if event.type == "approval_required":
                    assert session.get_info().state == "waiting_approval"
                    assert event.approval_id
                    decide(event.approval_id)
                    decide(event.approval_id)
            assert the(events, "approval_resolved")["status"] == status
            other = session.reject if status == "approved" else session.approve
            raises(
                CMDCError, 409, lambda other=other, events=events: other(the(events, "approval_required")["approvalId"])
            )
        raises(SessionNotFoundError, 404, lambda: session.approve("never was"))
        raises(SessionNotFoundError, 404, lambda: session.reject("never was"))


async def check_every_form_of_approval_policy_async(gateway: Gateway) -> None:
    async with (
        gateway.client() as client,
        client.asession(MODEL, tools=ORIGINAL_TOOLS, plugins=[HUMAN_APPROVAL]) as session,
    ):
        for policy, status in (
            ("auto_approve", "approved"),
            (AutoReject(), "rejected"),
            (lambda event: True, "approved"),
        ):
            events = await everything(await session.aprompt(SHELL, approval_policy=policy))
            assert the(events, "approval_resolved")["status"] == status


async def check_explicit_decisions_async(gateway: Gateway) -> None:
    async with (
        gateway.client() as client,
        client.asession(MODEL, tools=["shell", "ask_user"], plugins=[HUMAN_APPROVAL]) as session,
    ):
        for decide, status in ((session.approve, "approved"), (session.reject, "rejected")):
            async for event in await session.aprompt(SHELL):
                if event.type == "approval_required":
                    await decide(event.approval_id)
                if event.type == "approval_resolved":
                    assert event.data["status"] == status
        async for event in await session.aprompt(ASKS):
            if event.type == "ask_user":
                await araises(BadRequestError, 400, session.respond(event.ask_ref, "green"))
                await session.respond(event.ask_ref, "blue")
            if event.type == "tool_execution_end":
                assert event.data["result"] == "blue"
        assert event.type == "agent_end"


def check_answers_to_questions(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL, tools=["ask_user"]) as session:
        events: list[Event] = []
        for event in session.prompt(ASKS):
            events.append(event)
            if event.type == "ask_user":
                assert (event.question, event.data["options"]) == ("Which?", ["red", "blue"])
                assert session.get_info().state == "waiting_input"
                raises(BadRequestError, 400, lambda ref=event.ask_ref: session.respond(ref, "green"))
                session.respond(event.ask_ref, "red")
                session.respond(event.ask_ref, "red")
                raises(CMDCError, 409, lambda ref=event.ask_ref: session.respond(ref, "blue"))
        assert the(events, "tool_execution_end")["result"] == "red"
        raises(SessionNotFoundError, 404, lambda: session.respond("never was", "red"))


# Queries


def check_info_stats_and_messages(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL, tools=ORIGINAL_TOOLS, plugins=[HUMAN_APPROVAL]) as session:
        usage = {"promptTokens": 10, "completionTokens": 5}
        prompt = script(
            {"toolCalls": [call("shell", command="echo from the shell")], "usage": usage},
            {"text": ["It ran."], "usage": usage},
        )
        list(session.prompt(prompt, approval_policy="auto_approve"))

        info, stats = session.get_info(), session.get_stats()
        assert (info.state, info.turns, info.tool_calls, info.total_tokens) == ("idle", 2, 1, 30)
        assert (stats.session_id, stats.turns, stats.total_tokens) == (session.session_id, 2, 30)
        assert (stats.prompt_count, stats.cost_usd) == (1, 0)
        assert (stats.token_usage.prompt_tokens, stats.token_usage.completion_tokens) == (20, 10)
        assert stats.token_usage.total_tokens == 30
        messages = session.get_messages()
        assert [message.role for message in messages] == ["user", "assistant", "tool_result", "assistant"]
        assert [(tool_call["name"], tool_call["arguments"]) for tool_call in messages[1].tool_calls] == [
            ("shell", {"command": "echo from the shell"})
        ]
        assert "from the shell" in messages[2].content
        assert messages[3].content == "It ran."


def check_max_turns(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL, tools=["list_dir"], max_turns=2) as session:
        events = list(session.prompt(script(*[{"toolCalls": [call("list_dir")]}] * 3)))
        assert (events[-1].type, events[-1].data["reason"]) == ("agent_abort", "max_turns_exceeded")


def check_stopping_a_session_while_streaming(gateway: Gateway) -> None:
    with gateway.client() as client:
        session = client.create_session(MODEL, tools=["ask_user"])
        events: list[Event] = []
        for event in session.prompt(ASKS):
            events.append(event)
            if event.type == "ask_user":
                session.stop()
        assert (events[-1].type, events[-1].data["reason"]) == ("agent_abort", "session_deleted")


# Local tools


@contextmanager
def tool_server(*tools: LocalTool) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve local tools as the client's documentation shows: the URL, and the received calls."""
    by_name, calls = {tool.name: tool for tool in tools}, []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            calls.append(sent)
            content = json.dumps({"result": by_name[sent["toolName"]].execute(sent["args"])}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - overrides
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tools", calls
        server.shutdown()


def check_local_tools(gateway: Gateway) -> None:
    def fail(args: dict[str, Any]) -> str:
        raise RuntimeError("out of order")

    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    weather = LocalTool("get_weather", "The weather of a city.", schema, lambda args: f"Rain in {args['city']}, 雨")
    broken = LocalTool("broken", "Fails.", {"type": "object"}, fail)
    with (
        tool_server(weather, broken) as (url, calls),
        gateway.client() as client,
        client.session(MODEL) as session,
    ):
        session.register_tool(weather, url)
        session.register_tool(broken, callback_url=url)
        session.register_tool(weather, url)
        steps = [{"toolCalls": [call("get_weather", city="Oslo")]}, {"toolCalls": [call("broken")]}, {"text": ["So."]}]
        events = list(session.prompt(script(*steps)))

        ended = [event.data for event in events if event.type == "tool_execution_end"]
        assert [(end["toolName"], end["status"], end["result"]) for end in ended] == [
            ("get_weather", "ok", "Rain in Oslo, 雨"),
            ("broken", "ok", "[tool_error] out of order"),
        ]
        assert calls[0] == {
            "callId": ended[0]["callId"],
            "toolName": "get_weather",
            "args": {"city": "Oslo"},
            "sessionId": session.session_id,
        }
        rejected = list(session.prompt(script({"toolCalls": [call("get_weather", town="Oslo")]})))
        assert "error" in types(rejected)
        assert len(calls) == 2


def check_invalid_tools(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL) as session:
        good = LocalTool("good", "", {"type": "object"}, lambda args: "")
        raises(SessionCreateError, 422, lambda: session.register_tool(good, "http://169.254.169.254/latest"))
        raises(SessionCreateError, 422, lambda: session.register_tool(good, "not an address"))
        bad_name = LocalTool("no spaces", "", {"type": "object"}, lambda args: "")
        raises(SessionCreateError, 422, lambda: session.register_tool(bad_name, "http://127.0.0.1:9/"))


# WebSocket


def check_a_conversation_on_a_websocket(gateway: Gateway) -> None:
    with (
        gateway.client() as client,
        client.session(MODEL, tools=["shell", "ask_user"], plugins=[HUMAN_APPROVAL]) as session,
    ):
        with session.connect_ws() as ws:
            accepted = ws.send_prompt("hello")
            assert accepted["sessionId"] == session.session_id
            assert accepted["queued"] is False
            assert accepted["requestId"]
            events = list(ws.iter_events())
            assert types(events)[0] == "prompt_received"
            assert "".join(event.delta or "" for event in events) == "You said: hello"

            for decide, name, status in ((ws.approve, "approve", "approved"), (ws.reject, "reject", "rejected")):
                ws.send_prompt(SHELL)
                seen: list[Event] = []
                for event in ws.iter_events():
                    seen.append(event)
                    if event.type == "approval_required":
                        assert decide(event.approval_id) == {
                            "ok": True,
                            "action": name,
                            "approvalId": event.approval_id,
                        }
                assert the(seen, "approval_resolved")["status"] == status
                assert seen[-1].type == "agent_end"

            ws.send_prompt(ASKS)
            seen = []
            for event in ws.iter_events():
                seen.append(event)
                if event.type == "ask_user":
                    assert "options" in ws.respond(event.ask_ref, "green")["message"]
                    assert ws.respond(event.ask_ref, "red") == {"ok": True, "action": "respond", "ref": event.ask_ref}
            assert the(seen, "tool_execution_end")["result"] == "red"

            assert ws.approve("never was")["error"] == "not_found"
            assert ws.send_prompt("")["error"] == "bad_request"
        assert session.get_stats().prompt_count == 4


async def check_a_conversation_on_a_websocket_async(gateway: Gateway) -> None:
    async with (
        gateway.client() as client,
        client.asession(MODEL, tools=["shell", "ask_user"], plugins=[HUMAN_APPROVAL]) as session,
        session.connect_ws() as ws,
    ):
        accepted = await ws.send_prompt("hello")
        assert accepted["sessionId"] == session.session_id
        events = await everything(ws.iter_events())
        assert "".join(event.delta or "" for event in events) == "You said: hello"

        for decide, name in ((ws.approve, "approve"), (ws.reject, "reject")):
            await ws.send_prompt(SHELL)
            async for event in ws.iter_events():
                if event.type == "approval_required":
                    taken = await decide(event.approval_id)
                    assert taken == {"ok": True, "action": name, "approvalId": event.approval_id}
            assert event.type == "agent_end"

        await ws.send_prompt(ASKS)
        async for event in ws.iter_events():
            if event.type == "ask_user":
                taken = await ws.respond(event.ask_ref, "red")
                assert taken == {"ok": True, "action": "respond", "ref": event.ask_ref}
        assert event.type == "agent_end"


def check_50_prompts_on_a_websocket(gateway: Gateway) -> None:
    """The client takes the first frame for the acknowledgement."""
    with gateway.client() as client, client.session(MODEL) as session, session.connect_ws() as ws:
        for number in range(50):
            accepted = ws.send_prompt(f"number {number}")
            if accepted.get("error") == "rate_limited":  # a connection may send 20 messages per second
                threading.Event().wait(1)
                accepted = ws.send_prompt(f"number {number}")
            assert "requestId" in accepted, accepted
            assert "".join(event.delta or "" for event in ws.iter_events()) == f"You said: number {number}"


def check_a_websocket_of_a_deleted_session(gateway: Gateway) -> None:
    with gateway.client() as client:
        session = client.create_session(MODEL)
        with session.connect_ws() as ws:
            session.stop()
            assert list(ws.iter_events()) == []
        for key, status in ((gateway.key, 404), ("wrong", 401)):
            gone = Session(session.session_id, gateway.url, httpx.Client(), {"X-API-Key": key})
            try:
                gone.connect_ws().__enter__()
            except InvalidStatus as rejected:
                got = rejected.response.status_code
            else:
                got = 101
            assert got == status, got


# Errors


def check_every_error_class(gateway: Gateway) -> None:
    with gateway.client() as client, client.session(MODEL, session_id="taken") as session:
        raises(BadRequestError, 400, lambda: session.send_prompt(""))
        raises(BadRequestError, 400, lambda: list(session.prompt("")))
        raises(BadRequestError, 400, lambda: client.create_session(MODEL, session_id="not an id"))
        unknown = raises(SessionCreateError, 422, lambda: client.create_session("nobody:serves-this"))
        assert "nobody:serves-this" in unknown.message
        raises(SessionCreateError, 422, lambda: client.create_session(MODEL, tools=["CMDC.Tool.Nonsense"]))
        raises(SessionCreateError, 422, lambda: client.create_session(MODEL, plugins=["CMDC.Plugin.Nonsense"]))
        raises(SessionCreateError, 422, lambda: client.create_session(MODEL, blueprint="nonsense"))
        raises(SessionCreateError, 422, lambda: client.create_session(MODEL, working_dir="../.."))
        raises(CMDCError, 409, lambda: client.create_session(MODEL, session_id="taken"))
        try:
            client.create_session()
        except ValueError:
            pass
        else:
            raise AssertionError("a session without a model was created")

        session.stop()
        acts = (
            session.get_info,
            session.get_stats,
            session.get_messages,
            session.stop,
            lambda: session.prompt_sync("x"),
        )
        for act in acts:
            gone = raises(SessionNotFoundError, 404, act)
            assert "taken" in gone.message


def check_a_wrong_key(gateway: Gateway) -> None:
    for key in ("wrong", ""):
        with CMDC(gateway.url, key) as client:
            assert client.health().status == "ok"
            raises(AuthError, 401, lambda client=client: client.create_session(MODEL))


async def check_a_wrong_key_async(gateway: Gateway) -> None:
    async with CMDC(gateway.url + "/", "wrong") as client:
        await araises(AuthError, 401, client.create_session_async(MODEL))


def check_the_rate_limit(gateway: Gateway) -> None:
    """The gateway of this check allows 5 requests a minute."""
    with gateway.client() as client:
        session = client.create_session(MODEL)
        for _ in range(4):
            session.get_info()
        limited = raises(RateLimitError, 429, session.get_info)
        assert isinstance(limited, RateLimitError)
        assert limited.retry_after in range(1, 13), limited.retry_after
        assert client.health().status == "ok"


if __name__ == "__main__":
    name, url, key = sys.argv[1:]
    check = globals()[name]
    if inspect.iscoroutinefunction(check):
        asyncio.run(check(Gateway(url, key)))
    else:
        check(Gateway(url, key))
