"""Callback tools: registration, calls and their results, signatures, retries and addresses."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Sequence
from secrets import token_bytes
from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import ALL_VARIANTS, RAW_AND_SDK, RAW_STREAMS, check
from cmdc_conformance.drivers.callbacks import Behavior, HostedTool, responding_with, returning
from cmdc_conformance.drivers.http_server import Request, Response
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.drivers.session import Session
from cmdc_conformance.findings import NotExercised, expect, fails_if_blocked, require
from cmdc_conformance.wire.event import Event, names

_CALL = ("get_weather", {"city": "Oslo"})


def _call_result(events: Sequence[Event]) -> dict[str, Any]:
    """The data of the only tool_execution_end."""
    found = [event.data for event in events if event.name == "tool_execution_end"]
    expect(len(found) == 1, f"expected one tool_execution_end, found {len(found)}: {', '.join(names(events))}")
    return dict(found[0])


async def _call_once(
    ctx: CheckContext, session: Session, behavior: Behavior, **members: Any
) -> tuple[HostedTool, list[Event]]:
    """Register a tool with this behavior and make the model call it once."""
    hosted = await ctx.register(session, "get_weather", behavior, **members)
    return hosted, await session.run_to_end(ctx.script(reply(calls=[_CALL]), reply("Well.")))


# -- registration ------------------------------------------------------------------------------------------------------


@check("CB-1.registered", variants=RAW_AND_SDK)
async def a_tool_is_registered(ctx: CheckContext) -> None:
    """Registering a tool returns 201 with its name."""
    async with ctx.session() as session:
        hosted = ctx.run_state.callbacks.host()
        response = await session.register(ctx.tool("get_weather", hosted))
        if response.status == 422:
            raise NotExercised("the server rejects the suite's callback URL; its operator has to allow it")
        body = response.expect(201)
        expect(body.get("name") == "get_weather" and body.get("status") == "registered", f"the response is {body}")


@check("CB-1.fields")
async def the_fields_of_a_tool_are_validated(ctx: CheckContext) -> None:
    """A missing, unknown or wrongly typed field returns 400."""
    async with ctx.session() as session:
        hosted = ctx.run_state.callbacks.host()
        valid = ctx.tool("get_weather", hosted)
        invalid = [{name: value for name, value in valid.items() if name != missing} for missing in valid]
        invalid += [
            {**valid, "colour": 1},
            {**valid, "name": 1},
            {**valid, "parameters": "{}"},
            {**valid, "timeoutMs": "1"},
        ]
        for body in invalid:
            (await ctx.http.post(f"{session.path}/tools", body)).expect(400, code="bad_request", why=f"{body}"[:200])
        (await session.register(valid)).require(201)


@check("CB-1.values")
async def the_values_of_a_tool_are_validated(ctx: CheckContext) -> None:
    """An invalid name, schema, URL or timeout returns 422."""
    async with ctx.session() as session:
        valid = ctx.tool("get_weather", ctx.run_state.callbacks.host())
        invalid: list[dict[str, Any]] = [
            *({"name": name} for name in ("", "bad name", "a/b", "ä", "x" * 65)),
            *(
                {"parameters": schema}
                for schema in ({"type": "string"}, {"type": "object", "properties": 5}, {"type": "nonsense"})
            ),
            *(
                {"callbackUrl": url}
                for url in ("not a url", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "//127.0.0.1/x")
            ),
            *({"timeoutMs": ms} for ms in (0, -1, 300_001)),
        ]
        for members in invalid:
            response = await ctx.http.post(f"{session.path}/tools", {**valid, **members}, secret=True)
            response.expect(422, code="registration_failed", why=f"{members}")
        for members in (
            {"name": "x" * 64},
            {"timeoutMs": 1},
            {"timeoutMs": 300_000},
            {"parameters": {"type": "object"}},
        ):
            (await session.register({**valid, **members})).require(201)


@check("CB-1.replaced", variants=RAW_STREAMS)
async def a_tool_is_replaced(ctx: CheckContext) -> None:
    """Of two tools with one name, the one registered last is called."""
    async with ctx.session() as session:
        first = await ctx.register(session, behavior=returning("old"))
        second, events = await _call_once(ctx, session, returning("new"))
        expect(_call_result(events).get("result") == "new", f"the result is {_call_result(events).get('result')!r}")
        expect(not first.calls and len(second.calls) == 1, "the replaced tool was called")


@check("CB-1.running", variants=RAW_STREAMS)
async def a_tool_is_available_in_the_next_step(ctx: CheckContext) -> None:
    """A tool that is registered during a run can be called in the next step."""
    async with ctx.session() as session:
        then = [reply(calls=[("late", {"city": "Oslo"})]), reply("Well.")]
        async with ctx.paused_run(session, then=then) as paused:
            late = await ctx.register(session, "late")
            paused.release()
            events = await paused.run.wait_for_end()
        expect(len(late.calls) == 1, f"the tool was not called: {', '.join(names(events))}")


@check("CB-1.approval", variants=RAW_STREAMS)
async def a_tool_that_needs_approval(ctx: CheckContext) -> None:
    """A call of a tool with requiresApproval waits for approval, and one of another tool does not."""
    async with ctx.session() as session:
        free = await ctx.register(session, "free")
        bound = await ctx.register(session, "bound", requiresApproval=True)
        calls = [reply(calls=[(name, {"city": "Oslo"})]) for name in ("free", "bound")]
        async with session.run(ctx.script(*calls)) as run:
            with fails_if_blocked():
                required = await run.wait_for("approval_required")
            expect(required.data["toolName"] == "bound", f"the approval is for {required.data['toolName']}")
            expect(len(free.calls) == 1 and not bound.calls, "a call was made before its approval")
            (await session.decide("approve", str(required.data["approvalId"]))).require(200)
            await run.wait_for_end()
        expect(len(bound.calls) == 1, "the call was not made after its approval")


# -- listing and removing -----------------------------------------------------------------------------------------------


@check("EP-tools.list")
async def tools_are_listed(ctx: CheckContext) -> None:
    """A registered tool is listed, without its secret."""
    async with ctx.session() as session:
        hosted = ctx.run_state.callbacks.host()
        secret = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"
        ctx.observer.evidence.add_secret(secret)
        (await session.register(ctx.tool("get_weather", hosted, secret=secret))).require(201)
        tools: Any = (await ctx.http.get(f"{session.path}/tools")).expect(200).get("tools")
        require(isinstance(tools, list), f"the tools are {tools}")
        expect(len(tools) == 1, f"the tools are {tools}")
        tool: Any = tools[0]
        expect(tool.get("name") == "get_weather" and tool.get("kind") == "callback", f"the tool is {tool}")
        expect(tool.get("callbackUrl") == hosted.url, f"callbackUrl is {tool.get('callbackUrl')!r}")
        expect("secret" not in tool and secret not in str(tool), "the list contains the secret")


@check("EP-tools.remove")
async def a_tool_is_removed(ctx: CheckContext) -> None:
    """A removed tool is no longer called."""
    async with ctx.session() as session:
        hosted = await ctx.register(session)
        path = f"{session.path}/tools/get_weather"
        body = (await ctx.http.delete(path)).expect(200)
        expect(body == {"name": "get_weather", "status": "removed"}, f"the response is {body}")
        (await ctx.http.delete(path)).expect(404, code="not_found")
        await session.run_to_end(ctx.script(reply(calls=[("get_weather", {"city": "Oslo"})])))
        expect(not hosted.calls, "a removed tool was called")


# -- calls -------------------------------------------------------------------------------------------------------------


@check("CB-2.call", variants=ALL_VARIANTS)
async def a_tool_is_called(ctx: CheckContext) -> None:
    """The request has callId, toolName, args and sessionId, and the tool's result is the call's result."""
    async with ctx.session() as session:
        hosted, events = await _call_once(ctx, session, returning("ä €"))
        with fails_if_blocked():
            request = (await hosted.wait_for_calls(within=ctx.deadline))[0]
        expect(request.method == "POST", f"the method is {request.method}")
        expect(
            request.headers.get("content-type", "").startswith("application/json"),
            "the Content-Type is not application/json",
        )
        started = next(event.data for event in events if event.name == "tool_execution_start")
        wanted = {
            "callId": started["callId"],
            "toolName": "get_weather",
            "args": {"city": "Oslo"},
            "sessionId": session.id,
        }
        expect(request.json == wanted, f"the request is {request.json}, expected {wanted}")
        ended = _call_result(events)
        expect(ended.get("status") == "ok" and ended.get("result") == "ä €", f"the call ended with {ended}")


@check("CB-2.result", variants=RAW_STREAMS)
async def results_are_passed_on_as_json(ctx: CheckContext) -> None:
    """A result that is not a string is passed on as JSON text."""
    values: tuple[Any, ...] = ({"t": [1, 2.5, None, True]}, [], 7, None, False)
    for value in values:
        async with ctx.session() as session:
            _, events = await _call_once(ctx, session, returning(value))
            result = _call_result(events).get("result")
            try:
                same = json.loads(str(result)) == value
            except ValueError:
                same = False
            expect(same, f"the tool returned {value!r}, and the result is {result!r}")


@check("CB-2.error", variants=ALL_VARIANTS)
async def a_tool_returns_an_error(ctx: CheckContext) -> None:
    """An error of the tool is the result of the call, with status error, and is in the history."""
    async with ctx.session() as session:
        _, events = await _call_once(ctx, session, responding_with(Response.json({"error": "no such city"})))
        ended = _call_result(events)
        expect(ended.get("status") == "error", f"the call ended with {ended}")
        expect("no such city" in str(ended.get("result")), f"the result is {ended.get('result')!r}")
        results = [each for each in await session.history() if each["role"] == "tool_result"]
        expect(results and results[0].get("isError") is True, f"the history has the results {results}")


@check("CB-2.validated", variants=RAW_STREAMS)
async def arguments_are_validated(ctx: CheckContext) -> None:
    """Arguments that violate the schema are not sent to the tool; valid ones are."""
    async with ctx.session() as session:
        hosted = await ctx.register(session)
        for args in ({}, {"city": 1}, {"city": "Oslo", "days": "2"}, {"city": "Oslo", "colour": "red"}):
            await session.run_to_end(ctx.script(reply(calls=[("get_weather", args)]), reply("Well.")))
            expect(not hosted.calls, f"the tool was called with {args}")
        await session.run_to_end(ctx.script(reply(calls=[("get_weather", {"city": "Oslo", "days": 2})])))
        expect(len(hosted.calls) == 1, "the tool was not called with valid arguments")


# -- failures ----------------------------------------------------------------------------------------------------------


def _expect_failed_call(events: Sequence[Event], what: str) -> None:
    """Expect that the call failed with a message and the run continued."""
    ended = _call_result(events)
    expect(ended.get("status") == "error", f"{what}: the call ended with {ended}")
    expect(isinstance(ended.get("result"), str) and ended["result"], f"{what}: the result is not a message: {ended}")
    expect(events[-1].name == "agent_end", f"{what}: the run ended with {events[-1]}")


@check("CB-3.timeout", variants=RAW_STREAMS)
async def a_slow_tool_times_out(ctx: CheckContext) -> None:
    """A call that takes longer than timeoutMs fails."""
    async with ctx.session() as session:
        hosted = ctx.run_state.callbacks.host()
        hosted.gate = asyncio.Event()
        (await session.register(ctx.tool("get_weather", hosted, timeoutMs=200))).require(201)
        try:
            with fails_if_blocked("a tool that does not respond"):
                events = await session.run_to_end(ctx.script(reply(calls=[_CALL]), reply("Well.")))
        finally:
            hosted.gate.set()
        _expect_failed_call(events, "no response within 200 ms")


@check("CB-3.refused", variants=RAW_STREAMS)
async def a_refused_connection_fails_the_call(ctx: CheckContext) -> None:
    """A call whose connection is refused fails."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with ctx.session() as session:
        await ctx.register(session)  # raises NotExercised if the server may not call the suite
        url = f"http://{ctx.target.callback_host}:{port}/closed"
        (await session.register(ctx.tool("get_weather", url, timeoutMs=5000))).require(201)
        with fails_if_blocked("a tool on a closed port"):
            events = await session.run_to_end(ctx.script(reply(calls=[_CALL]), reply("Well.")))
        _expect_failed_call(events, "connection refused")


