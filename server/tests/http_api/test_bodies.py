"""Validation of requests: HTTP-1 to HTTP-5."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cmdc_gateway.protocol.strict import parse_object
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.gateways import KEY, InProcessGateway, in_process_gateway

# What is refused leaves nothing behind, so one gateway does for the module.
pytestmark = pytest.mark.asyncio(loop_scope="module")

MEBIBYTE = 1_048_576
TOOL = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": "http://127.0.0.1:9/"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(shared: InProcessGateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with one unused session, `s`."""
    async with shared.client() as client:
        await Conversation.begin(client, sessionId="s")
        yield client


async def sessions(client: httpx.AsyncClient) -> list[str]:
    return [session["sessionId"] for session in (await client.get("/v1/sessions")).json()["sessions"]]


async def send_raw(client: httpx.AsyncClient, raw: bytes, content_type: str = "application/json") -> httpx.Response:
    return await client.post("/v1/sessions", content=raw, headers={"Content-Type": content_type})


def refusal(answer: httpx.Response) -> tuple[int, dict[str, Any]]:
    return answer.status_code, answer.json()


# -- HTTP-1, HTTP-2


async def test_responses_are_json_objects_in_utf_8(client: httpx.AsyncClient) -> None:
    """HTTP-1."""
    answer = await client.post("/v1/sessions", json={"model": "scripted:x", "metadata": {"city": "Tromsø"}})
    shown = await client.get(f"/v1/sessions/{answer.json()['sessionId']}")

    assert shown.headers["content-type"] == "application/json"
    assert '"Tromsø"'.encode() in shown.content


async def test_an_invalid_body_is_reported_field_by_field(client: httpx.AsyncClient) -> None:
    """HTTP-2, HTTP-3: the error names each invalid field, in the message and in `details`."""
    answer = await client.post(
        "/v1/sessions", json={"model": 1, "maxTurns": 0, "metadata": {"a": 1}, "tools": ["grep", 2], "colour": "red"}
    )

    assert refusal(answer) == (
        400,
        {
            "error": "bad_request",
            "message": "model: should be a valid string; tools[1]: should be a valid string; "
            "maxTurns: should be greater than or equal to 1; metadata.a: should be a valid string; "
            "colour: unknown field",
            "details": [
                {"path": "model", "message": "should be a valid string"},
                {"path": "tools[1]", "message": "should be a valid string"},
                {"path": "maxTurns", "message": "should be greater than or equal to 1"},
                {"path": "metadata.a", "message": "should be a valid string"},
                {"path": "colour", "message": "unknown field"},
            ],
        },
    )


async def test_an_error_does_not_repeat_the_body(client: httpx.AsyncClient) -> None:
    """HTTP-2: no echo of a secret."""
    answer = await client.post("/v1/sessions/s/tools", json={**TOOL, "secret": ["whsec_hush"]})

    assert answer.status_code == 400
    assert "hush" not in answer.text


# -- HTTP-3

