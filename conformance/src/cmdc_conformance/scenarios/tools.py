"""Callback tools: registering them, what is called and what comes of it, signatures, retries and addresses."""

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

from cmdc_conformance.callbacks import Behaviour, HostedTool, answering, giving
from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, RAW, VIAS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import NotExercised, expect, need, owed
from cmdc_conformance.monitors import Event
from cmdc_conformance.scenarios.runs import names
from cmdc_conformance.serving import Request, Response
from cmdc_conformance.session import Session

_CALL = ("get_weather", {"city": "Oslo"})


def _ended(events: Sequence[Event]) -> dict[str, Any]:
    """The data of the one tool_execution_end."""
    found = [event.data for event in events if event.name == "tool_execution_end"]
    expect(len(found) == 1, f"there is not one tool_execution_end, but {len(found)}: {', '.join(names(events))}")
    return dict(found[0])


async def _called(case: Case, session: Session, behave: Behaviour, **members: Any) -> tuple[HostedTool, list[Event]]:
    """Register a tool that behaves so, and have the model call it once."""
    hosted = await case.register(session, "get_weather", behave, **members)
    return hosted, await session.ran(case.script(reply(calls=[_CALL]), reply("Well.")))


# -- registering ---------------------------------------------------------------------------------------------------------


@check("CB-1.registered", faces=VIAS)
async def a_tool_is_registered(case: Case) -> None:
    """It is 201, with its name."""
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        answer = await session.register(case.tool("get_weather", hosted))
        if answer.status == 422:
            raise NotExercised("the server refuses the suite's tools: its operator has to allow their address")
        body = answer.must_be(201)
        expect(body.get("name") == "get_weather" and body.get("status") == "registered", f"the answer is {body}")


@check("CB-1.fields")
async def fields_of_a_registration(case: Case) -> None:
    """A field too few, too many or of the wrong type is 400."""
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        right = case.tool("get_weather", hosted)
        wrong = [{name: value for name, value in right.items() if name != missing} for missing in right]
        wrong += [
            {**right, "colour": 1},
            {**right, "name": 1},
            {**right, "parameters": "{}"},
            {**right, "timeoutMs": "1"},
        ]
        for body in wrong:
            (await case.http.post(f"{session.path}/tools", body)).must_be(400, code="bad_request", why=f"{body}"[:200])
        (await session.register(right)).needed(201)