@check("CB-3.status", variants=RAW_STREAMS)
async def an_error_status_fails_the_call(ctx: CheckContext) -> None:
    """A call whose response is not 2xx fails, whatever the body."""
    for status in (400, 404, 500, 503):
        async with ctx.session() as session:
            _, events = await _call_once(ctx, session, responding_with(Response.json({"result": "sunny"}, status)))
            _expect_failed_call(events, f"status {status}")
    async with ctx.session() as session:
        _, events = await _call_once(ctx, session, responding_with(Response.json({"result": "sunny"}, 201)))
        expect(_call_result(events).get("status") == "ok", "a call with status 201 did not succeed")


@check("CB-3.redirect", variants=RAW_STREAMS)
async def a_redirect_is_not_followed(ctx: CheckContext) -> None:
    """A redirect is not followed, and the call fails."""
    for status in (301, 302, 307, 308):
        async with ctx.session() as session:
            elsewhere = ctx.run_state.callbacks.host()
            headers = {"Location": elsewhere.url, "Content-Type": "application/json"}
            _, events = await _call_once(ctx, session, responding_with(Response(status, b"{}", headers)))
            expect(not elsewhere.calls, f"a {status} was followed")
            _expect_failed_call(events, f"a {status}")


@check("CB-3.not-json", variants=RAW_STREAMS)
async def an_invalid_response_fails_the_call(ctx: CheckContext) -> None:
    """A call fails if its response is not a JSON object with result or error."""
    html = Response(200, b"<h1>sunny</h1>", {"Content-Type": "text/html"})
    plain = Response(200, b"sunny")
    for response in (
        html,
        plain,
        Response(200, b""),
        Response(200, b'["sunny"]'),
        Response(200, b'{"weather": "sunny"}'),
    ):
        async with ctx.session() as session:
            _, events = await _call_once(ctx, session, responding_with(response))
            _expect_failed_call(events, f"the response {response.body!r}")


