"""Authentication, isolation of tenants, and CORS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.http.sessions import session_routes
from cmdc_conformance.checks.registry import RAW_HTTP, check
from cmdc_conformance.findings import NotExercised, expect, require
from cmdc_conformance.wire.http import ApiClient, ApiResponse
from cmdc_conformance.wire.websocket import handshake_response

# -- keys ----------------------------------------------------------------------------------------------------------------


def _every_route(ctx: CheckContext, session: str) -> list[tuple[str, str, Any]]:
    routes = [("POST", "/v1/sessions", ctx.create_body()), *session_routes(ctx, session)]
    for feature, path in (
        ("list_sessions", "/v1/sessions"),
        ("usage", "/v1/usage"),
        ("capabilities", "/v1/capabilities"),
    ):
        if ctx.has(feature):
            routes.append(("GET", path, None))
    return routes


async def _all_unauthorized(ctx: CheckContext, http: ApiClient) -> None:
    async with ctx.session() as session:
        for method, path, body in _every_route(ctx, session.id):
            if path.endswith("/events"):
                response = await http.try_stream(path)
            else:
                response = await http.request(method, path, body)
            response.expect(401, code="unauthorized")
        (await ctx.http.get(session.path)).expect(200, why="the session exists and is unchanged")


@check("HTTP-7.missing-key")
async def a_missing_key_is_rejected(ctx: CheckContext) -> None:
    """Every route returns 401 without a key."""
    await _all_unauthorized(ctx, ctx.anonymous)


@check("HTTP-7.wrong-key")
async def a_wrong_key_is_rejected(ctx: CheckContext) -> None:
    """Every route returns 401 with a wrong key."""
    await _all_unauthorized(ctx, ctx.http.with_key(ctx.unique("wrong")))
    key = ctx.target.keys.first
    for similar in (key[:-1], key + "x", key.swapcase()):
        if similar != key and similar:
            (await ctx.http.with_key(similar).get("/v1/sessions/x")).expect(
                401, code="unauthorized", why="a key that is almost correct"
            )


@check("HTTP-7.bearer")
async def both_headers_authenticate(ctx: CheckContext) -> None:
    """X-API-Key and Authorization: Bearer both authenticate."""
    async with ctx.session() as session:
        (await ctx.anonymous.get(session.path, headers={"X-API-Key": ctx.target.keys.first})).expect(200)
        (await ctx.anonymous.get(session.path, headers={"Authorization": f"Bearer {ctx.target.keys.first}"})).expect(
            200
        )
        (await ctx.anonymous.get(session.path, headers={"Authorization": "Bearer wrong"})).expect(
            401, code="unauthorized"
        )


@check("HTTP-7.precedence")
async def x_api_key_takes_precedence(ctx: CheckContext) -> None:
    """X-API-Key takes precedence over Authorization, whether it is correct or not."""
    key = ctx.target.keys.first
    async with ctx.session() as session:
        right = {"X-API-Key": key, "Authorization": "Bearer wrong"}
        (await ctx.anonymous.get(session.path, headers=right)).expect(200, why="X-API-Key is correct")
        wrong = {"X-API-Key": "wrong", "Authorization": f"Bearer {key}"}
        (await ctx.anonymous.get(session.path, headers=wrong)).expect(
            401, code="unauthorized", why="X-API-Key is wrong"
        )


@check("HTTP-7.open-routes")
async def public_routes_need_no_key(ctx: CheckContext) -> None:
    """/healthz needs no key, and accepts a wrong one."""
    (await ctx.anonymous.get("/healthz")).expect(200)
    (await ctx.http.with_key("wrong").get("/healthz")).expect(200)
    # On a server that checks no key at all, this check would prove nothing.
    (await ctx.anonymous.get("/v1/sessions/x")).require(401)


@check("HTTP-7.revoked")
async def a_revoked_key_is_rejected(ctx: CheckContext) -> None:
    """A revoked key returns 401."""
    revoked = ctx.target.keys.revoked
    if revoked is None:
        raise NotExercised("needs a revoked key: `revoked` in [keys]")
    (await ctx.http.with_key(revoked).get("/v1/sessions/x")).expect(401, code="unauthorized")
    (await ctx.http.get("/v1/sessions/x")).expect(404, why="with a valid key")


# -- tenants -------------------------------------------------------------------------------------------------------------

# Headers that may differ between any two responses.
_VARYING = frozenset({"date", "ratelimit", "ratelimit-policy", "server-timing", "x-request-id", "traceparent"})


def _comparable(response: ApiResponse, id_: str) -> tuple[int, str, dict[str, str]]:
    headers = {name.lower(): value for name, value in response.headers.items() if name.lower() not in _VARYING}
    return response.status, response.raw.decode("utf-8", "replace").replace(id_, "ID"), headers


@check("HTTP-8.routes")
async def another_tenants_session_looks_unused(ctx: CheckContext) -> None:
    """On every route, another tenant's session is indistinguishable from an unused id."""
    other = ctx.second_tenant
    async with ctx.session(sessionId=ctx.unique("tenant")) as session:
        await session.run_to_end(ctx.simple_prompt())
        unused_id = session.id[:-6] + "nobody"
        theirs, unused = session_routes(ctx, session.id), session_routes(ctx, unused_id)
        for (method, path, body), (_, never_path, _) in zip(theirs, unused, strict=True):
            if path.endswith("/events"):
                responses = await other.try_stream(path), await other.try_stream(never_path)
            else:
                responses = await other.request(method, path, body), await other.request(method, never_path, body)
            responses[0].expect(404, code="not_found", why="the session belongs to another tenant")
            actual, expected = _comparable(responses[0], session.id), _comparable(responses[1], unused_id)
            expect(
                actual == expected,
                f"{method} {path} returned {actual} for another tenant's session, and {expected} for an unused id",
            )
        if ctx.has("event_pages"):
            accept = {"Accept": "application/json"}
            pages = [await other.get(f"/v1/sessions/{id_}/events", headers=accept) for id_ in (session.id, unused_id)]
            expect(
                _comparable(pages[0], session.id) == _comparable(pages[1], unused_id),
                "a page of another tenant's log and of an unused id's differ",
            )


