"""Validation of bodies, parameters, paths and methods. Each check also sends a valid request that is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import check
from cmdc_conformance.findings import expect
from cmdc_conformance.wire.http import ApiResponse
from cmdc_conformance.wire.websocket import connect_websocket

# -- bodies and parameters -----------------------------------------------------------------------------------------------


def _expect_name(response: ApiResponse, field: str) -> None:
    """Expect that an error names the field that it is about."""
    expect(
        field in response.message or field in str(response.body.get("details")),
        f"the message does not name {field}: {response.message!r}",
    )


@check("HTTP-2.body")
async def errors_have_a_code_and_a_message(ctx: CheckContext) -> None:
    """Errors of different kinds have a code and a message; a monitor validates all other errors."""
    async with ctx.session() as session:
        responses = {
            404: await ctx.http.get("/v1/no-such-route"),
            400: await ctx.http.post(f"{session.path}/prompt", {}),
            401: await ctx.anonymous.get(session.path),
            405: await ctx.http.request("PUT", session.path, {}),
        }
    for status, response in responses.items():
        if response.status == status:
            expect(
                response.code and response.message,
                f"{response.request} ({status}) has no error or message: {response.raw[:200]!r}",
            )


@check("HTTP-3.unknown-field")
async def unknown_fields_are_rejected(ctx: CheckContext) -> None:
    """An unknown field returns 400 with a message that names it."""
    response = await ctx.create(colour="red")
    response.expect(400, code="bad_request", why="colour is not a field")
    _expect_name(response, "colour")
    (await ctx.create()).require(201)
    async with ctx.session() as session:
        for path, body in (("prompt", {"text": ctx.simple_prompt()}), ("tools", ctx.tool("t", "http://127.0.0.1:9/x"))):
            response = await ctx.http.post(f"{session.path}/{path}", {**body, "colour": "red"})
            response.expect(400, code="bad_request", why="colour is not a field")
            _expect_name(response, "colour")
        expect(await session.history() == [], "a rejected prompt is in the history")
    nested_fields: tuple[dict[str, Any], ...] = (
        {"approval": {"tools": [], "colour": 1}},
        {"budget": {"maxTokens": 10, "colour": 1}},
    )
    for nested in nested_fields:
        if ctx.has("approval_timeout", "budgets"):
            (await ctx.create(**nested)).expect(400, code="bad_request", why="colour is not a field of this object")


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
async def wrong_types_are_rejected(ctx: CheckContext) -> None:
    """A value of the wrong type returns 400 naming the field; it is not coerced."""
    for field, values in _WRONG_TYPES.items():
        for value in values:
            response = await ctx.create(**{field: value})
            response.expect(400, code="bad_request", why=f"{field} is {value!r}")
            _expect_name(response, field)
    (await ctx.create(maxTurns=1, tools=[], maxTokens=10, providerOpts={})).require(201)
    async with ctx.session() as session:
        for value in (1, True, ["Hi"], {"a": "b"}):
            response = await ctx.http.post(f"{session.path}/prompt", {"text": value})
            response.expect(400, code="bad_request", why=f"text is {value!r}")


@check("HTTP-3.range")
async def values_out_of_range_are_rejected(ctx: CheckContext) -> None:
    """A value out of range or pattern returns 400 naming the field."""
    invalid: Mapping[str, tuple[Any, ...]] = {
        "maxTurns": (0, -1, 1001),
        "maxTokens": (0, -5),
        "sessionId": ("", "a b", "a/b", "ä", "x" * 129),
    }
    for field, values in invalid.items():
        for value in values:
            response = await ctx.create(**{field: value})
            response.expect(400, code="bad_request", why=f"{field} is {value!r:.40}")
            _expect_name(response, field)
    valid: tuple[dict[str, Any], ...] = (
        {"maxTurns": 1},
        {"maxTurns": 1000},
        {"maxTokens": 1},
        {"sessionId": ctx.unique()},
    )
    for body_fields in valid:
        (await ctx.create(**body_fields)).require(201)


@check("HTTP-3.missing-field")
async def missing_fields_are_rejected(ctx: CheckContext) -> None:
    """A missing required field returns 400 naming the field."""
    async with ctx.session() as session:
        invalid: tuple[tuple[str, dict[str, str], str], ...] = (
            ("prompt", {}, "text"),
            ("approve", {}, "approvalId"),
            ("reject", {}, "approvalId"),
            ("respond", {"ref": "x"}, "response"),
            ("respond", {"response": "x"}, "ref"),
        )
        for route, body, field in invalid:
            response = await ctx.http.post(f"{session.path}/{route}", body)
            response.expect(400, code="bad_request", why=f"{field} is missing")
            _expect_name(response, field)
        (await ctx.http.post(f"{session.path}/prompt", {"text": ctx.simple_prompt()})).require(202)


@check("HTTP-3.unknown-parameter")
async def unknown_parameters_are_rejected(ctx: CheckContext) -> None:
    """An unknown query parameter returns 400."""
    async with ctx.session() as session:
        for path in (session.path, f"{session.path}/messages", f"{session.path}/stats"):
            (await ctx.http.get(f"{path}?colour=red")).expect(400, code="bad_request", why="colour is not a parameter")
            (await ctx.http.get(path)).require(200)
        (await ctx.http.try_stream(f"{session.path}/events?colour=red")).expect(400, code="bad_request")


@check("HTTP-3.ws-member")
async def unknown_members_are_rejected(ctx: CheckContext) -> None:
    """An unknown member of a WebSocket action returns bad_request."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        text = ctx.simple_prompt()
        session.announce(text)
        (await socket.act("prompt", text=text, colour="red")).expect(
            400, code="bad_request", why="colour is not a member"
        )
        expect(await session.history() == [], "a rejected prompt is in the history")
        (await socket.act("prompt", text=text)).require(202)