@check("CB-3.too-long", variants=RAW_STREAMS)
async def a_long_response_fails_the_call(ctx: CheckContext) -> None:
    """A call whose response is over 256 KiB fails; one with 128 KiB succeeds."""
    async with ctx.session() as session:
        _, events = await _call_once(ctx, session, returning("x" * (256 * 1024 + 1)))
        _expect_failed_call(events, "a response over 256 KiB")
    async with ctx.session() as session:
        _, events = await _call_once(ctx, session, returning("x" * (128 * 1024)))
        expect(_call_result(events).get("status") == "ok", "a call with a response of 128 KiB did not succeed")


# -- signatures and retries --------------------------------------------------------------------------------------------


def signature_holds(secret: str, request: Request) -> bool:
    """Whether a call has a valid Standard Webhooks signature for this secret."""
    headers = request.headers
    signed = f"{headers.get('webhook-id')}.{headers.get('webhook-timestamp')}.".encode() + request.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return wanted in headers.get("webhook-signature", "").split()


def _secret() -> str:
    return "whsec_" + base64.b64encode(token_bytes(32)).decode()


@check("CB-4.signature", variants=RAW_STREAMS)
async def calls_are_signed(ctx: CheckContext) -> None:
    """Calls are signed with the tool's secret, over id, timestamp and body."""
    async with ctx.session() as session:
        secret = _secret()
        ctx.observer.evidence.add_secret(secret)
        hosted, events = await _call_once(ctx, session, returning("sunny"), secret=secret)
        request = (await hosted.wait_for_calls(within=ctx.deadline))[0]
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
            expect(name in request.headers, f"the request has no {name}")
        expect(signature_holds(secret, request), "the signature is invalid")
        started = next(event.data for event in events if event.name == "tool_execution_start")
        expect(request.headers["webhook-id"] == started["callId"], "webhook-id is not the callId")
        stamp = request.headers["webhook-timestamp"]
        expect(
            stamp.isdigit() and abs(int(stamp) - time.time()) < 300,
            f"webhook-timestamp is {stamp!r}, not the current time in seconds",
        )