@check("HTTP-8.unharmed")
async def another_tenant_changes_nothing(ctx: CheckContext) -> None:
    """Requests of another tenant have no effect on a session."""
    other = ctx.second_tenant
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        await session.wait_for_state("working")
        for method, path, body in session_routes(ctx, session.id):
            if not path.endswith("/events"):
                await other.request(method, path, body)
        info = (await session.info()).expect(200, why="another tenant tried to delete it")
        expect(info.get("state") == "working", f"the session is {info.get('state')} after requests of another tenant")
        paused.release()
        events = await paused.run.wait_for_end()
        expect(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
        expect(
            len([each for each in await session.history() if each["role"] == "user"]) == 1,
            "another tenant's prompt was accepted",
        )


@check("HTTP-8.same-id")
async def tenants_may_use_the_same_id(ctx: CheckContext) -> None:
    """Two tenants may each have a session with the same id."""
    same = ctx.unique("shared")
    (await ctx.create(sessionId=same, systemPrompt="mine")).require(201)
    (await ctx.create(ctx.second_tenant, sessionId=same, systemPrompt="theirs")).expect(
        200, 201, why="ids are per tenant"
    )
    for http, wanted in ((ctx.http, "mine"), (ctx.second_tenant, "theirs")):
        messages = (await http.get(f"/v1/sessions/{same}/messages")).expect(200).get("messages")
        expect(messages == [{"role": "system", "content": wanted}], f"one tenant's session has {messages}")
    (await ctx.second_tenant.delete(f"/v1/sessions/{same}")).require(200)
    (await ctx.http.get(f"/v1/sessions/{same}")).expect(200, why="another tenant deleted its own")


@check("HTTP-8.ws")
async def another_tenants_websocket_looks_unused(ctx: CheckContext) -> None:
    """The WebSocket of another tenant's session is rejected like one of an unused id."""
    async with ctx.session(sessionId=ctx.unique("tenant")) as session:
        unused_id = session.id[:-6] + "nobody"
        responses = [await handshake_response(ctx.second_tenant, id_) for id_ in (session.id, unused_id)]
        responses[0].expect(404, code="not_found", why="the session belongs to another tenant")
        actual, expected = _comparable(responses[0], session.id), _comparable(responses[1], unused_id)
        expect(
            actual == expected,
            f"the handshake returned {actual} for another tenant's session, and {expected} for an unused id",
        )


@check("HTTP-8.lists")
async def lists_and_usage_are_per_tenant(ctx: CheckContext) -> None:
    """Lists and usage contain only the tenant's own sessions."""
    async with ctx.session(sessionId=ctx.unique("mine")) as session:
        page = (await ctx.second_tenant.get("/v1/sessions?limit=1000")).expect(200)
        expect(
            session.id not in [each["sessionId"] for each in page["sessions"]],
            "another tenant's list contains the session",
        )
        page = (await ctx.http.get("/v1/sessions?limit=1000")).expect(200)
        expect(
            session.id in [each["sessionId"] for each in page["sessions"]],
            "the tenant's own list does not contain the session",
        )
    if ctx.has("usage"):
        tenants = {(await http.get("/v1/usage")).expect(200).get("tenant") for http in (ctx.http, ctx.second_tenant)}
        expect(len(tenants) == 2, "the usage of two tenants names the same tenant")


# -- CORS ----------------------------------------------------------------------------------------------------------------


def _origin(ctx: CheckContext) -> str:
    return ctx.target.origin or "https://app.example"


@check("HTTP-10.preflight")
async def preflights_are_allowed(ctx: CheckContext) -> None:
    """A preflight without a key allows the methods and headers of the protocol."""
    for method in ("GET", "POST", "DELETE"):
        for header in ("content-type", "x-api-key", "authorization", "last-event-id", "idempotency-key"):
            headers = {
                "Origin": _origin(ctx),
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": header,
            }
            response = await ctx.anonymous.request("OPTIONS", "/v1/sessions", headers=headers, monitored=False)
            expect(response.status in (200, 204), f"a preflight for {method} with {header} returned {response.status}")
            fields = {name.lower(): value.lower() for name, value in response.headers.items()}
            expect(
                fields.get("access-control-allow-origin") in ("*", _origin(ctx)),
                "Access-Control-Allow-Origin is missing",
            )
            expect(_allows(fields.get("access-control-allow-methods"), method), f"{method} is not allowed")
            expect(_allows(fields.get("access-control-allow-headers"), header), f"the header {header} is not allowed")


def _allows(listed: str | None, wanted: str) -> bool:
    return listed is not None and (listed == "*" or wanted.lower() in [each.strip() for each in listed.split(",")])


@check("HTTP-10.answers", variants=RAW_HTTP)
async def responses_are_readable_by_browsers(ctx: CheckContext) -> None:
    """Responses, errors and streams have Access-Control-Allow-Origin."""
    headers = {"Origin": _origin(ctx)}

    def expect_allowed(what: str, fields: Mapping[str, str]) -> None:
        origin = fields.get("access-control-allow-origin")
        expect(origin in ("*", _origin(ctx)), f"{what} has Access-Control-Allow-Origin {origin!r}")

    async with ctx.session() as session:
        expect_allowed("a response", (await ctx.http.get(session.path, headers=headers)).headers)
        expect_allowed("a 404", (await ctx.http.get("/v1/sessions/x", headers=headers)).headers)
        expect_allowed("a 401", (await ctx.anonymous.get(session.path, headers=headers)).headers)
        expect_allowed("a 400", (await ctx.http.post(f"{session.path}/prompt", {}, headers=headers)).headers)
        async with ctx.http.open_stream(f"{session.path}/events", headers=headers) as response:
            require(response.status_code == 200, f"a stream returned {response.status_code}")
            expect_allowed("a stream", response.headers)