WRONG_TYPES: list[tuple[str, dict[str, Any], str]] = [
    ("sessions", {"model": "scripted:x", "maxTurns": "5"}, "maxTurns"),
    ("sessions", {"model": "scripted:x", "maxTurns": True}, "maxTurns"),
    ("sessions", {"model": "scripted:x", "maxTurns": 5.0}, "maxTurns"),
    ("sessions", {"model": "scripted:x", "maxTurns": None}, "maxTurns"),
    ("sessions", {"model": "scripted:x", "maxTurns": 1001}, "maxTurns"),
    ("sessions", {"model": "scripted:x", "maxTokens": 0}, "maxTokens"),
    ("sessions", {"model": "scripted:x", "tools": "grep"}, "tools"),
    ("sessions", {"model": "scripted:x", "plugins": {}}, "plugins"),
    ("sessions", {"model": "scripted:x", "skillsDirs": [None]}, "skillsDirs[0]"),
    ("sessions", {"model": "scripted:x", "providerOpts": []}, "providerOpts"),
    ("sessions", {"model": "scripted:x", "providerOpts": {"temperature": "hot"}}, "providerOpts.temperature"),
    ("sessions", {"model": "scripted:x", "metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ("sessions", {"model": "scripted:x", "budget": {"maxTokens": 0}}, "budget.maxTokens"),
    ("sessions", {"model": "scripted:x", "budget": {"maxCostUsd": -1}}, "budget.maxCostUsd"),
    ("sessions", {"model": "scripted:x", "budget": {"tokens": 1}}, "budget.tokens"),
    ("sessions", {"model": "scripted:x", "approval": {"tools": "*"}}, "approval.tools"),
    ("sessions", {"model": "scripted:x", "approval": {"timeoutMs": -1}}, "approval.timeoutMs"),
    ("sessions", {"model": "scripted:x", "sessionId": "with space"}, "sessionId"),
    ("sessions", {"model": "scripted:x", "sessionId": "x" * 129}, "sessionId"),
    ("sessions", {"model": "scripted:x", "sessionId": "x\n"}, "sessionId"),
    ("sessions", {"model": "scripted:x", "sessionId": ""}, "sessionId"),
    ("sessions", {"model": "scripted:x", "session_id": "x"}, "session_id"),
    ("sessions", {"model": "scripted:x", "systemPrompt": 1}, "systemPrompt"),
    ("sessions/s/prompt", {}, "text"),
    ("sessions/s/prompt", {"text": ""}, "text"),
    ("sessions/s/prompt", {"text": 1}, "text"),
    ("sessions/s/prompt", {"text": "x", "queue": True}, "queue"),
    ("sessions/s/approve", {}, "approvalId"),
    ("sessions/s/approve", {"approvalId": "a", "args": []}, "args"),
    ("sessions/s/approve", {"approvalId": "a", "reason": "x"}, "reason"),
    ("sessions/s/reject", {"approvalId": "a", "args": {}}, "args"),
    ("sessions/s/reject", {"approvalId": "a", "reason": None}, "reason"),
    ("sessions/s/respond", {"ref": "a"}, "response"),
    ("sessions/s/respond", {"response": "a"}, "ref"),
    ("sessions/s/respond", {"ref": "a", "response": 1}, "response"),
    ("sessions/s/abort", {"reason": ""}, "reason"),
    ("sessions/s/abort", {"why": "x"}, "why"),
    ("sessions/s/tickets", {"scope": "write"}, "scope"),
    ("sessions/s/tools", {name: value for name, value in TOOL.items() if name != "name"}, "name"),
    ("sessions/s/tools", {name: value for name, value in TOOL.items() if name != "description"}, "description"),
    ("sessions/s/tools", {name: value for name, value in TOOL.items() if name != "parameters"}, "parameters"),
    ("sessions/s/tools", {name: value for name, value in TOOL.items() if name != "callbackUrl"}, "callbackUrl"),
    ("sessions/s/tools", {**TOOL, "parameters": True}, "parameters"),
    ("sessions/s/tools", {**TOOL, "timeoutMs": "1"}, "timeoutMs"),
    ("sessions/s/tools", {**TOOL, "idempotent": 1}, "idempotent"),
    ("sessions/s/tools", {**TOOL, "requiresApproval": "yes"}, "requiresApproval"),
    ("sessions/s/tools", {**TOOL, "timeout": 1}, "timeout"),
]


@pytest.mark.parametrize(("route", "body", "field"), WRONG_TYPES)
async def test_an_invalid_field_is_named_and_no_value_is_coerced(
    client: httpx.AsyncClient, route: str, body: dict[str, Any], field: str
) -> None:
    """HTTP-3."""
    before = await sessions(client)

    answer = await client.post(f"/v1/{route}", json=body)

    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    assert [detail["path"] for detail in answer.json()["details"]] == [field]
    assert answer.json()["message"].startswith(field)
    assert await sessions(client) == before


MANY_FLAWS: list[tuple[str, bytes, str, int]] = [
    ("sessions", b'{"model":"scripted:x","tools":[%b]}' % b",".join([b"1"] * 450_000), "tools[0]", 1),
    ("sessions", b'{"approval":{"tools":[%b]}}' % b",".join([b"1"] * 450_000), "approval.tools[0]", 1),
    ("sessions", b'{"metadata":{%b}}' % b",".join(b'"%x":1' % n for n in range(95_000)), "metadata", 1),
    ("sessions", b'{"budget":{%b}}' % b",".join(b'"%x":1' % n for n in range(95_000)), "budget.0", 50),
    ("sessions/s/abort", b"{%b}" % b",".join(b'"%x":1' % n for n in range(95_000)), "0", 50),
]


@pytest.mark.parametrize(("route", "raw", "path", "told"), MANY_FLAWS, ids=[path for _, _, path, _ in MANY_FLAWS])
async def test_a_body_with_a_hundred_thousand_errors_gets_a_few_of_them_reported(
    client: httpx.AsyncClient, route: str, raw: bytes, path: str, told: int
) -> None:
    """HTTP-3: reporting all of them would block the event loop for seconds."""
    before = time.process_time()
    answer = await client.post(f"/v1/{route}", content=raw, headers={"Content-Type": "application/json"})
    took = time.process_time() - before

    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    assert answer.json()["details"][0]["path"] == path
    assert len(answer.json()["details"]) == told
    parsing = time.process_time()
    parse_object(raw)
    parsing = time.process_time() - parsing
    assert took < 4 * parsing + 0.2, "what is wrong costs little more than to read it"


@pytest.mark.parametrize(
    ("method", "url", "name"),
    [
        ("GET", "/healthz?x=1", "x"),
        ("GET", "/readyz?x=", "x"),
        ("GET", "/v1/capabilities?x=1", "x"),
        ("GET", "/v1/usage?tenant=default", "tenant"),
        ("GET", "/v1/sessions?order=asc", "order"),
        ("GET", "/v1/sessions?limit=0", "limit"),
        ("GET", "/v1/sessions?limit=1001", "limit"),
        ("GET", "/v1/sessions?limit=1.0", "limit"),
        ("GET", "/v1/sessions?limit=+1", "limit"),
        ("GET", "/v1/sessions?limit=", "limit"),
        ("GET", "/v1/sessions?limit=1&limit=1", "limit"),
        ("GET", "/v1/sessions?state=busy", "state"),
        ("POST", "/v1/sessions?model=x", "model"),
        ("GET", "/v1/sessions/s?verbose=true", "verbose"),
        ("DELETE", "/v1/sessions/s?force=true", "force"),
        ("POST", "/v1/sessions/s/prompt?wait=1", "wait"),
        ("POST", "/v1/sessions/s/approve?x=1", "x"),
        ("POST", "/v1/sessions/s/reject?x=1", "x"),
        ("POST", "/v1/sessions/s/respond?x=1", "x"),
        ("POST", "/v1/sessions/s/abort?x=1", "x"),
        ("POST", "/v1/sessions/s/tickets?x=1", "x"),
        ("POST", "/v1/sessions/s/tools?x=1", "x"),
        ("GET", "/v1/sessions/s/tools?x=1", "x"),
        ("DELETE", "/v1/sessions/s/tools/t?x=1", "x"),
        ("GET", "/v1/sessions/s/stats?x=1", "x"),
        ("GET", "/v1/sessions/s/messages?after=1", "after"),
        ("GET", "/v1/sessions/s/messages?limit=-1", "limit"),
        ("GET", "/v1/sessions/s/events?since=1", "since"),
        ("GET", "/v1/sessions/s/events?follow=yes", "follow"),
        ("GET", "/v1/sessions/s/events?after=start&after=latest", "after"),
        ("GET", "/v1/sessions/s/ws?x=1", "x"),
    ],
)
async def test_an_unknown_or_invalid_query_parameter_is_named(
    client: httpx.AsyncClient, method: str, url: str, name: str
) -> None:
    """HTTP-3: unknown query parameters are rejected on every route."""
    before = await sessions(client)
    bodies = {"prompt": {"text": "x"}, "approve": {"approvalId": "a"}, "reject": {"approvalId": "a"}, "tools": TOOL}
    bodies |= {"respond": {"ref": "a", "response": "b"}, "sessions": {"model": "scripted:x"}}
    action = url.partition("?")[0].rpartition("/")[2]

    answer = await client.request(method, url, json=bodies.get(action, {}) if method == "POST" else None)

    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request"), answer.text
    assert name in answer.json()["message"]
    assert [detail["path"] for detail in answer.json()["details"]] == [name]
    assert await sessions(client) == before


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "application/problem+json",
        "application",
        "",
    ],
)
async def test_a_body_that_is_not_declared_as_json_in_utf_8_is_refused_with_the_right_type(
    client: httpx.AsyncClient, content_type: str
) -> None:
    """HTTP-3."""
    answer = await send_raw(client, b'{"model": "scripted:x"}', content_type)

    assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in answer.json()["message"]