@check("CB-4.made-secret", variants=RAW_AND_SDK)
async def a_secret_is_generated(ctx: CheckContext) -> None:
    """Without a secret, the server generates and returns one that calls are signed with. It never returns a given one."""
    async with ctx.session() as session:
        hosted = ctx.run_state.callbacks.host()
        secret = (await session.register(ctx.tool("get_weather", hosted))).require(201).get("secret")
        expect(
            isinstance(secret, str) and str(secret).startswith("whsec_"),
            "the response has no secret that begins with whsec_",
        )
        size = len(base64.b64decode(str(secret).removeprefix("whsec_")))
        expect(24 <= size <= 64, f"the secret has {size} bytes")
        if ctx.variant.via == "raw":
            await session.run_to_end(ctx.script(reply(calls=[_CALL])))
            request = (await hosted.wait_for_calls(within=ctx.deadline))[0]
            expect(signature_holds(str(secret), request), "the call is not signed with the generated secret")
        own = _secret()
        ctx.observer.evidence.add_secret(own)
        body = (await session.register(ctx.tool("other", hosted, secret=own))).require(201)
        expect(not body.get("secret"), "the server returned a secret that the request had set")


@check("CB-4.bad-secret")
async def invalid_secrets_are_rejected(ctx: CheckContext) -> None:
    """An invalid secret returns 422."""
    async with ctx.session() as session:
        hosted = ctx.run_state.callbacks.host()
        short, long = (f"whsec_{base64.b64encode(b'x' * size).decode()}" for size in (23, 65))
        for invalid in ("", "secret-without-prefix", "whsec_", "whsec_!!!!not-base64!!!!", short, long):
            response = await ctx.http.post(
                f"{session.path}/tools", ctx.tool("get_weather", hosted, secret=invalid), secret=True
            )
            response.expect(422, code="registration_failed", why=f"the secret {invalid[:20]!r}…")
        (await session.register(ctx.tool("get_weather", hosted, secret=_secret()))).require(201)


