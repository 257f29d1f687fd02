"""Routing and error bodies: HTTP-2, HTTP-6, and failures of the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from cmdc_gateway.errors import GatewayError
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import UsageRow
from cmdc_gateway.store.store import Lease
from cmdc_gateway.store.writes import Write
from cmdc_gateway.web.errors import STATUS
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from structlog.testing import capture_logs

# Nothing is changed by what is refused, so one gateway does for the module.
pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS = {
    "/healthz": "GET",
    "/readyz": "GET",
    "/v1/capabilities": "GET",
    "/v1/usage": "GET",
    "/v1/sessions": "GET, POST",
    "/v1/sessions/s": "DELETE, GET",
    "/v1/sessions/s/prompt": "POST",
    "/v1/sessions/s/abort": "POST",
    "/v1/sessions/s/tickets": "POST",
    "/v1/sessions/s/approve": "POST",
    "/v1/sessions/s/reject": "POST",
    "/v1/sessions/s/respond": "POST",
    "/v1/sessions/s/tools": "GET, POST",
    "/v1/sessions/s/tools/t": "DELETE",
    "/v1/sessions/s/messages": "GET",
    "/v1/sessions/s/stats": "GET",
    "/v1/sessions/s/events": "GET",
    "/v1/sessions/s/ws": "GET",
}


@pytest.fixture
def served(shared: InProcessGateway) -> InProcessGateway:
    return shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(shared: InProcessGateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with one session, `s`."""
    async with shared.client() as client:
        await Conversation.begin(client, sessionId="s")
        yield client


class BrokenStore(MemoryStore):
    """A store that can be unavailable, and that can raise an unexpected exception."""

    down = False
    defect = False

    async def commit(self, writes: Sequence[Write], lease: Lease | None = None) -> None:
        if self.down:
            raise StoreUnavailable("the disk is full")
        await super().commit(writes, lease)

    async def ping(self) -> None:
        if self.down:
            raise StoreUnavailable("the disk is full")

    async def tracked_keys(self) -> int:
        if self.down:
            raise StoreUnavailable("the disk is full")
        return await super().tracked_keys()

    async def usage(self, tenant: str) -> list[UsageRow]:
        if self.defect:
            raise RuntimeError("hush: the password is swordfish")
        return await super().usage(tenant)


def subclasses(kind: type[GatewayError]) -> list[type[GatewayError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in subclasses(child))]


async def test_every_error_class_has_a_code_with_a_status() -> None:
    """HTTP-2."""
    assert STATUS == {
        "bad_request": 400,
        "invalid_cursor": 400,
        "unauthorized": 401,
        "budget_exceeded": 402,
        "forbidden": 403,
        "not_found": 404,
        "session_dead": 404,
        "method_not_allowed": 405,
        "request_timeout": 408,
        "already_resolved": 409,
        "digest_mismatch": 409,
        "session_exists": 409,
        "idempotency_in_progress": 409,
        "cursor_expired": 410,
        "payload_too_large": 413,
        "uri_too_long": 414,
        "unsupported_media_type": 415,
        "create_failed": 422,
        "registration_failed": 422,
        "idempotency_mismatch": 422,
        "upgrade_required": 426,
        "rate_limited": 429,
        "queue_full": 429,
        "headers_too_large": 431,
        "internal": 500,
        "unavailable": 503,
    }
    assert {kind.code for kind in subclasses(GatewayError)[1:]} == set(STATUS)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("GET", "/v1/nothing"),
        ("POST", "/v1/nothing"),
        ("GET", "/v1/sessions/"),
        ("GET", "/v1//sessions"),
        ("GET", "/V1/sessions"),
        ("GET", "/v2/sessions"),
        ("GET", "/v1/sessions/s/nothing"),
        ("POST", "/v1/sessions/s/prompt/again"),
        ("DELETE", "/"),
    ],
)
async def test_an_unknown_path_is_not_found_and_the_message_names_it(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    """HTTP-6."""
    answer = await client.request(method, path)

    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "not_found", "message": f"there is nothing at {method} {path}"},
    )


@pytest.mark.parametrize("path", METHODS)
async def test_a_wrong_method_gets_the_allowed_ones(client: httpx.AsyncClient, path: str) -> None:
    """HTTP-6."""
    allowed = METHODS[path].split(", ")

    for method in {"GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"} - {*allowed}:
        answer = await client.request(method, path)

        assert (answer.status_code, answer.headers["allow"]) == (405, METHODS[path])
        assert answer.json() == {
            "error": "method_not_allowed",
            "message": f"{method} is not allowed for {path}; allowed: {METHODS[path]}",
        }


async def test_the_paths_above_are_those_of_the_server(served: InProcessGateway) -> None:
    """So that a new route is added here too."""
    paths = {
        path.replace("{session_id}", "s").replace("{name}", "t"): ", ".join(
            sorted(method.upper() for method in methods)
        )
        for path, methods in served.app.openapi()["paths"].items()
    }

    assert {path: paths[path] for path in METHODS} == METHODS
    assert {path for path in paths if path.startswith("/v1")} <= set(METHODS)


async def test_an_error_of_the_parser_has_the_usual_body(served: InProcessGateway) -> None:
    """HTTP-2."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /v1/sessions HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(body)) == {"error", "message"}
    assert json.loads(body)["error"] == "bad_request"


async def test_a_plain_get_of_the_websocket_requires_an_upgrade(client: httpx.AsyncClient) -> None:
    """WS-1.plain."""
    answer = await client.get("/v1/sessions/s/ws")

    assert (answer.status_code, answer.headers["upgrade"], answer.json()["error"]) == (
        426,
        "websocket",
        "upgrade_required",
    )


async def test_an_internal_error_has_an_incident_id_that_is_in_the_log(tmp_path: Path) -> None:
    """HTTP-2, `internal`: nothing else leaks."""
    store = BrokenStore()
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        store.defect = True
        with capture_logs() as logged:
            answer = await client.get("/v1/usage", headers={"Origin": "https://a.example"})

    [entry] = [entry for entry in logged if entry["event"] == "internal_error"]
    assert (answer.status_code, answer.json()) == (
        500,
        {"error": "internal", "message": f"internal error; see incident {entry['incident']} in the server's log"},
    )
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_without_its_store_the_server_is_unavailable_until_the_store_is_back(tmp_path: Path) -> None:
    """DUR-5: never a 2xx without a commit."""
    store = BrokenStore()
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        talk = await Conversation.begin(client)
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        store.down = True

        refused = [
            await client.post("/v1/sessions", json={"model": "scripted:x"}),
            await talk.post("prompt", {"text": "x"}),
            await client.get("/readyz"),
        ]
        alive = await client.get("/healthz")
        store.down = False

        async with asyncio.timeout(10):
            while (await talk.post("prompt", {"text": "again"})).status_code != 202:
                pass
        after = [await client.get("/readyz"), await client.post("/v1/sessions", json={"model": "scripted:x"})]
        said = await talk.events((await talk.first("prompt_received"))["requestId"])

    assert [(answer.status_code, answer.json()["error"]) for answer in refused] == [(503, "unavailable")] * 3
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert alive.status_code == 200
    assert [answer.status_code for answer in after] == [200, 201]
    assert said[0].data["text"] == "again"
