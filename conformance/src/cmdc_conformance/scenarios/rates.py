"""The rate limit."""

from __future__ import annotations

import asyncio

from cmdc_conformance.case import Case
from cmdc_conformance.check import check
from cmdc_conformance.findings import Blocked, NotApplicable, NotExercised, expect, need
from cmdc_conformance.wire import Answer, Http


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
