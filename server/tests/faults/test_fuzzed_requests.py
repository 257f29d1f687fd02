"""Experiment 6: fuzzed requests: nearly valid bodies, and nearly valid HTTP.

HTTP-2 … HTTP-6: each gets a documented response, never a 5xx or a reset; nothing is smuggled past the parser, no
traceback is logged, and no memory is lost.
"""

import asyncio
import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest
from cmdc_testkit.contract import Contract
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.raw_connections import RawConnection, RawResponse, connect, request
from cmdc_testkit.raw_requests import (
    MALFORMED,
    MALFORMED_BODIES,
    SMUGGLED,
    TOO_LARGE,
    WELL_FRAMED,
    RawRequest,
)
from cmdc_testkit.resource_usage import ResourceUsage, mib

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures a process with /proc")

TOOL = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": "http://127.0.0.1:9/"}
# A valid body for each operation, which is then changed.
BODIES: dict[str, dict[str, Any]] = {
    "create_session": {
        "model": "scripted:x",
        "systemPrompt": "s",
        "tools": ["ask_user"],
        "plugins": [],
        "maxTurns": 3,
        "maxTokens": 5,
        "providerOpts": {"temperature": 0.5},
        "approval": {"tools": ["*"], "timeoutMs": 5},
        "metadata": {"a": "b"},
        "budget": {"maxTokens": 5, "maxCostUsd": 0.5},
    },
    "post_prompt": {"text": "x"},
    "approve": {"approvalId": "a", "args": {"a": 1}, "digest": "d"},
    "reject": {"approvalId": "a", "reason": "r"},
    "respond": {"ref": "r", "response": "x"},
    "abort_run": {"reason": "r"},
    "issue_ticket": {"scope": "read"},
    "register_tool": {**TOOL, "timeoutMs": 5, "requiresApproval": True, "idempotent": True, "secret": "whsec_x"},
}
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, -(2**63), 0.5, -0.0, 1e308, 5e-324),
    *("", "x", "\n", "\u2028", "\ufffe", "🜲", "x" * 300, "../..", "a\tb", "scripted:", ":", "*", "CMDC.Tool.Shell"),
    *([], {}, [[]], [None], {"": ""}, {"a": {"b": [1, {"c": None}]}}, ["x"] * 500, {str(n): n for n in range(500)}),
    *(
        {"type": "object", "$ref": "#"},
        {"type": "object", "properties": {"a": {"pattern": "(("}}},
        "http://[::1",
        "http://a",
    ),
]
# Bytes in place of a JSON value that the server has to reject (HTTP-4).
INVALID_VALUES = [
    *(b"NaN", b"-Infinity", b"1e999", b"9223372036854775808", b"9" * 5000, b"01", b"1.", b".5", b"+1", b"0x1", b"1_0"),
    *(b'"\\ud800"', b'"\\u0000"', b'"\0"', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\\x"', b"'x'", b'"', b"tru"),
    *(
        b"[" * 100 + b"]" * 100,
        b"[" * 50_000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"a":1,"a":2}',
        b"[1,]",
        b"{,}",
        b"",
    ),
]
NAMES = ["", "x", "..", "%", "\0", "\r\nX: y", "é", "\u2028", "a" * 200, "'; DROP TABLE sessions; --", "{{7*7}}", "s"]
HEADERS = [
    *(
        b"Content-Type: text/plain",
        b"Content-Type: \xff",
        b"Content-Type: application/json; charset=\xff",
    ),
    *(
        b"Content-Type: application/json; charset*0*=x'y'%80; charset*1=z",
        b"Content-Type: multipart/form-data; boundary=x",
    ),
    *(b"Idempotency-Key: a", b"Idempotency-Key: \xff", b"Idempotency-Key: " + b"k" * 256, b"Last-Event-ID: \xff\x80"),
    *(
        b"Last-Event-ID: a.99999999999999999999",
        b"Accept: application/json",
        b"Accept: \xff;q=x",
        b"Accept-Encoding: gzip",
    ),
    *(b"Host: \xff\xfe", b"Host: [", b"Host: a/b?c#d", b"Host: a@b:999999", b"Host: ", b"X-Forwarded-Host: evil"),
    *(b"Origin: null", b"Origin: \xff", b"Cookie: " + b"a" * 8_000, b"Range: bytes=0-,0-,0-", b"Expect: 200-maybe"),
    *(b"X-HTTP-Method-Override: DELETE", b"Content-Encoding: gzip", b"TE: trailers", b"Upgrade: h2c", b"Via: 1.1 x"),
    *(b"X-API-Key: \xff", b"X-API-Key: ", b"Authorization: Bearer \xed\xa0\x80", b"Authorization: Basic e30="),
]
WARM_UP_REQUESTS = 200
_SHORT = [framed for framed in WELL_FRAMED if len(framed.raw) < 10_000 and framed.name != "HEAD"]


