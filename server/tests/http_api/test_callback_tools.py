"""Callback tools: EP-tools, CB-1 to CB-5."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import ReceivedEvent
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver
from standardwebhooks import Webhook

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": PARAMETERS,
    "callbackUrl": "http://127.0.0.1:9/",
}
ASK = calling(("get_weather", {"city": "Tromsø"}))


@pytest.fixture
def served(shared: InProcessGateway) -> InProcessGateway:
    return shared


async def register(talk: Conversation, receiver: Receiver, **more: Any) -> dict[str, Any]:
    answer = await talk.post("tools", {**TOOL, "callbackUrl": receiver.url, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def tools(talk: Conversation) -> list[dict[str, Any]]:
    return (await talk.get("/tools")).json()["tools"]


def results(run: list[ReceivedEvent]) -> list[tuple[str, str]]:
    return [(seen.data["status"], seen.data["result"]) for seen in run if seen.name == "tool_execution_end"]


# -- CB-1, EP-tools


async def test_a_registered_tool_is_listed_without_its_secret(client: httpx.AsyncClient) -> None:
    """EP-tools, CB-1: with its defaults; a generated secret is returned once."""
    talk = await Conversation.begin(client, tools=["glob"])

    made = await talk.post("tools", TOOL)
    given = await talk.post(
        "tools", {**TOOL, "name": "mine", "secret": SECRET, "timeoutMs": 300_000, "idempotent": True}
    )

    secret = made.json()["secret"]
    assert (made.status_code, made.json()) == (
        201,
        {"name": "get_weather", "status": "registered", "secret": secret},
    )
    assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"))) <= 64
    assert (given.status_code, given.json()) == (201, {"name": "mine", "status": "registered"})
    listed = await talk.get("/tools")
    [builtin, *callbacks] = listed.json()["tools"]
    entry = {**TOOL, "kind": "callback", "timeoutMs": 30_000, "requiresApproval": False, "idempotent": False}
    assert callbacks == [entry, {**entry, "name": "mine", "timeoutMs": 300_000, "idempotent": True}]
    assert set(builtin) == {"name", "kind", "description", "parameters", "requiresApproval", "idempotent"}
    assert (builtin["name"], builtin["kind"], builtin["parameters"]["type"]) == ("glob", "builtin", "object")
    assert "whsec_" not in listed.text


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("name", "", "is invalid; it must be 1 to 64 letters, digits, _ or -"),
        ("name", "x" * 65, "is invalid; it must be 1 to 64 letters, digits, _ or -"),
        ("name", "get weather", "name: 'get weather' is invalid; it must be 1 to 64 letters, digits, _ or -"),
        ("name", "wetter\n", "is invalid; it must be 1 to 64 letters, digits, _ or -"),
        ("name", "glob", "'glob' is a built-in tool of this session; choose another name"),
        ("name", "ask_user", "'ask_user' is a built-in tool of this session; choose another name"),
        ("timeoutMs", 0, "timeoutMs: 0 is out of range; it must be from 1 to 300000"),
        ("timeoutMs", 300_001, "is out of range; it must be from 1 to 300000"),
        ("parameters", {}, 'parameters: the schema must have "type": "object"'),
        ("parameters", {"type": "array"}, "parameters: the schema must have"),
        ("parameters", {"type": "object", "properties": 1}, "parameters: not a valid JSON Schema"),
        ("parameters", {"type": "object", "$ref": "https://example.com/s.json"}, "does not resolve within this schema"),
        ("secret", "", "secret: it must be whsec_ and the base64 of 24 to 64 bytes"),
        ("secret", "whsec_" + base64.b64encode(bytes(23)).decode(), "secret: it must be whsec_"),
        ("secret", "whsec_" + base64.b64encode(bytes(65)).decode(), "secret: it must be whsec_"),
        ("secret", base64.b64encode(bytes(32)).decode(), "secret: it must be whsec_"),
        ("secret", "whsec_!", "secret: it must be whsec_"),
        ("callbackUrl", "", "callbackUrl: it must begin with http:// or https://"),
        ("callbackUrl", "ftp://127.0.0.1/", "callbackUrl: it must begin with http:// or https://"),
        ("callbackUrl", "http://", "callbackUrl: its host is missing"),
        ("callbackUrl", "http://user:pw@127.0.0.1/", "callbackUrl: it must not have a user name or password"),
        (
            "callbackUrl",
            "http://10.0.0.1/",
            "callbackUrl: 10.0.0.1 is not a public address; the operator can allow it with GATEWAY_CALLBACK_ALLOW",
        ),
        ("callbackUrl", "http://169.254.169.254/latest", "callbackUrl: 169.254.169.254 is not a public address"),
        ("callbackUrl", "http://[::ffff:127.0.0.1]/", "is not a public address"),
        ("callbackUrl", "http://[64:ff9b::7f00:1]/", "is not a public address"),
        ("callbackUrl", "http://[fe80::1]/", "is not a public address"),
        ("callbackUrl", "http://0x0a000001/", "is not a public address"),
    ],
)
async def test_an_invalid_registration_is_rejected(
    client: httpx.AsyncClient, field: str, value: Any, sentence: str
) -> None:
    """CB-1, CB-5: 422 `registration_failed`, without the secret, and nothing is registered."""
    talk = await Conversation.begin(client, tools=["glob"])

    answer = await talk.post("tools", {**TOOL, field: value})

    assert (answer.status_code, answer.json()["error"]) == (422, "registration_failed")
    assert sentence in answer.json()["message"]
    assert field != "secret" or not value or value not in answer.text
    assert [tool["name"] for tool in await tools(talk)] == ["glob"]


async def test_loopback_is_forbidden_unless_the_operator_allows_it(tmp_path: Path) -> None:
    """CB-5."""
    async with in_process_gateway(tmp_path, callback_allow=[]) as served, served.client() as client:
        talk = await Conversation.begin(client)
        literal = await talk.post("tools", TOOL)
        async with Receiver() as receiver:
            by_name = f"http://localhost:{receiver.port}/"
            await register(talk, receiver, callbackUrl=by_name)
            run = await talk.run(script(ASK))

    assert literal.status_code == 422
    [(status, sentence)] = results(run)
    assert status == "error"
    assert "localhost" in sentence
    assert receiver.calls == []


async def test_the_same_name_again_replaces_the_tool(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """CB-1."""
    talk = await Conversation.begin(client)
    await talk.post("tools", TOOL)

    await register(talk, receiver, description="Better.")

    assert [(tool["name"], tool["description"]) for tool in await tools(talk)] == [("get_weather", "Better.")]
    assert results(await talk.run(script(ASK))) == [("ok", "done")]


async def test_a_deleted_tool_is_gone(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """EP-tools: the model can still call it, and gets an error."""
    talk = await Conversation.begin(client, tools=["glob"])
    await register(talk, receiver)

    removed = await client.delete(f"{talk.path}/tools/get_weather")
    again = await client.delete(f"{talk.path}/tools/get_weather")
    builtin = await client.delete(f"{talk.path}/tools/glob")
    run = await talk.run(script(ASK))

    assert (removed.status_code, removed.json()) == (200, {"name": "get_weather", "status": "removed"})
    assert [(answer.status_code, answer.json()["message"]) for answer in (again, builtin)] == [
        (404, "no callback tool 'get_weather' in this session"),
        (404, "no callback tool 'glob' in this session"),
    ]
    assert [seen.data["reason"] for seen in run if seen.name == "error"] == ["this session has no tool 'get_weather'"]
    assert results(run) == []
    assert receiver.calls == []


async def test_a_tool_registered_during_a_run_is_available_from_the_next_step(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """CB-1."""
    talk = await Conversation.begin(client, tools=["ask_user"])
    request_id = await talk.prompt(script(calling(("ask_user", {"question": "?"})), ASK))
    question = await talk.first("ask_user")

    await register(talk, receiver)
    await talk.post("respond", {"ref": question["ref"], "response": "go on"})

    assert results(await talk.events(request_id)) == [("ok", "go on"), ("ok", "done")]


async def test_tools_survive_a_restart_with_their_secret(tmp_path: Path, receiver: Receiver) -> None:
    """CB-1, CB-4."""
    address = f"sqlite:///{tmp_path / 'store.db'}"
    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk = await Conversation.begin(client, sessionId="s")
        secret = (await register(talk, receiver))["secret"]
        before = await tools(talk)

    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk = Conversation(client, "s")
        after = await tools(talk)
        await talk.run(script(ASK))

    assert after == before
    [call] = receiver.calls
    Webhook(secret).verify(call.raw, call.headers)


# -- CB-2


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"result": "−5 °C"}, ("ok", "−5 °C")),
        ({"result": ""}, ("ok", "")),
        ({"result": {"celsius": -5, "sky": ["clear"]}}, ("ok", '{"celsius":-5,"sky":["clear"]}')),
        ({"result": None}, ("ok", "null")),
        ({"result": 5.5, "unit": "C"}, ("ok", "5.5")),
        ({"error": "no such city"}, ("error", "no such city")),
    ],
)
async def test_a_call_is_a_post_and_its_response_becomes_the_result(
    client: httpx.AsyncClient, receiver: Receiver, answer: dict[str, Any], result: tuple[str, str]
) -> None:
    """CB-2: in the event and in the history."""
    talk = await Conversation.begin(client)
    await register(talk, receiver)
    receiver.answer = json.dumps(answer).encode()

    run = await talk.run(script(ASK, {"text": ["Thanks."]}))

    [start] = [seen.data for seen in run if seen.name == "tool_execution_start"]
    [call] = receiver.calls
    assert call.line == "POST /tool HTTP/1.1"
    assert call.headers["content-type"] == "application/json"
    assert call.body == {
        "callId": start["callId"],
        "toolName": "get_weather",
        "args": {"city": "Tromsø"},
        "sessionId": talk.id,
    }
    assert results(run) == [result]
    told = (await talk.messages())[2]
    assert (told["content"], told["isError"]) == (result[1], result[0] == "error")
    assert run[-1].data["lastMessage"]["content"] == "Thanks."


@pytest.mark.parametrize("args", [{}, {"city": 5}, {"town": "Oslo"}])
async def test_invalid_arguments_are_never_sent(
    client: httpx.AsyncClient, receiver: Receiver, args: dict[str, Any]
) -> None:
    """CB-2, EVT-1: the model gets the validation error and can try again."""
    talk = await Conversation.begin(client)
    await register(talk, receiver)

    run = await talk.run(script(calling(("get_weather", args)), ASK))

    [flaw] = [seen.data["reason"] for seen in run if seen.name == "error"]
    assert flaw.startswith("the arguments of 'get_weather' do not match its schema: ")
    assert (await talk.messages())[2]["content"] == flaw
    assert [call.body["args"] for call in receiver.calls] == [{"city": "Tromsø"}]
    assert run[-1].name == "agent_end"


async def test_calls_of_one_step_run_in_parallel(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """CB-2, EVT-1."""
    talk = await Conversation.begin(client)
    await register(talk, receiver)
    receiver.released.clear()
    cities = ("Oslo", "Bergen", "Tromsø")
    request_id = await talk.prompt(script(calling(*(("get_weather", {"city": city}) for city in cities))))

    called = {call.body["args"]["city"] for call in await receiver.wait_for_calls(3)}
    receiver.released.set()

    assert called == {*cities}
    assert results(await talk.events(request_id)) == [("ok", "done")] * 3


# -- CB-3


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (("404 Not Found", "", b""), "returned status 404"),
        (("500 Oops", "", b'{"result": "x"}'), "returned status 500"),
        (
            ("302 Found", "Location: http://127.0.0.1:9/\r\n", b""),
            "returned a redirect (302), which is not followed",
        ),
        (("200 OK", "", b"<html>"), "its response is not JSON"),
        (("200 OK", "", b""), "its response is not JSON"),
        (("200 OK", "", b'{"result": NaN}'), "its response is not JSON"),
        (("200 OK", "", b'"done"'), 'its response must be a JSON object with either "result" or "error"'),
        (("200 OK", "", b'{"error": 5}'), 'its response must be a JSON object with either "result" or "error"'),
        (("200 OK", "", b'{"result": "%b"}' % (b"x" * 262_144)), "sent a response of more than 262144 bytes"),
    ],
)
async def test_a_bad_response_is_an_error_of_the_call_and_the_run_continues(
    client: httpx.AsyncClient, receiver: Receiver, sent: tuple[str, str, bytes], sentence: str
) -> None:
    """CB-3."""
    talk = await Conversation.begin(client)
    await register(talk, receiver)
    receiver.status, receiver.headers, receiver.answer = sent

    run = await talk.run(script(ASK, {"text": ["Pity."]}))

    [(ended, result)] = results(run)
    assert ended == "error"
    assert result.startswith("the tool 'get_weather' failed: ")
    assert sentence in result
    assert run[-1].data["lastMessage"]["content"] == "Pity."
    assert len(receiver.calls) == 1


async def test_a_call_that_takes_too_long_times_out(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """CB-3."""
    talk = await Conversation.begin(client)
    await register(talk, receiver, timeoutMs=50)
    receiver.released.clear()

    run = await talk.run(script(ASK))

    assert results(run) == [("error", "the tool 'get_weather' failed: it did not respond within 50 ms")]
    assert run[-1].name == "agent_end"


async def test_an_unreachable_tool_is_an_error_of_the_call(client: httpx.AsyncClient) -> None:
    """CB-3."""
    async with Receiver() as gone:
        pass
    talk = await Conversation.begin(client)
    await register(talk, gone)

    [(status, result)] = results(await talk.run(script(ASK)))

    assert status == "error"
    assert f"http://127.0.0.1:{gone.port}: " in result


async def test_an_error_does_not_contain_the_secret_parts_of_the_url(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """CB-3, HTTP-2."""
    receiver.status = "403 Forbidden"
    talk = await Conversation.begin(client)
    await register(talk, receiver, callbackUrl=f"{receiver.url}/hush?token=hush")

    run = await talk.run(script(ASK))

    assert receiver.calls[0].line == "POST /tool/hush?token=hush HTTP/1.1"
    assert "hush" not in str([seen.data for seen in run])


# -- CB-4


@pytest.mark.parametrize("given", [SECRET, None])
async def test_a_call_is_signed_as_in_standard_webhooks(
    client: httpx.AsyncClient, receiver: Receiver, given: str | None
) -> None:
    """CB-4: with the tool's secret, chosen or generated."""
    talk = await Conversation.begin(client)
    registered = await register(talk, receiver, **({"secret": given} if given else {}))

    run = await talk.run(script(ASK))

    [start] = [seen.data for seen in run if seen.name == "tool_execution_start"]
    [call] = receiver.calls
    assert Webhook(given or registered["secret"]).verify(call.raw, call.headers) == call.body
    assert call.headers["webhook-id"] == start["callId"]


async def test_an_idempotent_tool_is_retried_after_a_failure(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """CB-4: with the same id and body and a new signature; readers see one call."""
    talk = await Conversation.begin(client)
    secret = (await register(talk, receiver, idempotent=True))["secret"]
    receiver.answers = [("503 Busy", b""), ("500 Oops", b"")]

    run = await talk.run(script(ASK))

    assert results(run) == [("ok", "done")]
    assert names(run).count("tool_execution_start") == 1
    assert len(receiver.calls) == 3
    assert len({(call.headers["webhook-id"], call.raw) for call in receiver.calls}) == 1
    for call in receiver.calls:
        Webhook(secret).verify(call.raw, call.headers)


async def test_any_other_tool_is_called_once(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """CB-4: the tool may have executed the call."""
    talk = await Conversation.begin(client)
    await register(talk, receiver)
    receiver.answers = [("503 Busy", b"")]

    run = await talk.run(script(ASK))

    assert [status for status, _ in results(run)] == ["error"]
    assert len(receiver.calls) == 1