async def test_a_body_without_a_content_type_is_rejected(client: httpx.AsyncClient) -> None:
    """HTTP-3."""
    answer = await client.post("/v1/sessions", content=b'{"model": "scripted:x"}')

    assert refusal(answer) == (
        415,
        {
            "error": "unsupported_media_type",
            "message": "the body must be sent as Content-Type: application/json (UTF-8), and no Content-Type was sent",
        },
    )


@pytest.mark.parametrize(
    "content_type", ["Application/JSON", 'application/json;charset="UTF-8"', "application/json; a=b"]
)
async def test_a_content_type_may_be_written_as_http_allows(client: httpx.AsyncClient, content_type: str) -> None:
    """HTTP-3."""
    assert (await send_raw(client, b'{"model": "scripted:x"}', content_type)).status_code == 201


@pytest.mark.parametrize(("action", "status"), [("abort", 200), ("tickets", 201)])
async def test_an_empty_body_is_an_empty_object_if_no_field_is_required(
    client: httpx.AsyncClient, action: str, status: int
) -> None:
    """HTTP-3: with and without a Content-Type."""
    talk = await Conversation.begin(client)

    bare = await client.post(f"{talk.path}/{action}")
    declared = await client.post(f"{talk.path}/{action}", headers={"Content-Type": "application/json"})

    assert (bare.status_code, declared.status_code) == (status, status)


