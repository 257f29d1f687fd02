"""What is refused, and how: bodies, parameters, paths and methods. Each refusal has a twin that is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmdc_conformance.case import Case
from cmdc_conformance.check import check
from cmdc_conformance.findings import expect
from cmdc_conformance.socket import opened
from cmdc_conformance.wire import Answer

# -- bodies and parameters -----------------------------------------------------------------------------------------------


def _names(answer: Answer, field: str) -> None:
    """The refusal says which field it is about."""
    expect(
        field in answer.message or field in str(answer.body.get("details")),
        f"the message does not name {field}: {answer.message!r}",
    )


@check("HTTP-2.body")
async def errors_have_a_body(case: Case) -> None:
    """A few errors from different places; a monitor looks at every other."""
    async with case.session() as session:
        answers = {
            404: await case.http.get("/v1/no-such-route"),
            400: await case.http.post(f"{session.path}/prompt", {}),
            401: await case.nobody.get(session.path),
            405: await case.http.request("PUT", session.path, {}),
        }
    for status, answer in answers.items():
        if answer.status == status:
            expect(
                answer.code and answer.message,
                f"{answer.request} ({status}) has no error and message: {answer.raw[:200]!r}",
            )


@check("HTTP-3.unknown-field")
async def unknown_fields(case: Case) -> None:
    """A field more is 400, and the message names it."""
    answer = await case.create(colour="red")
    answer.must_be(400, code="bad_request", why="colour is no field")
    _names(answer, "colour")
    (await case.create()).needed(201)
    async with case.session() as session:
        for path, body in (("prompt", {"text": case.plain()}), ("tools", case.tool("t", "http://127.0.0.1:9/x"))):
            answer = await case.http.post(f"{session.path}/{path}", {**body, "colour": "red"})
            answer.must_be(400, code="bad_request", why="colour is no field")
            _names(answer, "colour")
        expect(await session.history() == [], "a refused prompt is in the history")
    inner: tuple[dict[str, Any], ...] = (
        {"approval": {"tools": [], "colour": 1}},
        {"budget": {"maxTokens": 10, "colour": 1}},
    )
    for nested in inner:
        if case.has("approval_timeout", "budgets"):
            (await case.create(**nested)).must_be(400, code="bad_request", why="colour is no field in there")


_WRONG_TYPES: Mapping[str, tuple[Any, ...]] = {
    "maxTurns": ("1", 1.5, True, [1]),
    "model": (5, ["scripted:x"], {"a": 1}),
    "systemPrompt": (1, ["x"], False),
    "tools": ("read_file", {"0": "read_file"}, [1]),
    "sessionId": (123456, True),
    "providerOpts": ([], "temperature"),
    "maxTokens": ("10", 0.5, True),
}


@check("HTTP-3.wrong-type")
async def wrong_types(case: Case) -> None:
    """Nothing is coerced: each wrong type is 400 naming the field."""
    for field, values in _WRONG_TYPES.items():
        for value in values:
            answer = await case.create(**{field: value})
            answer.must_be(400, code="bad_request", why=f"{field} is {value!r}")
            _names(answer, field)
    (await case.create(maxTurns=1, tools=[], maxTokens=10, providerOpts={})).needed(201)
    async with case.session() as session:
        for value in (1, True, ["Hi"], {"a": "b"}):
            answer = await case.http.post(f"{session.path}/prompt", {"text": value})
            answer.must_be(400, code="bad_request", why=f"text is {value!r}")


@check("HTTP-3.range")
async def values_out_of_range(case: Case) -> None:
    """Values out of range or pattern are 400 naming the field."""
    wrong: Mapping[str, tuple[Any, ...]] = {
        "maxTurns": (0, -1, 1001),
        "maxTokens": (0, -5),
        "sessionId": ("", "a b", "a/b", "ä", "x" * 129),
    }
    for field, values in wrong.items():
        for value in values:
            answer = await case.create(**{field: value})
            answer.must_be(400, code="bad_request", why=f"{field} is {value!r:.40}")
            _names(answer, field)
    inside: tuple[dict[str, Any], ...] = (
        {"maxTurns": 1},
        {"maxTurns": 1000},
        {"maxTokens": 1},
        {"sessionId": case.fresh()},
    )
    for right in inside:
        (await case.create(**right)).needed(201)


@check("HTTP-3.missing-field")
async def missing_fields(case: Case) -> None:
    """What is required and missing is 400 naming the field."""
    async with case.session() as session:
        wrong: tuple[tuple[str, dict[str, str], str], ...] = (
            ("prompt", {}, "text"),
            ("approve", {}, "approvalId"),
            ("reject", {}, "approvalId"),
            ("respond", {"ref": "x"}, "response"),
            ("respond", {"response": "x"}, "ref"),
        )
        for route, body, field in wrong:
            answer = await case.http.post(f"{session.path}/{route}", body)
            answer.must_be(400, code="bad_request", why=f"{field} is missing")
            _names(answer, field)
        (await case.http.post(f"{session.path}/prompt", {"text": case.plain()})).needed(202)


@check("HTTP-3.unknown-parameter")
async def unknown_parameters(case: Case) -> None:
    """A query parameter more is 400."""
    async with case.session() as session:
        for path in (session.path, f"{session.path}/messages", f"{session.path}/stats"):
            (await case.http.get(f"{path}?colour=red")).must_be(400, code="bad_request", why="colour is no parameter")
            (await case.http.get(path)).needed(200)
        (await case.http.refused(f"{session.path}/events?colour=red")).must_be(400, code="bad_request")


@check("HTTP-3.ws-member")
async def unknown_members(case: Case) -> None:
    """A member more in an action is bad_request."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        text = case.plain()
        session.noted(text)
        (await socket.act("prompt", text=text, colour="red")).must_be(
            400, code="bad_request", why="colour is no member"
        )
        expect(await session.history() == [], "a refused prompt is in the history")
        (await socket.act("prompt", text=text)).needed(202)


