"""Who is let in, and who sees what: keys, tenants and browsers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmdc_conformance.case import Case
from cmdc_conformance.check import ONCE, check
from cmdc_conformance.findings import NotExercised, expect, need
from cmdc_conformance.scenarios.sessions import session_routes
from cmdc_conformance.socket import refusal
from cmdc_conformance.wire import Answer, Http

# -- keys ----------------------------------------------------------------------------------------------------------------


def _every_route(case: Case, session: str) -> list[tuple[str, str, Any]]:
    routes = [("POST", "/v1/sessions", case.fields()), *session_routes(case, session)]
    for feature, path in (
        ("list_sessions", "/v1/sessions"),
        ("usage", "/v1/usage"),
        ("capabilities", "/v1/capabilities"),
    ):
        if case.has(feature):
            routes.append(("GET", path, None))
    return routes


async def _all_unauthorized(case: Case, http: Http) -> None:
    async with case.session() as session:
        for method, path, body in _every_route(case, session.id):
            if path.endswith("/events"):
                answer = await http.refused(path)
            else:
                answer = await http.request(method, path, body)
            answer.must_be(401, code="unauthorized")
        (await case.http.get(session.path)).must_be(200, why="with the key it is there, and nothing was done to it")


@check("HTTP-7.missing-key")
async def no_key(case: Case) -> None:
    """Without a key every route is 401."""
    await _all_unauthorized(case, case.nobody)


@check("HTTP-7.wrong-key")
async def a_wrong_key(case: Case) -> None:
    """With a wrong key every route is 401."""
    await _all_unauthorized(case, case.http.with_key(case.fresh("wrong")))
    key = case.target.keys.first
    for near in (key[:-1], key + "x", key.swapcase()):
        if near != key and near:
            (await case.http.with_key(near).get("/v1/sessions/x")).must_be(
                401, code="unauthorized", why="a key that is almost right"
            )


@check("HTTP-7.bearer")
async def both_headers(case: Case) -> None:
    """X-API-Key and Authorization: Bearer are both taken."""
    async with case.session() as session:
        (await case.nobody.get(session.path, headers={"X-API-Key": case.target.keys.first})).must_be(200)
        (await case.nobody.get(session.path, headers={"Authorization": f"Bearer {case.target.keys.first}"})).must_be(
            200
        )
        (await case.nobody.get(session.path, headers={"Authorization": "Bearer wrong"})).must_be(
            401, code="unauthorized"
        )


@check("HTTP-7.precedence")
async def one_header_wins(case: Case) -> None:
    """X-API-Key wins, for better and for worse."""
    key = case.target.keys.first
    async with case.session() as session:
        right = {"X-API-Key": key, "Authorization": "Bearer wrong"}
        (await case.nobody.get(session.path, headers=right)).must_be(200, why="X-API-Key is right")
        wrong = {"X-API-Key": "wrong", "Authorization": f"Bearer {key}"}
        (await case.nobody.get(session.path, headers=wrong)).must_be(401, code="unauthorized", why="X-API-Key is wrong")


@check("HTTP-7.open-routes")
async def open_routes(case: Case) -> None:
    """/healthz needs no key, and what needs none takes a wrong one."""
    (await case.nobody.get("/healthz")).must_be(200)
    (await case.http.with_key("wrong").get("/healthz")).must_be(200)
    # Else it would say nothing that this is open.
    (await case.nobody.get("/v1/sessions/x")).needed(401)


@check("HTTP-7.revoked")
async def a_revoked_key(case: Case) -> None:
    """A key that was taken away is 401."""
    revoked = case.target.keys.revoked
    if revoked is None:
        raise NotExercised("needs a key that was valid once: `revoked` in [keys]")
    (await case.http.with_key(revoked).get("/v1/sessions/x")).must_be(401, code="unauthorized")
    (await case.http.get("/v1/sessions/x")).must_be(404, why="with a valid key")


# -- tenants -------------------------------------------------------------------------------------------------------------

# Headers that may differ between any two answers.
_VARYING = frozenset({"date", "ratelimit", "ratelimit-policy", "server-timing", "x-request-id", "traceparent"})


def _comparable(answer: Answer, id_: str) -> tuple[int, str, dict[str, str]]:
    headers = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in _VARYING}
    return answer.status, answer.raw.decode("utf-8", "replace").replace(id_, "ID"), headers


@check("HTTP-8.routes")
async def another_tenants_session(case: Case) -> None:
    """On every route it is answered as an id that was never used."""
    other = case.second
    async with case.session(sessionId=case.fresh("tenant")) as session:
        await session.ran(case.plain())
        never = session.id[:-6] + "nobody"
        theirs, unused = session_routes(case, session.id), session_routes(case, never)
        for (method, path, body), (_, never_path, _) in zip(theirs, unused, strict=True):
            if path.endswith("/events"):
                answers = await other.refused(path), await other.refused(never_path)
            else:
                answers = await other.request(method, path, body), await other.request(method, never_path, body)
            answers[0].must_be(404, code="not_found", why="it is another tenant's")
            here, there = _comparable(answers[0], session.id), _comparable(answers[1], never)
            expect(here == there, f"{method} {path}: another tenant's is answered {here}, and an unused id {there}")
        if case.has("event_pages"):
            accept = {"Accept": "application/json"}
            pages = [await other.get(f"/v1/sessions/{id_}/events", headers=accept) for id_ in (session.id, never)]
            expect(_comparable(pages[0], session.id) == _comparable(pages[1], never), "pages of the log differ")


@check("HTTP-8.unharmed")
async def nothing_happens_to_it(case: Case) -> None:
    """What another tenant tries does nothing."""
    other = case.second
    async with case.session() as session, case.held(session) as held:
        await session.state("working")
        for method, path, body in session_routes(case, session.id):
            if not path.endswith("/events"):
                await other.request(method, path, body)
        info = (await session.info()).must_be(200, why="another tenant tried to delete it")
        expect(info.get("state") == "working", f"the run was {info.get('state')} after what another tenant tried")
        held.release()
        events = await held.run.end()
        expect(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
        expect(
            len([each for each in await session.history() if each["role"] == "user"]) == 1,
            "another tenant's prompt was taken",
        )


@check("HTTP-8.same-id")
async def two_tenants_one_id(case: Case) -> None:
    """Both may have a session of the same id, and they are two."""
    same = case.fresh("shared")
    (await case.create(sessionId=same, systemPrompt="mine")).needed(201)
    (await case.create(case.second, sessionId=same, systemPrompt="theirs")).must_be(200, 201, why="ids are per tenant")
    for http, wanted in ((case.http, "mine"), (case.second, "theirs")):
        messages = (await http.get(f"/v1/sessions/{same}/messages")).must_be(200).get("messages")
        expect(messages == [{"role": "system", "content": wanted}], f"one tenant's session has {messages}")
    (await case.second.delete(f"/v1/sessions/{same}")).needed(200)
    (await case.http.get(f"/v1/sessions/{same}")).must_be(200, why="another tenant deleted its own")


@check("HTTP-8.ws")
async def another_tenants_websocket(case: Case) -> None:
    """It is refused as one of an id that was never used."""
    async with case.session(sessionId=case.fresh("tenant")) as session:
        never = session.id[:-6] + "nobody"
        answers = [await refusal(case.second, id_) for id_ in (session.id, never)]
        answers[0].must_be(404, code="not_found", why="it is another tenant's")
        here, there = _comparable(answers[0], session.id), _comparable(answers[1], never)
        expect(here == there, f"another tenant's is answered {here}, and an unused id {there}")


@check("HTTP-8.lists")
async def lists_of_a_tenant(case: Case) -> None:
    """Another tenant's list does not have it."""
    async with case.session(sessionId=case.fresh("mine")) as session:
        page = (await case.second.get("/v1/sessions?limit=1000")).must_be(200)
        expect(session.id not in [each["sessionId"] for each in page["sessions"]], "another tenant's list has it")
        page = (await case.http.get("/v1/sessions?limit=1000")).must_be(200)
        expect(session.id in [each["sessionId"] for each in page["sessions"]], "its own tenant's list lacks it")
    if case.has("usage"):
        tenants = {(await http.get("/v1/usage")).must_be(200).get("tenant") for http in (case.http, case.second)}
        expect(len(tenants) == 2, "two tenants have the same usage")