async def test_an_empty_body_is_rejected_if_a_field_is_required(client: httpx.AsyncClient) -> None:
    """HTTP-3."""
    talk = await Conversation.begin(client)

    answer = await client.post(f"{talk.path}/prompt", headers={"Content-Type": "application/json"})

    assert refusal(answer) == (
        400,
        {
            "error": "bad_request",
            "message": "the body is not acceptable JSON: the input is empty; a JSON value is expected",
        },
    )


# -- HTTP-4

HOSTILE = {
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a lone surrogate in a key": b'{"\\udc00": 1}',
    "NaN": b'{"model": "scripted:x", "maxTurns": NaN}',
    "Infinity": b'{"model": "scripted:x", "providerOpts": {"temperature": -Infinity}}',
    "a number beyond floats": b'{"model": "scripted:x", "providerOpts": {"temperature": 1e999}}',
    "an integer beyond int64": b'{"model": "scripted:x", "maxTurns": 9223372036854775808}',
    "a very long integer": b'{"model": "scripted:x", "maxTurns": ' + b"1" * 5000 + b"}",
    "a duplicate key": b'{"model": "scripted:x", "model": "scripted:y"}',
    "a duplicate key inside": b'{"model": "scripted:x", "metadata": {"a": "1", "a": "2"}}',
    "depth over 64": b'{"providerOpts": ' + b'{"a":' * 64 + b"1" + b"}" * 64 + b"}",
    "bottomless depth": b"[" * 100_000,
    "an escaped U+0000": b'{"model": "scripted:x", "systemPrompt": "\\u0000"}',
    "a raw U+0000": b'{"model": "scripted:x\0"}',
    "a byte order mark": b'\xef\xbb\xbf{"model": "scripted:x"}',
    "invalid UTF-8": b'{"model": "scripted:\xff"}',
    "UTF-16": '{"model": "scripted:x"}'.encode("utf-16"),
    "overlong UTF-8": b'{"model": "\xc0\x80"}',
    "an encoded surrogate": b'{"model": "\xed\xa0\x80"}',
    "an array": b'[{"model": "scripted:x"}]',
    "a string": b'"scripted:x"',
    "null": b"null",
    "two values": b'{"model": "scripted:x"}{}',
    "a trailing comma": b'{"model": "scripted:x",}',
    "a control character": b'{"model": "scripted:x\n"}',
    "half an object": b'{"model": "scripted:x"',
    "white space": b" \n",
    "a comment": b'{"model": "scripted:x"} // fine',
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_json_is_rejected_without_an_effect(client: httpx.AsyncClient, raw: bytes) -> None:
    """HTTP-4."""
    before = await sessions(client)

    answer = await send_raw(client, raw)

    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    assert set(answer.json()) <= {"error", "message", "details"}
    assert answer.json()["message"].startswith("the body is not acceptable JSON: ")
    assert await sessions(client) == before


async def test_hostile_json_is_rejected_on_every_route_with_a_body(client: httpx.AsyncClient) -> None:
    """HTTP-4: a lone surrogate in a prompt is rejected."""
    talk = await Conversation.begin(client)
    headers = {"Content-Type": "application/json"}

    for action in ("prompt", "approve", "reject", "respond", "abort", "tickets", "tools"):
        answer = await client.post(f"{talk.path}/{action}", content=b'{"text": "\\ud800"}', headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "bad_request"), action

    assert await talk.messages() == []
    assert (await talk.info())["cursor"].endswith(".0")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/sessions/%00",
        "/v1/sessions/%ff%fe",
        "/v1/sessions/%ED%A0%80/stats",
        "/v1/sessions/..%2f..%2fhealthz",
        "/v1/%0d%0aX: y",
    ],
)
async def test_hostile_text_in_a_path_is_an_id_that_does_not_exist(client: httpx.AsyncClient, path: str) -> None:
    """HTTP-4, HTTP-6."""
    answer = await client.get(path)

    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


