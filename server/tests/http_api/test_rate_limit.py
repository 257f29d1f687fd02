"""Rate limits: HTTP-9."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.gateways import KEY, OTHER_KEY, TENANTS, in_process_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


def quota(headers: Mapping[str, str]) -> tuple[str, str, str]:
    """The policy, the remaining requests, and the seconds until the quota is full."""
    remaining, _, reset = headers["ratelimit"].removeprefix('"default";r=').partition(";t=")
    return headers["ratelimit-policy"], remaining, reset


async def test_every_response_has_the_remaining_quota(tmp_path: Path) -> None:
    """HTTP-9: `RateLimit` and `RateLimit-Policy`, on errors too."""
    async with in_process_gateway(tmp_path, rate_limit_rpm=60) as served, served.client() as client:
        told = [
            quota((await client.get("/v1/usage")).headers),
            quota((await client.get("/v1/nothing")).headers),
            quota((await client.post("/v1/sessions", json={"model": 1})).headers),
        ]

    assert told == [('"default";q=60;w=60', left, reset) for left, reset in (("59", "1"), ("58", "2"), ("57", "3"))]


async def test_over_the_limit_a_request_is_rejected_with_retry_after(tmp_path: Path) -> None:
    """HTTP-9: `Retry-After` in whole seconds, and the same number in the body."""
    async with in_process_gateway(tmp_path, rate_limit_rpm=2) as served, served.client() as client:
        taken = [(await client.get("/v1/usage")).status_code for _ in range(2)]
        refused = await client.post(
            "/v1/sessions", json={"model": "scripted:x"}, headers={"Origin": "https://a.example"}
        )
        still_there = await served.gateway.store.sessions("default", limit=10)

    seconds = refused.json()["retryAfter"]
    assert taken == [200, 200]
    assert refused.status_code == 429
    assert refused.json() == {
        "error": "rate_limited",
        "message": f"too many requests; try again in {seconds} s",
        "retryAfter": seconds,
    }
    assert type(seconds) is int
    assert 1 <= seconds <= 30
    assert refused.headers["retry-after"] == str(seconds)
    assert quota(refused.headers)[:2] == ('"default";q=2;w=60', "0")
    assert refused.headers["access-control-allow-origin"] == "*"
    assert still_there == []


async def test_sixty_requests_a_minute_are_allowed_by_default(tmp_path: Path) -> None:
    """HTTP-9."""
    async with in_process_gateway(tmp_path, rate_limit_rpm=None) as served, served.client() as client:
        answer = await client.get("/v1/capabilities")

    assert quota(answer.headers)[:2] == ('"default";q=60;w=60', "59")
    assert answer.json()["limits"]["rpm"] == 60


async def test_the_burst_can_be_smaller_than_the_rate(tmp_path: Path) -> None:
    """HTTP-9: as configured in the file."""
    file = {"rate_limit": {"rpm": 600, "burst": 2}}
    async with in_process_gateway(tmp_path, rate_limit_rpm=None, file=file) as served, served.client() as client:
        answers = [await client.get("/v1/usage") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["retryAfter"] == 1


async def test_each_key_has_its_own_bucket(tmp_path: Path) -> None:
    """HTTP-9: also two keys of one tenant."""
    async with in_process_gateway(tmp_path, rate_limit_rpm=1) as served:
        served.keys.replace({**TENANTS, "another key": "default"})
        found: list[int] = []
        for key in (KEY, KEY, "another key", OTHER_KEY, OTHER_KEY):
            async with served.client(key) as client:
                found.append((await client.get("/v1/usage")).status_code)

    assert found == [200, 429, 200, 200, 429]


async def test_unauthenticated_requests_are_not_counted(tmp_path: Path) -> None:
    """HTTP-9: the limit applies to authenticated requests; public routes have none."""
    async with (
        in_process_gateway(tmp_path, rate_limit_rpm=1) as served,
        served.client() as client,
        served.client("no") as nobody,
    ):
        refused = [await nobody.get("/v1/usage") for _ in range(3)]
        alive = [await client.get("/healthz") for _ in range(3)]
        preflights = [await client.options("/v1/usage", headers=_PREFLIGHT) for _ in range(3)]
        let_in = await client.get("/v1/usage")

    assert {answer.status_code for answer in refused} == {401}
    assert {answer.status_code for answer in alive} == {200}
    assert {answer.status_code for answer in preflights} == {204}
    assert not any("ratelimit" in answer.headers for answer in (*refused, *alive))
    assert let_in.status_code == 200


async def test_opening_a_stream_counts_as_one_request(tmp_path: Path) -> None:
    """HTTP-9."""
    async with in_process_gateway(tmp_path, rate_limit_rpm=4) as served, served.client() as client:
        talk = await Conversation.begin(client)
        await talk.run("one for the prompt, and one for its stream")

        left = await client.get("/v1/usage")

    assert quota(left.headers)[1] == "0"


async def test_a_ticket_counts_against_the_rate_of_its_key(tmp_path: Path) -> None:
    """HTTP-9: a ticket does not raise the limit of the key that issued it."""
    async with (
        in_process_gateway(tmp_path, rate_limit_rpm=3) as served,
        served.client() as client,
        served.client(None) as browser,
    ):
        talk = await Conversation.begin(client)
        ticket = (await talk.post("tickets")).json()["ticket"]
        async with browser.stream("GET", f"{talk.path}/events", params={"ticket": ticket}) as stream:
            last = quota(stream.headers)
        refused = await client.get("/v1/usage")

    assert last[1] == "0"
    assert refused.status_code == 429


async def test_without_a_limit_the_headers_are_absent(client: httpx.AsyncClient) -> None:
    """HTTP-9: `GATEWAY_RATE_LIMIT_RPM=0`."""
    answers = [await client.get("/v1/capabilities") for _ in range(100)]

    assert {answer.status_code for answer in answers} == {200}
    assert not {"ratelimit", "ratelimit-policy", "retry-after"} & {*answers[0].headers}
    assert answers[0].json()["limits"]["rpm"] == 0


_PREFLIGHT = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
