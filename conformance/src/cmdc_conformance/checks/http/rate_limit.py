"""The rate limit of a key."""

from __future__ import annotations

import asyncio
from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import check
from cmdc_conformance.findings import Blocked, NotApplicable, NotExercised, expect, require
from cmdc_conformance.wire.http import ApiClient, ApiResponse

_BURST = 40
_MOST_REQUESTS = 2000


async def _most_requests(http: ApiClient) -> int:
    """How many requests are certain to exceed the declared limit, or 2,000 if none is declared."""
    limits: Any = (await http.get("/v1/capabilities", retry_rate_limited=False)).body.get("limits")
    rpm = limits.get("rpm") if isinstance(limits, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return min(2 * rpm + 2 * _BURST, _MOST_REQUESTS) if isinstance(rpm, int) and rpm > 0 else _MOST_REQUESTS


async def _exhaust(ctx: CheckContext) -> tuple[ApiClient, ApiResponse]:
    """Exhaust the rate limit of a key; return its client and a 429. Raises NotApplicable, NotExercised or Blocked."""
    target = ctx.target
    url = target.limited_url or target.url
    key = target.keys.limited or (target.keys.first if target.limited_url else None)
    if target.limited_url is None and ctx.server.limit("rpm", target.limits.rpm) == 0:
        raise NotApplicable("the server declares no rate limit, and the target has no `limited_url`")
    if key is None:
        raise NotExercised(
            "needs a key whose rate limit may be exhausted: `limited` in [keys], or `limited_url` in [target]"
        )
    http = ctx.http.with_url(url, key)
    most = await _most_requests(http)
    for _ in range(0, most, _BURST):
        responses = await asyncio.gather(*(http.get("/v1/sessions/x", retry_rate_limited=False) for _ in range(_BURST)))
        rejected = [each for each in responses if each.status == 429]
        if rejected:
            return http, rejected[-1]
    raise Blocked(f"{most} requests succeeded without a 429")


@check("HTTP-9.limit")
async def requests_over_the_limit_are_rejected(ctx: CheckContext) -> None:
    """Over the rate limit, every route returns 429."""
    try:
        http, response = await _exhaust(ctx)
    except Blocked as blocked:
        expect(False, str(blocked))
        raise
    response.expect(429, code="rate_limited")
    created = await asyncio.gather(
        *(http.post("/v1/sessions", ctx.create_body(), retry_rate_limited=False) for _ in range(5))
    )
    expect(any(each.status == 429 for each in created), "sessions can be created over the rate limit")


@check("HTTP-9.retry-after")
async def retry_after_is_sufficient(ctx: CheckContext) -> None:
    """Retry-After and retryAfter agree, and a request after that wait succeeds."""
    http, response = await _exhaust(ctx)
    header, member = response.headers.get("retry-after", ""), response.body.get("retryAfter")
    expect(header.isdigit(), f"Retry-After is {header!r}, not a whole number of seconds")
    expect(isinstance(member, int) and str(member) == header, f"Retry-After is {header}, and retryAfter is {member!r}")
    require(int(header) <= 120, f"Retry-After is {header} s, too long to wait")
    await asyncio.sleep(int(header) + 0.05)
    # Other checks may exhaust this key at the same time, so try it a few times.
    again = response
    for _ in range(5):
        again = await http.get("/v1/sessions/x", retry_rate_limited=False)
        if again.status != 429:
            return
        await asyncio.sleep(int(again.headers.get("retry-after", "1")) + 0.05)
    again.expect(404, why=f"after a wait of {header} s")


@check("HTTP-9.per-key")
async def keys_have_separate_limits(ctx: CheckContext) -> None:
    """While one key is over its limit, another is not."""
    http, _ = await _exhaust(ctx)
    second = ctx.target.keys.second
    if second is None:
        raise NotExercised("needs a second key")
    clients = [*[http] * 8, ctx.http.with_url(http.url, second)]  # the first ones take what a shared limit regained
    *_, other = await asyncio.gather(*(each.get("/v1/sessions/x", retry_rate_limited=False) for each in clients))
    other.expect(404, why="another key has its own limit")


@check("HTTP-9.streams")
async def streams_count_as_requests(ctx: CheckContext) -> None:
    """Over the rate limit, no stream is opened."""
    http, _ = await _exhaust(ctx)
    responses: list[int] = []
    for _ in range(5):
        # Not `try_stream`, which retries after a 429.
        response = await http.get(
            "/v1/sessions/x/events", headers={"Accept": "text/event-stream"}, retry_rate_limited=False
        )
        responses.append(response.status)
    expect(429 in responses, f"over the rate limit, streams returned {responses}")


@check("HTTP-9.headers")
async def responses_have_rate_limit_headers(ctx: CheckContext) -> None:
    """With a rate limit, responses have RateLimit and RateLimit-Policy."""
    target = ctx.target
    http = (
        ctx.http.with_url(target.limited_url, target.keys.limited or target.keys.first)
        if target.limited_url
        else ctx.http
    )
    if target.limited_url is None and ctx.server.limit("rpm", target.limits.rpm) in (0, None):
        raise NotApplicable("the server declares no rate limit")
    response = await http.get("/v1/sessions/x")
    missing = [name for name in ("ratelimit", "ratelimit-policy") if name not in response.headers]
    expect(not missing, f"a response has no {' and no '.join(missing)}")