async def test_any_unicode_text_is_accepted_and_returned_unchanged(client: httpx.AsyncClient) -> None:
    """HTTP-4, EVT-6: only invalid Unicode is rejected."""
    text = "a\r\nb\u2028c\u0085d 👩‍👩‍👧 e\u0301 \ufeff \U0010ffff \u202e"
    talk = await Conversation.begin(client, metadata={"text": text})

    await talk.run(text)

    assert (await talk.info())["metadata"] == {"text": text}
    assert (await talk.messages())[0] == {"role": "user", "content": text}


# -- HTTP-5


async def test_a_body_may_be_as_long_as_the_limit_and_no_longer(client: httpx.AsyncClient) -> None:
    """HTTP-5: 1 MiB."""
    frame = '{"model":"scripted:x","systemPrompt":"%s"}'
    longest = frame % ("x" * (MEBIBYTE - len(frame) + 2))

    fits = await send_raw(client, longest.encode())
    longer = await send_raw(client, longest.replace("x", "xx", 1).encode())

    assert fits.status_code == 201
    assert refusal(longer) == (
        413,
        {"error": "payload_too_large", "message": f"the body is longer than {MEBIBYTE} bytes"},
    )


async def test_the_limits_are_settings(tmp_path: Path) -> None:
    """HTTP-5."""
    limits: dict[str, Any] = {"body_bytes": 1024, "header_bytes": 1024, "header_fields": 20, "url_bytes": 256}
    async with in_process_gateway(tmp_path, **limits) as served, served.client() as client:
        long_body = await send_raw(client, b'{"model": "scripted:x", "systemPrompt": "%b"}' % (b"x" * 1024))
        long_url = await client.get(f"/v1/sessions/{'x' * 300}")
        long_head = await client.get("/healthz", headers={"X-Long": "x" * 1024})
        many_fields = await client.get("/healthz", headers=[(f"X-{n}", "") for n in range(21)])
        no_bytes = await client.request("GET", "/v1/sessions", content=b"x" * 2048)

    found = [(answer.status_code, answer.json()["error"]) for answer in (long_body, long_url, long_head, many_fields)]
    assert found == [
        (413, "payload_too_large"),
        (414, "uri_too_long"),
        (431, "headers_too_large"),
        (431, "headers_too_large"),
    ]
    assert no_bytes.status_code == 413


async def test_a_body_that_does_not_arrive_times_out(tmp_path: Path) -> None:
    """HTTP-5: after 30 s, by default."""
    async with in_process_gateway(tmp_path, body_timeout_ms=100) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        head = b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nX-API-Key: %b\r\nContent-Length: 9\r\n\r\n" % KEY.encode()
        writer.write(head + b"{")
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"error":"request_timeout","message":"the body did not arrive in time"}')