def _failing(times: int) -> Behavior:
    """Respond with 503 this many times, then with `sunny`."""
    remaining = [times]

    async def behavior(_: Request) -> Response:
        remaining[0] -= 1
        return Response.json({"error": "busy"}, 503) if remaining[0] >= 0 else Response.json({"result": "sunny"})

    return behavior


@check("CB-4.retried", variants=RAW_STREAMS)
async def an_idempotent_call_is_retried(ctx: CheckContext) -> None:
    """A failed call of an idempotent tool is retried with the same webhook-id, at most twice."""
    async with ctx.session() as session:
        hosted, events = await _call_once(ctx, session, _failing(1), idempotent=True)
        expect(len(hosted.calls) == 2, f"a call that failed once was sent {len(hosted.calls)} times")
        expect(_call_result(events).get("status") == "ok", f"the call ended with {_call_result(events)}")
        ids = {request.headers.get("webhook-id") for request in hosted.calls}
        expect(len(ids) == 1, f"the attempts have the webhook-ids {ids}")
    async with ctx.session() as session:
        hosted, events = await _call_once(ctx, session, _failing(100), idempotent=True)
        expect(2 <= len(hosted.calls) <= 3, f"a call that always fails was sent {len(hosted.calls)} times")
        _expect_failed_call(events, "a tool that always fails")


@check("CB-4.not-retried", variants=RAW_STREAMS)
async def other_calls_are_not_retried(ctx: CheckContext) -> None:
    """A failed call of a tool that is not idempotent is sent once."""
    async with ctx.session() as session:
        hosted, events = await _call_once(ctx, session, _failing(1))
        _expect_failed_call(events, "status 503")
        expect(len(hosted.calls) == 1, f"the call was sent {len(hosted.calls)} times")


# -- addresses -----------------------------------------------------------------------------------------------------------

# These addresses are registered and never called. Loopback is missing, because the suite itself is there.
_INTERNAL = (
    *(
        "10.0.0.1",
        "10.255.255.254",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104 - nothing is bound to it
        "224.0.0.1",
    ),
    *(
        "255.255.255.255",
        "10.1",
        "0x0a000001",
        "167772161",
        "012.0.0.1",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00::1]",
        "[ff02::1]",
    ),
    *("[::ffff:10.0.0.1]", "[::ffff:0a00:0001]", "[64:ff9b::a00:1]", "[2002:a00:1::1]", "[::]", "[::10.0.0.1]"),
)


@check("CB-5.literal")
async def internal_addresses_are_rejected(ctx: CheckContext) -> None:
    """Addresses of internal networks are rejected at registration, in any notation."""
    async with ctx.session() as session:
        for host in _INTERNAL:
            response = await session.register(ctx.tool("get_weather", f"http://{host}/x"))
            response.expect(422, code="registration_failed", why=f"the address {host}")
        hosted = ctx.run_state.callbacks.host()
        response = await session.register(ctx.tool("get_weather", hosted))
        require(response.status == 201, "the server rejects the suite's own address too; its operator has to allow it")


@check("CB-5.userinfo")
async def credentials_in_urls_are_rejected(ctx: CheckContext) -> None:
    """A callback URL with a user name or password is rejected."""
    async with ctx.session() as session:
        hosted = ctx.run_state.callbacks.host()
        for who in ("user:password@", "user@", ":password@"):
            url = hosted.url.replace("http://", f"http://{who}")
            (await session.register(ctx.tool("get_weather", url))).expect(
                422, code="registration_failed", why=f"{who} in the URL"
            )
        (await session.register(ctx.tool("get_weather", hosted))).require(201)
