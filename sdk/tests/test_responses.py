"""Parsing of responses: into the expected model, or into the error that is wrong with them."""

import json
from typing import Any

import cmdc_client
import pytest
from cmdc_client import ApiError, ProtocolError, operations
from cmdc_client.errors import ERRORS_BY_CODE, RateLimited, Unavailable
from cmdc_client.operations import ApiRequest
from cmdc_client.responses import RawResponse, error_from_response

JSON = {"content-type": "application/json"}
INFO = b"""{"sessionId": "s", "state": "idle", "turns": 1, "toolCalls": 0, "totalTokens": 5, "uptimeMs": 1, "model": "m",
 "createdAt": 1, "metadata": {"a": "b"}, "queue": [{"requestId": "r", "text": "t"}], "pendingApprovals": [],
 "pendingQuestions": [], "cursor": "e.1"}"""


def parse(request: ApiRequest[Any], body: bytes, status: int = 200, headers: dict[str, str] = JSON) -> Any:
    return request.expected.parse(RawResponse(str(request), status, headers, body))


def test_a_response_is_parsed_into_the_expected_model() -> None:
    info = parse(operations.get_session("s"), INFO)

    assert (info.session_id, info.state, info.metadata["a"], info.queue[0].text) == ("s", "idle", "b", "t")


def test_unknown_members_are_ignored() -> None:
    assert parse(operations.get_session("s"), INFO.replace(b'"turns": 1', b'"turns": 1, "mood": {"x": 1}')).turns == 1


def test_members_that_a_server_of_the_base_protocol_omits_are_empty() -> None:
    base = b'{"sessionId": "s", "state": "idle", "turns": 1, "toolCalls": 0, "totalTokens": 5, "uptimeMs": 1}'

    info = parse(operations.get_session("s"), base)

    assert (info.turns, info.model, info.cursor, info.queue) == (1, "", "", [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"turns": 1, ', b"", "lacks the member 'turns'"),
        (b'"turns": 1', b'"turns": "1"', "turns is '1', not an integer"),
        (b'"turns": 1', b'"turns": true', "turns is True, not an integer"),
        (b'"turns": 1', b'"turns": null', "turns is None, not an integer"),
        (b'"idle"', b'"dreaming"', "'dreaming'"),
        (b'"idle"', b'["idle"]', "list"),
        (b'"text": "t"', b'"text": 3', r"queue\[0\]\.text is 3, not a string"),
        (b', "text": "t"', b"", "lacks the member 'text'"),
        (b'{"a": "b"}', b'{"a": 3}', r"metadata\.additional_properties\['a'\] is 3, not a string"),
        (b'{"a": "b"}', b'"a"', "has an invalid member"),
        (b'[{"requestId"', b'[7, {"requestId"', "has an invalid member"),
        (b'"turns": 1', b'"turns": NaN', "NaN is not a JSON value"),
        (b'"createdAt": 1', b'"createdAt": 1e999', "the number 1e999 is out of range"),
        (b'"turns": 1', b'"turns": 1,,', "is not JSON"),
        (INFO, b"[]", "is not a JSON object"),
        (INFO, b"\xff\xfe", "is not JSON"),
        (INFO, b"[" * 100_000, "is not JSON"),
    ],
)
def test_an_invalid_response_raises_an_error_that_names_the_member(old: bytes, new: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message) as raised:
        parse(operations.get_session("s"), INFO.replace(old, new))

    assert raised.value.where == "GET /v1/sessions/s"


def test_an_html_page_is_reported_with_its_beginning() -> None:
    with pytest.raises(
        ProtocolError,
        match=r"\(502\) has the content type text/html, not application/json; it begins with '<html>Bad Gateway",
    ):
        parse(operations.get_session("s"), b"<html>Bad Gateway</html>", 502, {"content-type": "text/html; charset=x"})


def test_a_redirect_is_an_error_that_names_only_its_host() -> None:
    headers = {"location": "https://user:pass@elsewhere.example/x?key=1"}

    with pytest.raises(ProtocolError) as raised:
        parse(operations.get_session("s"), b"", 307, headers)

    assert raised.value.what == "the response is a redirect (307) to elsewhere.example, which is not followed"


def test_a_redirect_to_an_invalid_url_is_an_error_too() -> None:
    with pytest.raises(ProtocolError, match="to an invalid URL, which is not followed"):
        parse(operations.get_session("s"), b"", 302, {"location": "http://[oops/"})


def test_an_unexpected_status_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="unexpected status 200"):
        parse(operations.post_prompt("s", "x"), b"{}")


@pytest.mark.parametrize("body", [b"{}", b'{"error": 5, "message": "x"}', b'{"error": "x"}'])
def test_an_error_body_without_its_strings_violates_the_protocol(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="lacks the strings"):
        parse(operations.get_session("s"), body, 400)


@pytest.mark.parametrize(("code", "error_class"), ERRORS_BY_CODE.items())
def test_every_code_has_a_class_of_its_own(code: str, error_class: type[ApiError]) -> None:
    body = f'{{"error": "{code}", "message": "why", "details": [{{"path": "a.b", "message": "bad"}}]}}'.encode()

    error = error_from_response(RawResponse("POST /v1/sessions", error_class.expected_status, JSON, body))

    assert type(error) is error_class
    assert getattr(cmdc_client, error_class.__name__) is error_class
    assert (error.code, error.message, error.http_status) == (code, "why", error_class.expected_status)
    assert [(detail.path, detail.message) for detail in error.details] == [("a.b", "bad")]
    assert str(error) == f"POST /v1/sessions failed ({error_class.expected_status} {code}): why; a.b: bad"


def test_an_unknown_code_is_an_api_error() -> None:
    error = error_from_response(
        RawResponse("GET /x", 418, JSON, b'{"error": "teapot", "message": "short", "details": "?"}')
    )

    assert type(error) is ApiError
    assert (error.code, error.details) == ("teapot", ())


def test_the_members_of_a_code_are_attributes_of_its_class() -> None:
    def error(http_status: int, code: str, **members: Any) -> Any:
        body = json.dumps({"error": code, "message": "m", **members}).encode()
        return error_from_response(RawResponse("GET /x", http_status, {**JSON, "retry-after": "9"}, body))

    assert error(409, "already_resolved", status="approved").status == "approved"
    assert error(410, "cursor_expired", earliest="e.1", latest="e.9").earliest == "e.1"
    assert error(429, "rate_limited", retryAfter=3).retry_after == 3
    assert error(429, "rate_limited", retryAfter=10**400).retry_after == 9
    assert error(503, "unavailable").retry_after == 9


def test_retry_after_may_be_a_date_and_is_none_if_it_is_invalid() -> None:
    def after(header: str) -> float | None:
        headers = {**JSON, "retry-after": header}
        error = error_from_response(RawResponse("GET /x", 503, headers, b'{"error": "unavailable", "message": "m"}'))
        assert isinstance(error, Unavailable | RateLimited)
        return error.retry_after

    assert after("Fri, 01 Jan 2016 00:00:00 GMT") == 0
    assert (after("Fri, 01 Jan 2100 00:00:00 GMT") or 0) > 1e9
    assert after("soon") is None
    assert after("Mon, 01 Jan 0001 00:00:00 -0000") in (0, None)
