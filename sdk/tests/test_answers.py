"""From an answer to a value or an error: nothing is trusted, and nothing is lost."""

import json
from typing import Any

import cmdc_client
import pytest
from cmdc_client import ApiError, ProtocolError, operations
from cmdc_client.answers import Answer, refused
from cmdc_client.errors import BY_CODE, RateLimited, Unavailable
from cmdc_client.operations import Call

JSON = {"content-type": "application/json"}
INFO = b"""{"sessionId": "s", "state": "idle", "turns": 1, "toolCalls": 0, "totalTokens": 5, "uptimeMs": 1, "model": "m",
 "createdAt": 1, "metadata": {"a": "b"}, "queue": [{"requestId": "r", "text": "t"}], "pendingApprovals": [],
 "pendingQuestions": [], "cursor": "e.1"}"""


def read(call: Call[Any], body: bytes, status: int = 200, headers: dict[str, str] = JSON) -> Any:
    return call.promise.read(Answer(str(call), status, headers, body))


def test_an_answer_becomes_the_model_that_was_promised() -> None:
    info = read(operations.get_session("s"), INFO)

    assert (info.session_id, info.state, info.metadata["a"], info.queue[0].text) == ("s", "idle", "b", "t")


def test_what_a_newer_server_adds_is_passed_over() -> None:
    assert read(operations.get_session("s"), INFO.replace(b'"turns": 1', b'"turns": 1, "mood": {"x": 1}')).turns == 1


def test_what_a_base_server_leaves_out_is_empty() -> None:
    base = b'{"sessionId": "s", "state": "idle", "turns": 1, "toolCalls": 0, "totalTokens": 5, "uptimeMs": 1}'

    info = read(operations.get_session("s"), base)

    assert (info.turns, info.model, info.cursor, info.queue) == (1, "", "", [])


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        (b'"turns": 1, ', b"", "lacks the member 'turns'"),
        (b'"turns": 1', b'"turns": "1"', "turns is '1', not a whole number"),
        (b'"turns": 1', b'"turns": true', "turns is True, not a whole number"),
        (b'"turns": 1', b'"turns": null', "turns is None, not a whole number"),
        (b'"idle"', b'"dreaming"', "'dreaming'"),
        (b'"idle"', b'["idle"]', "list"),
        (b'"text": "t"', b'"text": 3', r"queue\[0\]\.text is 3, not a string"),
        (b', "text": "t"', b"", "lacks the member 'text'"),
        (b'{"a": "b"}', b'{"a": 3}', r"metadata\.additional_properties\['a'\] is 3, not a string"),
        (b'{"a": "b"}', b'"a"', "not as it must be"),
        (b'[{"requestId"', b'[7, {"requestId"', "not as it must be"),
        (b'"turns": 1', b'"turns": NaN', "NaN is no JSON value"),
        (b'"createdAt": 1', b'"createdAt": 1e999', "1e999 is beyond all numbers"),
        (b'"turns": 1', b'"turns": 1,,', "is not JSON"),
        (INFO, b"[]", "is not a JSON object"),
        (INFO, b"\xff\xfe", "is not JSON"),
        (INFO, b"[" * 100_000, "is not JSON"),
    ],
)
def test_what_breaks_the_contract_is_told_with_its_place(was: bytes, now: bytes, told: str) -> None:
    with pytest.raises(ProtocolError, match=told) as failure:
        read(operations.get_session("s"), INFO.replace(was, now))

    assert failure.value.where == "GET /v1/sessions/s"


def test_a_page_of_html_is_told_as_such() -> None:
    with pytest.raises(
        ProtocolError, match=r"\(502\) is text/html where JSON was expected; it begins '<html>Bad Gateway"
    ):
        read(operations.get_session("s"), b"<html>Bad Gateway</html>", 502, {"content-type": "text/html; charset=x"})


def test_a_redirect_is_told_and_not_followed() -> None:
    headers = {"location": "https://user:pass@elsewhere.example/x?key=1"}

    with pytest.raises(ProtocolError) as failure:
        read(operations.get_session("s"), b"", 307, headers)

    assert failure.value.what == "the answer is a redirect (307) to elsewhere.example, which is not followed"


def test_a_redirect_to_what_is_no_address_is_told_too() -> None:
    with pytest.raises(ProtocolError, match="to what is no address, which is not followed"):
        read(operations.get_session("s"), b"", 302, {"location": "http://[oops/"})


def test_a_status_that_is_not_promised_is_told() -> None:
    with pytest.raises(ProtocolError, match="status 200, which is not one of its own"):
        read(operations.post_prompt("s", "x"), b"{}")


@pytest.mark.parametrize("body", [b"{}", b'{"error": 5, "message": "x"}', b'{"error": "x"}'])
def test_an_error_body_without_its_strings_breaks_the_contract(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="lacks the strings"):
        read(operations.get_session("s"), body, 400)


@pytest.mark.parametrize(("code", "kind"), BY_CODE.items())
def test_every_code_is_a_class_of_its_own(code: str, kind: type[ApiError]) -> None:
    body = f'{{"error": "{code}", "message": "why", "details": [{{"path": "a.b", "message": "bad"}}]}}'.encode()

    error = refused(Answer("POST /v1/sessions", kind.expected_status, JSON, body))

    assert type(error) is kind
    assert getattr(cmdc_client, kind.__name__) is kind
    assert (error.code, error.message, error.http_status) == (code, "why", kind.expected_status)
    assert [(detail.path, detail.message) for detail in error.details] == [("a.b", "bad")]
    assert str(error) == f"POST /v1/sessions was refused ({kind.expected_status} {code}): why; a.b: bad"


def test_a_code_of_the_future_is_an_api_error() -> None:
    error = refused(Answer("GET /x", 418, JSON, b'{"error": "teapot", "message": "short", "details": "?"}'))

    assert type(error) is ApiError
    assert (error.code, error.details) == ("teapot", ())


def test_members_of_a_code_are_its_attributes() -> None:
    def error(http_status: int, code: str, **members: Any) -> Any:
        body = json.dumps({"error": code, "message": "m", **members}).encode()
        return refused(Answer("GET /x", http_status, {**JSON, "retry-after": "9"}, body))

    assert error(409, "already_resolved", status="approved").status == "approved"
    assert error(410, "cursor_expired", earliest="e.1", latest="e.9").earliest == "e.1"
    assert error(429, "rate_limited", retryAfter=3).retry_after == 3
    assert error(429, "rate_limited", retryAfter=10**400).retry_after == 9
    assert error(503, "unavailable").retry_after == 9


def test_retry_after_may_be_a_date_and_nonsense_is_none() -> None:
    def after(header: str) -> float | None:
        headers = {**JSON, "retry-after": header}
        error = refused(Answer("GET /x", 503, headers, b'{"error": "unavailable", "message": "m"}'))
        assert isinstance(error, Unavailable | RateLimited)
        return error.retry_after

    assert after("Fri, 01 Jan 2016 00:00:00 GMT") == 0
    assert (after("Fri, 01 Jan 2100 00:00:00 GMT") or 0) > 1e9
    assert after("soon") is None
    assert after("Mon, 01 Jan 0001 00:00:00 -0000") in (0, None)