@check("HTTP-3.empty-body")
async def empty_bodies_are_accepted(ctx: CheckContext) -> None:
    """An empty body is equivalent to {} if no field is required."""
    async with ctx.session() as session:
        for route in ("abort", "tickets"):
            if route == "tickets" and not ctx.has("tickets"):
                continue
            full = await ctx.http.post(f"{session.path}/{route}", {}, secret=True)
            full.require(200, 201, 202)
            empty = await ctx.http.post(f"{session.path}/{route}", secret=True)
            empty.expect(full.status, why="an empty body is equivalent to {}")


@check("HTTP-3.media-type")
async def other_media_types_are_rejected(ctx: CheckContext) -> None:
    """A body that is not declared as JSON in UTF-8 returns 415 with a message that names the expected type."""
    async with ctx.session() as session:
        body = b'{"text": "Hello."}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"):
            response = await ctx.http.post(f"{session.path}/prompt", content=body, headers={"Content-Type": kind})
            response.expect(415, code="unsupported_media_type", why=kind)
            expect(
                "application/json" in response.message,
                f"the message does not name application/json: {response.message!r}",
            )
        expect(await session.history() == [], "a rejected prompt is in the history")
        for kind in ("application/json", "application/json; charset=utf-8"):
            response = await ctx.http.post(f"{session.path}/prompt", content=body, headers={"Content-Type": kind})
            response.expect(202, why=kind)


# -- paths and methods ---------------------------------------------------------------------------------------------------


@check("HTTP-6.unknown-path")
async def unknown_paths_are_rejected(ctx: CheckContext) -> None:
    """An unknown path returns 404 with a message that names method and path."""
    for method, path in (
        ("GET", "/v1/no-such-route"),
        ("POST", "/v1/sessions/a/no-such-route"),
        ("GET", "/no-such-route"),
    ):
        response = await ctx.http.request(method, path, {} if method == "POST" else None)
        response.expect(404, code="not_found")
        expect(
            method in response.message and path in response.message,
            f"the message does not name {method} {path}: {response.message!r}",
        )


@check("HTTP-6.wrong-method")
async def wrong_methods_are_rejected(ctx: CheckContext) -> None:
    """A known path with a wrong method returns 405 and lists the allowed methods."""
    async with ctx.session() as session:
        invalid = (
            ("PUT", "/v1/sessions", "POST"),
            ("GET", f"{session.path}/prompt", "POST"),
            ("POST", session.path, "GET"),
            ("PATCH", f"{session.path}/stats", "GET"),
        )
        for method, path, body_fields in invalid:
            response = await ctx.http.request(method, path, {} if method != "GET" else None)
            response.expect(405, code="method_not_allowed")
            allowed = [each.strip() for each in response.headers.get("allow", "").split(",")]
            expect(
                body_fields in allowed and method not in allowed,
                f"{method} {path}: Allow is {response.headers.get('allow')!r}",
            )


@check("HTTP-6.key-first")
async def the_key_is_checked_first(ctx: CheckContext) -> None:
    """Without a key, unknown paths and methods return 401, also outside /v1."""
    for method, path, with_key in (
        ("GET", "/v1/no-such-route", 404),
        ("PUT", "/v1/sessions", 405),
        ("GET", "/no-such-route", 404),
        ("PUT", "/healthz", 405),
    ):
        body: dict[str, Any] | None = {} if method == "PUT" else None
        (await ctx.anonymous.request(method, path, body)).expect(401, code="unauthorized")
        (await ctx.http.request(method, path, body)).expect(with_key, why="with the key")
