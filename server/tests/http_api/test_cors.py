"""Cross-origin requests: HTTP-10."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = {"Origin": "https://app.example"}
FOREIGN = {"Origin": "https://evil.example"}
HEADERS = "content-type, x-api-key, authorization, last-event-id, idempotency-key"


@pytest.fixture
def served(shared: InProcessGateway) -> InProcessGateway:
    return shared


def listed(header: str) -> set[str]:
    return {part.strip().lower() for part in header.split(",")}


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_preflight_needs_no_key_and_lists_what_is_allowed(served: InProcessGateway, method: str) -> None:
    """HTTP-7, HTTP-10."""
    asked = {**PAGE, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": HEADERS}
    async with served.client(None) as nobody:
        answer = await nobody.options("/v1/sessions/s/prompt", headers=asked)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert listed(answer.headers["access-control-allow-methods"]) == {"get", "post", "delete", "options"}
    assert listed(answer.headers["access-control-allow-headers"]) >= listed(HEADERS)
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "asked",
    [
        {"Access-Control-Request-Method": "PUT"},
        {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-other"},
    ],
)
async def test_a_rejected_preflight_has_the_usual_body(client: httpx.AsyncClient, asked: dict[str, str]) -> None:
    """HTTP-2, HTTP-10."""
    answer = await client.options("/v1/sessions", headers={**PAGE, **asked})

    assert (answer.status_code, answer.json()) == (
        403,
        {"error": "forbidden", "message": "this origin, method or header is not allowed"},
    )


async def test_a_page_can_read_every_response(served: InProcessGateway, client: httpx.AsyncClient) -> None:
    """HTTP-10: successes, and errors of routes, dispatcher and authentication."""
    async with served.client(None) as nobody:
        answers = [
            await client.get("/v1/capabilities", headers=PAGE),
            await client.post("/v1/sessions", json={"model": "none:x"}, headers=PAGE),
            await client.get("/v1/sessions/none", headers=PAGE),
            await client.get("/v1/nothing", headers=PAGE),
            await client.put("/v1/sessions", headers=PAGE),
            await nobody.get("/v1/usage", headers=PAGE),
            await nobody.get("/healthz", headers=PAGE),
        ]

    assert [answer.status_code for answer in answers] == [200, 422, 404, 404, 405, 401, 200]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {"*"}
    exposed = {"retry-after", "ratelimit", "ratelimit-policy", "idempotent-replayed"}
    assert all(listed(answer.headers["access-control-expose-headers"]) >= exposed for answer in answers)


async def test_a_page_can_read_a_stream(client: httpx.AsyncClient) -> None:
    """HTTP-10."""
    talk = await Conversation.begin(client)

    async with client.stream("GET", f"{talk.path}/events", headers=PAGE) as stream:
        assert stream.headers["access-control-allow-origin"] == "*"
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_only_configured_origins_are_allowed(tmp_path: Path) -> None:
    """HTTP-10: and `Vary` names the origin for caches."""
    origins = ["https://app.example", "http://localhost:3000"]
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    async with in_process_gateway(tmp_path, cors_origins=origins) as served, served.client() as client:
        mine = await client.get("/v1/usage", headers=PAGE)
        foreign = await client.get("/v1/usage", headers=FOREIGN)
        none = await client.get("/v1/usage")
        allowed = await client.options("/v1/sessions", headers={**PAGE, **preflight})
        refused = await client.options("/v1/sessions", headers={**FOREIGN, **preflight})

    assert mine.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in foreign.headers
    assert "access-control-allow-origin" not in none.headers
    assert all("origin" in listed(answer.headers["vary"]) for answer in (mine, foreign, none))
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, "https://app.example")
    assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in refused.headers