@check("HTTP-3.empty-body")
async def empty_bodies(case: Case) -> None:
    """Nothing is as good as {} where nothing is required."""
    async with case.session() as session:
        for route in ("abort", "tickets"):
            if route == "tickets" and not case.has("tickets"):
                continue
            full = await case.http.post(f"{session.path}/{route}", {}, secret=True)
            full.needed(200, 201, 202)
            empty = await case.http.post(f"{session.path}/{route}", secret=True)
            empty.must_be(full.status, why="an empty body is {}")


@check("HTTP-3.media-type")
async def media_types(case: Case) -> None:
    """What is not declared as JSON in UTF-8 is 415, and the message names the right type."""
    async with case.session() as session:
        body = b'{"text": "Hello."}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"):
            answer = await case.http.post(f"{session.path}/prompt", content=body, headers={"Content-Type": kind})
            answer.must_be(415, code="unsupported_media_type", why=kind)
            expect(
                "application/json" in answer.message, f"the message does not name application/json: {answer.message!r}"
            )
        expect(await session.history() == [], "a refused prompt is in the history")
        for kind in ("application/json", "application/json; charset=utf-8"):
            answer = await case.http.post(f"{session.path}/prompt", content=body, headers={"Content-Type": kind})
            answer.must_be(202, why=kind)


# -- paths and methods ---------------------------------------------------------------------------------------------------


@check("HTTP-6.unknown-path")
async def unknown_paths(case: Case) -> None:
    """An unknown path is 404, and the message names method and path."""
    for method, path in (
        ("GET", "/v1/no-such-route"),
        ("POST", "/v1/sessions/a/no-such-route"),
        ("GET", "/no-such-route"),
    ):
        answer = await case.http.request(method, path, {} if method == "POST" else None)
        answer.must_be(404, code="not_found")
        expect(
            method in answer.message and path in answer.message,
            f"the message does not name {method} {path}: {answer.message!r}",
        )


@check("HTTP-6.wrong-method")
async def wrong_methods(case: Case) -> None:
    """A known path with another method is 405, with the methods that it has."""
    async with case.session() as session:
        wrong = (
            ("PUT", "/v1/sessions", "POST"),
            ("GET", f"{session.path}/prompt", "POST"),
            ("POST", session.path, "GET"),
            ("PATCH", f"{session.path}/stats", "GET"),
        )
        for method, path, right in wrong:
            answer = await case.http.request(method, path, {} if method != "GET" else None)
            answer.must_be(405, code="method_not_allowed")
            allowed = [each.strip() for each in answer.headers.get("allow", "").split(",")]
            expect(
                right in allowed and method not in allowed, f"{method} {path}: Allow is {answer.headers.get('allow')!r}"
            )


@check("HTTP-6.key-first")
async def the_key_comes_first(case: Case) -> None:
    """Without a key nobody learns which paths there are."""
    for method, path in (("GET", "/v1/no-such-route"), ("PUT", "/v1/sessions")):
        (await case.nobody.request(method, path, {} if method == "PUT" else None)).must_be(401, code="unauthorized")
    (await case.http.get("/v1/no-such-route")).must_be(404, why="with the key")
