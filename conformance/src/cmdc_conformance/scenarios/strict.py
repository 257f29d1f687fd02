"""HTTP in general: what is refused, and how; who is let in, and who sees what. Each refusal has a twin that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from cmdc_conformance.case import Case
from cmdc_conformance.check import ONCE, check
from cmdc_conformance.findings import Blocked, NotApplicable, NotExercised, expect, need
from cmdc_conformance.scenarios.endpoints import session_routes
from cmdc_conformance.session import until_state
from cmdc_conformance.socket import opened, refusal
from cmdc_conformance.wire import Answer, Http

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
    (await case.create()).must_be(201, why="only the field is missing")
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
    (await case.create(maxTurns=1, tools=[], maxTokens=10, providerOpts={})).must_be(
        201, why="these are of the right types"
    )
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
        (await case.create(**right)).must_be(201, why=f"{right} is in range")


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
        (await case.http.post(f"{session.path}/prompt", {"text": case.plain()})).must_be(202, why="text is there")


@check("HTTP-3.unknown-parameter")
async def unknown_parameters(case: Case) -> None:
    """A query parameter more is 400."""
    async with case.session() as session:
        for path in (session.path, f"{session.path}/messages", f"{session.path}/stats"):
            (await case.http.get(f"{path}?colour=red")).must_be(400, code="bad_request", why="colour is no parameter")
            (await case.http.get(path)).must_be(200, why="only the parameter is missing")
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
        (await socket.act("prompt", text=text)).must_be(202, why="only the member is missing")


@check("HTTP-3.empty-body")
async def empty_bodies(case: Case) -> None:
    """Nothing is as good as {} where nothing is required."""
    async with case.session() as session:
        for route, status in (("abort", 200), ("tickets", 201)):
            if route == "tickets" and not case.has("tickets"):
                continue
            (await case.http.post(f"{session.path}/{route}", secret=True)).must_be(status, why="an empty body is {}")
            (await case.http.post(f"{session.path}/{route}", {}, secret=True)).must_be(status)


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
    (await case.create(case.second, sessionId=same, systemPrompt="theirs")).must_be(201, why="ids are per tenant")
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


# -- the rate ------------------------------------------------------------------------------------------------------------


async def _exhausted(case: Case) -> tuple[Http, Answer]:
    """A key whose rate is used up, and the answer that says so. Raises NotApplicable or NotExercised."""
    target = case.target
    url = target.limited_url or target.url
    key = target.keys.limited or (target.keys.first if target.limited_url else None)
    if target.limited_url is None and case.server.limit("rpm", target.limits.rpm) == 0:
        raise NotApplicable("the server declares no limit, and no `limited_url` is named")
    if key is None:
        raise NotExercised("needs a key whose rate may be used up: `limited` in [keys], or `limited_url` in [target]")
    http = case.http.at(url, key)
    for _ in range(50):
        answers = await asyncio.gather(*(http.get("/v1/sessions/x", patient=False) for _ in range(40)))
        over = [each for each in answers if each.status == 429]
        if over:
            return http, over[-1]
    raise Blocked("2,000 requests came through without a 429: the limit is too high to be reached")


@check("HTTP-9.limit")
async def the_rate_is_limited(case: Case) -> None:
    """Over the rate every route is 429."""
    try:
        http, answer = await _exhausted(case)
    except Blocked as blocked:
        expect(False, str(blocked))
        raise
    answer.must_be(429, code="rate_limited")
    posted = await asyncio.gather(*(http.post("/v1/sessions", case.fields(), patient=False) for _ in range(5)))
    expect(any(each.status == 429 for each in posted), "sessions can be made over the rate")


@check("HTTP-9.retry-after")
async def how_long_to_wait(case: Case) -> None:
    """Retry-After and retryAfter are the same, and that wait is enough."""
    http, answer = await _exhausted(case)
    header, member = answer.headers.get("retry-after", ""), answer.body.get("retryAfter")
    expect(header.isdigit(), f"Retry-After is {header!r}, not whole seconds")
    expect(isinstance(member, int) and str(member) == header, f"Retry-After is {header}, and retryAfter {member!r}")
    need(int(header) <= 120, f"Retry-After is {header} s: too long to wait")
    await asyncio.sleep(int(header) + 0.05)
    # Other checks may use this key up at the same time, so that it is tried a few times.
    again = answer
    for _ in range(5):
        again = await http.get("/v1/sessions/x", patient=False)
        if again.status != 429:
            return
        await asyncio.sleep(int(again.headers.get("retry-after", "1")) + 0.05)
    again.must_be(404, why=f"after a wait of {header} s")


@check("HTTP-9.per-key")
async def keys_do_not_share(case: Case) -> None:
    """While one key is over its rate another is not."""
    http, _ = await _exhausted(case)
    second = case.target.keys.second
    if second is None:
        raise NotExercised("needs a second key")
    other = await case.http.at(http.url, second).get("/v1/sessions/x", patient=False)
    other.must_be(404, why="another key has its own rate")


@check("HTTP-9.streams")
async def streams_count(case: Case) -> None:
    """Over the rate no stream is opened."""
    http, _ = await _exhausted(case)
    answers: list[int] = []
    for _ in range(5):
        # Not `refused`, which waits a 429 out.
        answer = await http.get("/v1/sessions/x/events", headers={"Accept": "text/event-stream"}, patient=False)
        answers.append(answer.status)
    expect(429 in answers, f"over the rate, streams are answered {answers}")


@check("HTTP-9.headers")
async def the_rate_is_told(case: Case) -> None:
    """Where there is a limit, answers say where one stands."""
    target = case.target
    http = (
        case.http.at(target.limited_url, target.keys.limited or target.keys.first) if target.limited_url else case.http
    )
    if target.limited_url is None and case.server.limit("rpm", target.limits.rpm) in (0, None):
        raise NotApplicable("the server declares no limit")
    answer = await http.get("/v1/sessions/x")
    missing = [name for name in ("ratelimit", "ratelimit-policy") if name not in answer.headers]
    expect(not missing, f"an answer has no {' and no '.join(missing)}")


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


# -- idempotency ---------------------------------------------------------------------------------------------------------


def _key(case: Case) -> dict[str, str]:
    return {"Idempotency-Key": case.fresh("idem")}


@check("HTTP-11.replay")
async def an_answer_again(case: Case) -> None:
    """The same request again has the same answer, and happens once."""
    headers = _key(case)
    first = await case.http.post("/v1/sessions", case.fields(), headers=headers)
    first.needed(201)
    again = await case.http.post("/v1/sessions", case.fields(), headers=headers)
    again.must_be(201)
    expect(again.body == first.body, f"the answer was {first.body}, and is {again.body}")
    expect(again.headers.get("idempotent-replayed") == "true", "it is not marked Idempotent-Replayed: true")
    expect("idempotent-replayed" not in first.headers, "the first answer is marked as a replay")
    async with case.session() as session:
        body, headers = {"text": case.plain()}, _key(case)
        session.noted(body["text"])
        answers = [await case.http.post(f"{session.path}/prompt", body, headers=headers) for _ in range(3)]
        ids = {answer.must_be(202).get("requestId") for answer in answers}
        expect(len(ids) == 1, f"one prompt sent three times is {len(ids)} requests")
        await until_state(case.http, session.path, "idle")
        count = (await session.stats()).needed(200).get("promptCount")
        expect(count == 1, f"one prompt sent three times is counted {count} times")


@check("HTTP-11.mismatch")
async def another_body(case: Case) -> None:
    """Another body under the same key is refused."""
    headers = _key(case)
    (await case.http.post("/v1/sessions", case.fields(), headers=headers)).needed(201)
    other = await case.http.post("/v1/sessions", case.fields(systemPrompt="other"), headers=headers)
    other.must_be(422, code="idempotency_mismatch")
    (await case.http.post("/v1/sessions", case.fields(systemPrompt="other"), headers=_key(case))).must_be(
        201, why="another key"
    )


@check("HTTP-11.concurrent")
async def at_the_same_time(case: Case) -> None:
    """Of requests at the same time one has an effect."""
    async with case.session() as session, case.held(session) as held:
        body, headers = {"text": case.plain()}, _key(case)
        session.noted(body["text"])
        answers = await asyncio.gather(
            *(case.http.post(f"{session.path}/prompt", body, headers=headers) for _ in range(8))
        )
        for answer in answers:
            if answer.status != 202:
                answer.must_be(409, code="idempotency_in_progress")
        ids = {answer.body["requestId"] for answer in answers if answer.status == 202}
        expect(len(ids) == 1, f"eight at the same time are {len(ids)} requests")
        queue = (await session.info()).needed(200).get("queue", [])
        expect(len(queue) == 1, f"eight at the same time leave {len(queue)} prompts in the queue")
        held.release()


@check("HTTP-11.scope")
async def one_route_and_one_tenant(case: Case) -> None:
    """Another route and another tenant have keys of their own."""
    headers = _key(case)
    async with case.session() as one, case.session() as other:
        body = {"text": case.plain()}
        one.noted(body["text"])
        other.noted(body["text"])
        ids = [
            (await case.http.post(f"{each.path}/prompt", body, headers=headers)).must_be(202)["requestId"]
            for each in (one, other)
        ]
        expect(ids[0] != ids[1], "the key of one session's prompt replays it for another session")
    mine = (await case.http.post("/v1/sessions", case.fields(), headers=headers)).must_be(201)
    theirs = await case.second.post("/v1/sessions", case.fields(), headers=headers)
    expect(theirs.must_be(201) != mine, "another tenant gets this tenant's stored answer")


@check("HTTP-11.bounds")
async def what_a_key_is(case: Case) -> None:
    """1 to 255 visible ASCII characters."""
    for wrong in ("", "x" * 256, "a b", "a\tb"):
        answer = await case.http.post("/v1/sessions", case.fields(), headers={"Idempotency-Key": wrong})
        answer.must_be(400, code="bad_request", why=f"Idempotency-Key {wrong!r:.20}")
    right = case.fresh().ljust(255, "~")
    (await case.http.post("/v1/sessions", case.fields(), headers={"Idempotency-Key": right})).must_be(
        201, why="255 are allowed"
    )


@check("HTTP-11.refusal")
async def refusals_are_forgotten(case: Case) -> None:
    """A refused request may be put right under the same key."""
    headers = _key(case)
    wrong = await case.http.post("/v1/sessions", case.fields(tools=["no_such_tool"]), headers=headers)
    wrong.needed(422)
    (await case.http.post("/v1/sessions", case.fields(), headers=headers)).must_be(201, why="the first had no effect")