async def test_fuzzed_requests_get_documented_responses(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-2 … HTTP-5."""
    trials, rng = experiment.trials(short=400, long=7_000), experiment.random
    async with GatewayProcess(tmp_path) as gateway, gateway.client() as client:
        contract = Contract()
        fuzzer = Fuzzer(contract, rng)
        await _fuzz(gateway, fuzzer, WARM_UP_REQUESTS)
        await _delete_sessions(client)
        before = ResourceUsage.of(gateway.pid).memory
        statuses = await _fuzz(gateway, fuzzer, trials)
        await _delete_sessions(client)
        grown = ResourceUsage.of(gateway.pid).memory - before
        log = gateway.log()
    experiment.record("requests", statuses.total())
    experiment.record("statuses", ", ".join(f"{status} {count:,}×" for status, count in sorted(statuses.items())))
    experiment.record("memory", mib(grown))
    assert not any(status >= 500 for status in statuses)
    assert "Traceback" not in log
    assert '"level": "error"' not in log
    assert grown <= 20 * 2**20


async def _fuzz(gateway: GatewayProcess, fuzzer: "Fuzzer", trials: int) -> Counter[int]:
    """Send requests, each on its own connection, and validate the responses against the published document."""
    statuses: Counter[int] = Counter()
    await _ensure_session(gateway)
    for number in range(trials):
        if number % 100 == 0:
            await _ensure_session(gateway)
        fuzzed = fuzzer.next()
        async with connect(gateway.port, fuzzed.raw) as connection:
            response = await connection.read_response(to_head=fuzzed.method == "HEAD")
            assert isinstance(response, RawResponse), f"{response}: {fuzzed.raw[:500]!r}"
            assert await connection.read_end() == "closed", fuzzed.raw[:500]
        fuzzer.validate(fuzzed, response)
        statuses[response.status] += 1
    return statuses


async def _ensure_session(gateway: GatewayProcess) -> None:
    """Create the session `s` that requests refer to, if a fuzzed request has deleted it."""
    async with gateway.client() as client:
        made = await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        assert made.status_code in (201, 409)


async def _delete_sessions(client: httpx.AsyncClient) -> None:
    """Delete the sessions that fuzzed requests have created."""
    while sessions := (await client.get("/v1/sessions", params={"limit": 1000})).json()["sessions"]:
        for session in sessions:
            assert (await client.delete(f"/v1/sessions/{session['sessionId']}")).status_code == 200


class FuzzedRequest:
    """A request and its parts."""

    def __init__(self, method: str, target: str, raw: bytes, body: bytes | None) -> None:
        self.method = method
        self.target = target
        self.raw = raw
        self.body = body


class Fuzzer:
    """Derives nearly valid requests from the published document."""

    def __init__(self, contract: Contract, rng: random.Random) -> None:
        self._contract = contract
        self._rng = rng
        self._operations = [one for one in contract.operations if not one.path.endswith("/ws")]

    def next(self) -> FuzzedRequest:
        rng = self._rng
        operation = rng.choice(self._operations)
        path = operation.path
        for name in ("session_id", "name"):
            given = "s" if rng.random() < 0.8 else rng.choice(NAMES)
            path = path.replace(f"{{{name}}}", quote(given, safe=""))
        if operation.name == "delete_session" and rng.random() < 0.8:
            path = "/v1/sessions/none"
        target = path + self._query(operation.definition)
        body = self._body(operation.name)
        fields = [rng.choice(HEADERS)] if rng.random() < 0.3 else []
        if operation.path.endswith("/events"):
            fields.append(b"Accept: application/json")
        raw = request(operation.method, target, b"Connection: close", *fields, body=body)
        if any(field.startswith(b"Host:") for field in fields):
            raw = raw.replace(b"Host: gateway\r\n", b"", 1)
        return FuzzedRequest(operation.method, target, raw, body)

    def validate(self, fuzzed: FuzzedRequest, response: RawResponse) -> None:
        """The response is documented for its operation; without an operation, it is an error (HTTP-2)."""
        where = f"{fuzzed.raw[:700]!r}: {response.status} {response.body[:300]!r}"
        if response.status >= 400:
            assert {"error", "message"} <= set(response.json), where
        sent = httpx.Request(fuzzed.method, httpx.URL(f"http://gateway{fuzzed.target}"), content=fuzzed.body or b"")
        if not any(operation.matches(sent) for operation in self._contract.operations):
            assert response.status in (400, 401, 404, 405), where
            return
        received = httpx.Response(response.status, headers=response.headers, content=response.body, request=sent)
        self._contract.validate(received, response.body)

    def _query(self, described: dict[str, Any]) -> str:
        rng = self._rng
        if rng.random() < 0.6:
            return ""
        names = [one["name"] for one in described.get("parameters", ()) if one.get("in") == "query"] + ["x", "api_key"]
        values = [*NAMES, "1", "0", "-1", "9" * 30, "true", "start", "latest", "a.1", "idle", "agent_end,error"]
        pairs = [(rng.choice(names), rng.choice(values)) for _ in range(rng.randint(1, 3))]
        return "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)

    def _body(self, name: str) -> bytes | None:
        rng = self._rng
        if name not in BODIES:
            return b'{"x": 1}' if rng.random() < 0.05 else None
        body = copy.deepcopy(BODIES[name])
        if rng.random() < 0.3:
            return self._damage(json.dumps(body).encode())
        for _ in range(rng.randint(0, 3)):
            self._change(body)
        raw = json.dumps(body).encode()
        if rng.random() < 0.3:
            raw = raw.replace(b"@", rng.choice(INVALID_VALUES))
        return raw

    def _change(self, body: dict[str, Any]) -> None:
        """Remove a field, change its value, or add one, at any level."""
        rng = self._rng
        inner = [cast("dict[str, Any]", value) for value in body.values() if isinstance(value, dict)]
        if inner and rng.random() < 0.3:
            body = rng.choice(inner)
        if body and rng.random() < 0.3:
            del body[rng.choice(list(body))]
        elif body and rng.random() < 0.8:
            body[rng.choice(list(body))] = self._value() if rng.random() < 0.8 else "@"
        else:
            body[rng.choice([*NAMES, "sessionId", "blueprint", "workingDir", "skillsDirs"])] = self._value()

    def _value(self) -> Any:
        return copy.deepcopy(self._rng.choice(VALUES))

    def _damage(self, raw: bytes) -> bytes:
        """Change a few bytes of JSON text."""
        rng = self._rng
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(raw) + 1)
            match rng.randrange(4):
                case 0:
                    raw = raw[:at]
                case 1:
                    raw = raw[:at] + rng.choice(INVALID_VALUES)[:2_000] + raw[at:]
                case 2:
                    raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
                case _:
                    raw = raw[:at] + raw[at : at + 9] + raw[at:]
        return raw


# -- nearly valid HTTP -------------------------------------------------------------------------------------------------


async def test_nearly_valid_http_is_handled_or_rejected_and_smuggles_nothing(
    experiment: Experiment, tmp_path: Path
) -> None:
    """HTTP-2, HTTP-5: also in several packets. A request inside another one must not be handled."""
    trials, rng = experiment.trials(short=400, long=3_000), experiment.random
    outcomes: Counter[str] = Counter()
    async with GatewayProcess(tmp_path) as gateway:
        before = 0
        for number, framed in enumerate(_raw_requests(trials, rng)):
            outcomes[await _send(gateway.port, framed, rng)] += 1
            if number == min(100, trials // 2):
                before = ResourceUsage.of(gateway.pid).memory
        grown = ResourceUsage.of(gateway.pid).memory - before
        log = gateway.log()
    experiment.record("raw requests", outcomes.total())
    experiment.record("outcomes", ", ".join(f"{what} {count:,}×" for what, count in sorted(outcomes.items())))
    experiment.record("memory", mib(grown))
    assert "Traceback" not in log
    assert log.count("\n") <= 1, "hostile clients do not fill the log"
    assert grown <= 20 * 2**20


async def test_pipelined_requests_get_responses_in_order(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-2: split anywhere, with every unusual framing."""
    rows, rng = experiment.trials(short=15, long=300), experiment.random
    staying = [
        framed for framed in WELL_FRAMED if framed.statuses and len(framed.statuses) > 1 and framed.name != "HEAD"
    ]
    answered = 0
    async with GatewayProcess(tmp_path) as gateway:
        for _ in range(rows):
            row = rng.choices(staying, k=rng.randint(2, 40))
            raw = b"".join(framed.raw for framed in row) + SMUGGLED
            async with connect(gateway.port, *_split(raw, rng, most=10)) as connection:
                connection.writer.write_eof()
                responses, end = await _responses(connection, to_head=False)
            expected = [framed.statuses[0] for framed in row if framed.statuses]
            assert [response.status for response in responses] == [*expected, 401], [framed.name for framed in row]
            assert end == "closed"
            answered += len(responses)
        log = gateway.log()
    experiment.record("pipelined requests", answered)
    assert log.count("\n") <= 1


def _raw_requests(trials: int, rng: random.Random) -> Iterator[RawRequest]:
    """Yield every listed request, then well-framed ones with random changes."""
    known = [*WELL_FRAMED, *MALFORMED, *MALFORMED_BODIES, *TOO_LARGE]
    yield from known
    for _ in range(trials - len(known)):
        base = bytearray(rng.choice(_SHORT).raw)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(base))
            match rng.randrange(4):
                case 0:
                    base[at] = rng.randrange(256)
                case 1:
                    del base[at : at + rng.randint(1, 8)]
                case 2:
                    base[at:at] = rng.choice([b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\xff", b"\r\n", b"%00"])
                case _:
                    base[at:at] = base[max(0, at - 20) : at]
            if not base:
                base += b"x"
        yield RawRequest("a random change", bytes(base), None)


def _split(raw: bytes, rng: random.Random, *, most: int) -> list[bytes]:
    """Split bytes into packets; half of the time into connection."""
    cuts = sorted(rng.sample(range(len(raw)), k=min(len(raw), rng.choice([0, rng.randint(0, most)]))))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


async def _send(port: int, framed: RawRequest, rng: random.Random) -> str:
    """Send a request, in one or more packets, followed by a smuggled one; return a summary of the outcome."""
    raw = framed.raw + SMUGGLED
    async with connect(port, *_split(raw, rng, most=3)) as connection:
        connection.writer.write_eof()
        responses, end = await _responses(connection, to_head=framed.name == "HEAD")
    statuses = [response.status for response in responses]
    where = f"{framed.name}: {raw[:500]!r}: {statuses} {end}"
    assert end != "reset", where
    assert all(status < 500 for status in statuses), where
    for response in responses:
        if response.status >= 400 and response.body:
            assert {"error", "message"} <= set(response.json), where
    if framed.statuses is None:
        return (
            "random change: rejected"
            if statuses[-1:] == [400]
            else "random change: handled"
            if statuses
            else "random change: incomplete"
        )
    assert tuple(statuses) == framed.statuses, where
    return "well framed: handled" if framed in WELL_FRAMED else "rejected, nothing smuggled"


async def _responses(connection: RawConnection, *, to_head: bool) -> tuple[list[RawResponse], str]:
    responses: list[RawResponse] = []
    async with asyncio.timeout(60):
        while isinstance(response := await connection.read_response(to_head=to_head and not responses), RawResponse):
            responses.append(response)
    return responses, response