@check("CB-1.values")
async def values_of_a_registration(case: Case) -> None:
    """A value that does not hold is 422."""
    async with case.session() as session:
        right = case.tool("get_weather", case.suite.callbacks.host())
        wrong: list[dict[str, Any]] = [
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
        for members in wrong:
            answer = await case.http.post(f"{session.path}/tools", {**right, **members}, secret=True)
            answer.must_be(422, code="registration_failed", why=f"{members}")
        for members in (
            {"name": "x" * 64},
            {"timeoutMs": 1},
            {"timeoutMs": 300_000},
            {"parameters": {"type": "object"}},
        ):
            (await session.register({**right, **members})).needed(201)


@check("CB-1.replaced", faces=RAW)
async def a_tool_is_replaced(case: Case) -> None:
    """The one that was registered last is called."""
    async with case.session() as session:
        first = await case.register(session, behave=giving("old"))
        second, events = await _called(case, session, giving("new"))
        expect(_ended(events).get("result") == "new", f"the result is {_ended(events).get('result')!r}")
        expect(not first.calls and len(second.calls) == 1, "the tool that was replaced is called")


@check("CB-1.running", faces=RAW)
async def a_tool_comes_late(case: Case) -> None:
    """A tool that is registered during a run can be called in its next step."""
    async with case.session() as session:
        then = [reply(calls=[("late", {"city": "Oslo"})]), reply("Well.")]
        async with case.held(session, then=then) as held:
            late = await case.register(session, "late")
            held.release()
            events = await held.run.end()
        expect(len(late.calls) == 1, f"the tool was not called: {', '.join(names(events))}")


@check("CB-1.approval", faces=RAW)
async def a_tool_that_needs_approval(case: Case) -> None:
    """With requiresApproval a call waits; without, it does not."""
    async with case.session() as session:
        free = await case.register(session, "free")
        bound = await case.register(session, "bound", requiresApproval=True)
        calls = [reply(calls=[(name, {"city": "Oslo"})]) for name in ("free", "bound")]
        async with session.run(case.script(*calls)) as run:
            with owed():
                required = await run.until("approval_required")
            expect(required.data["toolName"] == "bound", f"the approval is for {required.data['toolName']}")
            expect(len(free.calls) == 1 and not bound.calls, "the call that waits was made")
            (await session.decide("approve", str(required.data["approvalId"]))).needed(200)
            await run.end()
        expect(len(bound.calls) == 1, "the call was not made after its approval")


# -- listing and removing ---------------------------------------------------------------------------------------------------------------


@check("EP-tools.list")
async def tools_are_listed(case: Case) -> None:
    """A registered tool is listed as it was registered, without its secret."""
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        secret = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"
        case.watch.evidence.add_secret(secret)
        (await session.register(case.tool("get_weather", hosted, secret=secret))).needed(201)
        tools: Any = (await case.http.get(f"{session.path}/tools")).must_be(200).get("tools")
        need(isinstance(tools, list), f"the tools are {tools}")
        expect(len(tools) == 1, f"the tools are {tools}")
        tool: Any = tools[0]
        expect(tool.get("name") == "get_weather" and tool.get("kind") == "callback", f"the tool is {tool}")
        expect(tool.get("callbackUrl") == hosted.url, f"callbackUrl is {tool.get('callbackUrl')!r}")
        expect("secret" not in tool and secret not in str(tool), "a secret is listed")


@check("EP-tools.remove")
async def a_tool_is_removed(case: Case) -> None:
    """A tool that was removed is not called any more."""
    async with case.session() as session:
        hosted = await case.register(session)
        path = f"{session.path}/tools/get_weather"
        body = (await case.http.delete(path)).must_be(200)
        expect(body == {"name": "get_weather", "status": "removed"}, f"the answer is {body}")
        (await case.http.delete(path)).must_be(404, code="not_found")
        await session.ran(case.script(reply(calls=[("get_weather", {"city": "Oslo"})])))
        expect(not hosted.calls, "a tool that was removed is called")


# -- calling -------------------------------------------------------------------------------------------------------------


@check("CB-2.call", faces=EVERY)
async def a_tool_is_called(case: Case) -> None:
    """The call says which, of which session and with what; its result is the tool's."""
    async with case.session() as session:
        hosted, events = await _called(case, session, giving("ä €"))
        with owed():
            request = (await hosted.called(within=case.deadline))[0]
        expect(request.method == "POST", f"the call was a {request.method}")
        expect(
            request.headers.get("content-type", "").startswith("application/json"), "the call is not declared as JSON"
        )
        started = next(event.data for event in events if event.name == "tool_execution_start")
        wanted = {
            "callId": started["callId"],
            "toolName": "get_weather",
            "args": {"city": "Oslo"},
            "sessionId": session.id,
        }
        expect(request.json == wanted, f"the call was {request.json}, and should be {wanted}")
        ended = _ended(events)
        expect(ended.get("status") == "ok" and ended.get("result") == "ä €", f"the call ended with {ended}")


@check("CB-2.result", faces=RAW)
async def results_that_are_no_strings(case: Case) -> None:
    """They are passed on as JSON text."""
    values: tuple[Any, ...] = ({"t": [1, 2.5, None, True]}, [], 7, None, False)
    for value in values:
        async with case.session() as session:
            _, events = await _called(case, session, giving(value))
            result = _ended(events).get("result")
            try:
                same = json.loads(str(result)) == value
            except ValueError:
                same = False
            expect(same, f"the tool gave {value!r}, and the result is {result!r}")


@check("CB-2.error", faces=EVERY)
async def a_tool_says_error(case: Case) -> None:
    """Its text is the result, with status error, and the model is told."""
    async with case.session() as session:
        _, events = await _called(case, session, answering(Response.json({"error": "no such city"})))
        ended = _ended(events)
        expect(ended.get("status") == "error", f"the call ended with {ended}")
        expect("no such city" in str(ended.get("result")), f"the result is {ended.get('result')!r}")
        results = [each for each in await session.history() if each["role"] == "tool_result"]
        expect(results and results[0].get("isError") is True, f"the history has {results}")


@check("CB-2.validated", faces=RAW)
async def arguments_are_validated(case: Case) -> None:
    """What the schema refuses never leaves; what it takes does."""
    async with case.session() as session:
        hosted = await case.register(session)
        for args in ({}, {"city": 1}, {"city": "Oslo", "days": "2"}, {"city": "Oslo", "colour": "red"}):
            await session.ran(case.script(reply(calls=[("get_weather", args)]), reply("Well.")))
            expect(not hosted.calls, f"the tool was called with {args}")
        await session.ran(case.script(reply(calls=[("get_weather", {"city": "Oslo", "days": 2})])))
        expect(len(hosted.calls) == 1, "the tool was not called with arguments that fit")


# -- failing -------------------------------------------------------------------------------------------------------------


def _failed(events: Sequence[Event], what: str) -> None:
    """The call has failed with a sentence, and the run went on."""
    ended = _ended(events)
    expect(ended.get("status") == "error", f"{what}: the call ended with {ended}")
    expect(isinstance(ended.get("result"), str) and ended["result"], f"{what}: the result is no sentence: {ended}")
    expect(events[-1].name == "agent_end", f"{what}: the run ended with {events[-1]}")


@check("CB-3.timeout", faces=RAW)
async def no_answer_in_time(case: Case) -> None:
    """A tool that does not answer within timeoutMs has failed."""
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        hosted.gate = asyncio.Event()
        (await session.register(case.tool("get_weather", hosted, timeoutMs=200))).needed(201)
        try:
            with owed("a tool that does not answer"):
                events = await session.ran(case.script(reply(calls=[_CALL]), reply("Well.")))
        finally:
            hosted.gate.set()
        _failed(events, "no answer within 200 ms")


@check("CB-3.refused", faces=RAW)
async def nobody_listens(case: Case) -> None:
    """A connection that is refused is a failed call."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with case.session() as session:
        await case.register(session)  # says whether the suite may be called at all
        url = f"http://{case.target.callback_host}:{port}/nobody"
        (await session.register(case.tool("get_weather", url, timeoutMs=5000))).needed(201)
        with owed("a tool where nobody listens"):
            events = await session.ran(case.script(reply(calls=[_CALL]), reply("Well.")))
        _failed(events, "nobody listens")


@check("CB-3.status", faces=RAW)
async def other_statuses(case: Case) -> None:
    """Any status but 2xx is a failed call, whatever the body says."""
    for status in (400, 404, 500, 503):
        async with case.session() as session:
            _, events = await _called(case, session, answering(Response.json({"result": "sunny"}, status)))
            _failed(events, f"status {status}")
    async with case.session() as session:
        _, events = await _called(case, session, answering(Response.json({"result": "sunny"}, 201)))
        expect(_ended(events).get("status") == "ok", "a 201 is a success")


@check("CB-3.redirect", faces=RAW)
async def a_redirect(case: Case) -> None:
    """It is not followed."""
    for status in (301, 302, 307, 308):
        async with case.session() as session:
            elsewhere = case.suite.callbacks.host()
            headers = {"Location": elsewhere.url, "Content-Type": "application/json"}
            _, events = await _called(case, session, answering(Response(status, b"{}", headers)))
            expect(not elsewhere.calls, f"a {status} was followed")
            _failed(events, f"a {status}")


@check("CB-3.not-json", faces=RAW)
async def answers_that_are_no_json(case: Case) -> None:
    """What is no JSON, no object, or neither result nor error is a failed call."""
    html = Response(200, b"<h1>sunny</h1>", {"Content-Type": "text/html"})
    plain = Response(200, b"sunny")
    for response in (
        html,
        plain,
        Response(200, b""),
        Response(200, b'["sunny"]'),
        Response(200, b'{"weather": "sunny"}'),
    ):
        async with case.session() as session:
            _, events = await _called(case, session, answering(response))
            _failed(events, f"the answer {response.body!r}")


@check("CB-3.too-long", faces=RAW)
async def an_answer_that_is_too_long(case: Case) -> None:
    """Over 256 KiB is a failed call; half of it is not."""
    async with case.session() as session:
        _, events = await _called(case, session, giving("x" * (256 * 1024 + 1)))
        _failed(events, "an answer over 256 KiB")
    async with case.session() as session:
        _, events = await _called(case, session, giving("x" * (128 * 1024)))
        expect(_ended(events).get("status") == "ok", "an answer of 128 KiB is a success")


# -- signing and trying again --------------------------------------------------------------------------------------------


def signature_holds(secret: str, request: Request) -> bool:
    """Whether a call is signed as in Standard Webhooks with this secret."""
    headers = request.headers
    signed = f"{headers.get('webhook-id')}.{headers.get('webhook-timestamp')}.".encode() + request.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return wanted in headers.get("webhook-signature", "").split()


def _secret() -> str:
    return "whsec_" + base64.b64encode(token_bytes(32)).decode()


@check("CB-4.signature", faces=RAW)
async def calls_are_signed(case: Case) -> None:
    """With the tool's secret, over id, time and body."""
    async with case.session() as session:
        secret = _secret()
        case.watch.evidence.add_secret(secret)
        hosted, events = await _called(case, session, giving("sunny"), secret=secret)
        request = (await hosted.called(within=case.deadline))[0]
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
            expect(name in request.headers, f"the call has no {name}")
        expect(signature_holds(secret, request), "the signature does not hold")
        started = next(event.data for event in events if event.name == "tool_execution_start")
        expect(request.headers["webhook-id"] == started["callId"], "webhook-id is not the callId")
        stamp = request.headers["webhook-timestamp"]
        expect(
            stamp.isdigit() and abs(int(stamp) - time.time()) < 300,
            f"webhook-timestamp is {stamp!r}, not seconds of now",
        )


@check("CB-4.made-secret", faces=VIAS)
async def a_secret_is_made(case: Case) -> None:
    """Without one the answer has one, by which calls are signed; with one it has none."""
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        secret = (await session.register(case.tool("get_weather", hosted))).needed(201).get("secret")
        expect(
            isinstance(secret, str) and str(secret).startswith("whsec_"),
            "the answer has no secret that begins with whsec_",
        )
        size = len(base64.b64decode(str(secret).removeprefix("whsec_")))
        expect(24 <= size <= 64, f"the secret has {size} bytes")
        if case.face.via == "raw":
            await session.ran(case.script(reply(calls=[_CALL])))
            request = (await hosted.called(within=case.deadline))[0]
            expect(signature_holds(str(secret), request), "the call is not signed with the secret that was told")
        given = _secret()
        case.watch.evidence.add_secret(given)
        body = (await session.register(case.tool("other", hosted, secret=given))).needed(201)
        expect(not body.get("secret"), "a secret that was given is told again")


@check("CB-4.bad-secret")
async def secrets_that_are_none(case: Case) -> None:
    """What is no secret is 422."""
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        short, long = (f"whsec_{base64.b64encode(b'x' * size).decode()}" for size in (23, 65))
        for wrong in ("", "secret-without-prefix", "whsec_", "whsec_!!!!not-base64!!!!", short, long):
            answer = await case.http.post(
                f"{session.path}/tools", case.tool("get_weather", hosted, secret=wrong), secret=True
            )
            answer.must_be(422, code="registration_failed", why=f"the secret {wrong[:20]!r}…")
        (await session.register(case.tool("get_weather", hosted, secret=_secret()))).needed(201)


def _failing_first(times: int) -> Behaviour:
    """Answers 503 so often, then `sunny`."""
    left = [times]

    async def behave(_: Request) -> Response:
        left[0] -= 1
        return Response.json({"error": "busy"}, 503) if left[0] >= 0 else Response.json({"result": "sunny"})

    return behave


@check("CB-4.retried", faces=RAW)
async def an_idempotent_tool(case: Case) -> None:
    """Its call is sent again, under the same webhook-id, and at most twice."""
    async with case.session() as session:
        hosted, events = await _called(case, session, _failing_first(1), idempotent=True)
        expect(len(hosted.calls) == 2, f"a call that failed once was sent {len(hosted.calls)} times")
        expect(_ended(events).get("status") == "ok", f"the call ended with {_ended(events)}")
        ids = {request.headers.get("webhook-id") for request in hosted.calls}
        expect(len(ids) == 1, f"the tries have the webhook-ids {ids}")
    async with case.session() as session:
        hosted, events = await _called(case, session, _failing_first(100), idempotent=True)
        expect(2 <= len(hosted.calls) <= 3, f"a call that always fails was sent {len(hosted.calls)} times")
        _failed(events, "a tool that always fails")


@check("CB-4.not-retried", faces=RAW)
async def a_tool_that_is_not_idempotent(case: Case) -> None:
    """Its call is sent once."""
    async with case.session() as session:
        hosted, events = await _called(case, session, _failing_first(1))
        _failed(events, "status 503")
        expect(len(hosted.calls) == 1, f"the call was sent {len(hosted.calls)} times")


# -- addresses -----------------------------------------------------------------------------------------------------------

# Nothing is ever sent to these: they are registered, and never called. Loopback is not among them, for there the suite is.
_INSIDE = (
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
async def addresses_inside(case: Case) -> None:
    """The server's own network is refused at registration, however it is spelled."""
    async with case.session() as session:
        for host in _INSIDE:
            answer = await session.register(case.tool("get_weather", f"http://{host}/x"))
            answer.must_be(422, code="registration_failed", why=f"the address {host}")
        hosted = case.suite.callbacks.host()
        answer = await session.register(case.tool("get_weather", hosted))
        need(answer.status == 201, "the suite's own address is refused too: its operator has to allow it")


@check("CB-5.userinfo")
async def names_in_addresses(case: Case) -> None:
    """A user or a password in an address is refused."""
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        for who in ("user:password@", "user@", ":password@"):
            url = hosted.url.replace("http://", f"http://{who}")
            (await session.register(case.tool("get_weather", url))).must_be(
                422, code="registration_failed", why=f"{who} in the address"
            )
        (await session.register(case.tool("get_weather", hosted))).needed(201)