# -- browsers ------------------------------------------------------------------------------------------------------------


def _origin(case: Case) -> str:
    return case.target.origin or "https://app.example"


@check("HTTP-10.preflight")
async def preflights(case: Case) -> None:
    """OPTIONS without a key allows the methods and the headers."""
    for method in ("GET", "POST", "DELETE"):
        for header in ("content-type", "x-api-key", "authorization", "last-event-id", "idempotency-key"):
            headers = {
                "Origin": _origin(case),
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": header,
            }
            answer = await case.nobody.request("OPTIONS", "/v1/sessions", headers=headers, judged=False)
            expect(answer.status in (200, 204), f"a preflight of {method} with {header} is answered {answer.status}")
            given = {name.lower(): value.lower() for name, value in answer.headers.items()}
            expect(
                given.get("access-control-allow-origin") in ("*", _origin(case)),
                "Access-Control-Allow-Origin is missing",
            )
            expect(_allows(given.get("access-control-allow-methods"), method), f"{method} is not allowed")
            expect(_allows(given.get("access-control-allow-headers"), header), f"the header {header} is not allowed")


def _allows(listed: str | None, wanted: str) -> bool:
    return listed is not None and (listed == "*" or wanted.lower() in [each.strip() for each in listed.split(",")])


@check("HTTP-10.answers", faces=ONCE)
async def answers_to_browsers(case: Case) -> None:
    """Answers, errors and streams let the page read them."""
    headers = {"Origin": _origin(case)}

    def allowed(what: str, given: Mapping[str, str]) -> None:
        origin = given.get("access-control-allow-origin")
        expect(origin in ("*", _origin(case)), f"{what} has Access-Control-Allow-Origin {origin!r}")

    async with case.session() as session:
        allowed("an answer", (await case.http.get(session.path, headers=headers)).headers)
        allowed("a 404", (await case.http.get("/v1/sessions/x", headers=headers)).headers)
        allowed("a 401", (await case.nobody.get(session.path, headers=headers)).headers)
        allowed("a 400", (await case.http.post(f"{session.path}/prompt", {}, headers=headers)).headers)
        async with case.http.opened(f"{session.path}/events", headers=headers) as response:
            need(response.status_code == 200, f"a stream is answered {response.status_code}")
            allowed("a stream", response.headers)
