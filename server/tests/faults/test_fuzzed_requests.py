"""Experiment 6: fuzzed requests: bodies that are nearly right, and bytes that are nearly HTTP.

HTTP-2 … HTTP-6: each is answered as documented, never with a 5xx and never by a reset; nothing is smuggled past the
parser, no traceback is logged, and the memory comes back.
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

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="weighs a process by /proc")

TOOL = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": "http://127.0.0.1:9/"}
# A body that each operation takes; what it is changed into below it mostly does not.
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
# Bytes that stand for a value in JSON text and are none that may be sent (HTTP-4).
NO_VALUES = [
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
SETTLING_REQUESTS = 300
_SHORT = [framed for framed in WELL_FRAMED if len(framed.raw) < 10_000 and framed.name != "HEAD"]


async def test_fuzzed_requests_are_answered_as_documented(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-2 … HTTP-5: whatever is wrong with them, and the gateway is as it was afterwards."""
    trials, chance = experiment.trials(short=800, long=7_000), experiment.random
    async with GatewayProcess(tmp_path) as gateway, gateway.client() as client:
        contract = Contract()
        fuzzer = Fuzzer(contract, chance)
        await _fuzz(gateway, fuzzer, SETTLING_REQUESTS)
        await _forget(client)
        before = ResourceUsage.of(gateway.pid).memory
        statuses = await _fuzz(gateway, fuzzer, trials)
        await _forget(client)
        grown = ResourceUsage.of(gateway.pid).memory - before
        log = gateway.log()
    experiment.record("requests", statuses.total())
    experiment.record("answered", ", ".join(f"{status} {count:,}×" for status, count in sorted(statuses.items())))
    experiment.record("memory", mib(grown))
    assert not any(status >= 500 for status in statuses)
    assert "Traceback" not in log
    assert '"level": "error"' not in log
    assert grown <= 20 * 2**20


async def _fuzz(gateway: GatewayProcess, fuzzer: "Fuzzer", trials: int) -> Counter[int]:
    """Send as many requests, each on its own connection; every answer is judged by the published document."""
    statuses: Counter[int] = Counter()
    await _ensure_session(gateway)
    for number in range(trials):
        if number % 100 == 0:
            await _ensure_session(gateway)
        asked = fuzzer.next()
        async with connect(gateway.port, asked.raw) as one:
            answer = await one.read_response(to_head=asked.method == "HEAD")
            assert isinstance(answer, RawResponse), f"{answer}: {asked.raw[:500]!r}"
            assert await one.read_end() == "closed", asked.raw[:500]
        fuzzer.judge(asked, answer)
        statuses[answer.status] += 1
    return statuses


async def _ensure_session(gateway: GatewayProcess) -> None:
    """A session `s` to aim at: a fuzzed request may have deleted it."""
    async with gateway.client() as client:
        made = await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        assert made.status_code in (201, 409)


async def _forget(client: httpx.AsyncClient) -> None:
    """Delete what fuzzed requests have made."""
    while sessions := (await client.get("/v1/sessions", params={"limit": 1000})).json()["sessions"]:
        for session in sessions:
            assert (await client.delete(f"/v1/sessions/{session['sessionId']}")).status_code == 200


class Asked:
    """A request, and the operation it was made from."""

    def __init__(self, method: str, target: str, raw: bytes, body: bytes | None) -> None:
        self.method = method
        self.target = target
        self.raw = raw
        self.body = body


class Fuzzer:
    """Requests that are nearly right, from the published document and chance."""

    def __init__(self, contract: Contract, chance: random.Random) -> None:
        self._contract = contract
        self._chance = chance
        self._operations = [one for one in contract.operations if not one.path.endswith("/ws")]

    def next(self) -> Asked:
        chance = self._chance
        operation = chance.choice(self._operations)
        path = operation.path
        for name in ("session_id", "name"):
            given = "s" if chance.random() < 0.8 else chance.choice(NAMES)
            path = path.replace(f"{{{name}}}", quote(given, safe=""))
        if operation.name == "delete_session" and chance.random() < 0.8:
            path = "/v1/sessions/none"
        target = path + self._query(operation.definition)
        body = self._body(operation.name)
        fields = [chance.choice(HEADERS)] if chance.random() < 0.3 else []
        if operation.path.endswith("/events"):
            fields.append(b"Accept: application/json")
        raw = request(operation.method, target, b"Connection: close", *fields, body=body)
        if any(field.startswith(b"Host:") for field in fields):
            raw = raw.replace(b"Host: gateway\r\n", b"", 1)
        return Asked(operation.method, target, raw, body)

    def judge(self, asked: Asked, answer: RawResponse) -> None:
        """It is what the document says of its operation; or, where no operation was asked for, an error of HTTP-2."""
        where = f"{asked.raw[:700]!r}: {answer.status} {answer.body[:300]!r}"
        if answer.status >= 400:
            assert {"error", "message"} <= set(answer.json), where
        sent = httpx.Request(asked.method, httpx.URL(f"http://gateway{asked.target}"), content=asked.body or b"")
        if not any(operation.matches(sent) for operation in self._contract.operations):
            assert answer.status in (400, 401, 404, 405), where
            return
        received = httpx.Response(answer.status, headers=answer.headers, content=answer.body, request=sent)
        self._contract.validate(received, answer.body)

    def _query(self, described: dict[str, Any]) -> str:
        chance = self._chance
        if chance.random() < 0.6:
            return ""
        names = [one["name"] for one in described.get("parameters", ()) if one.get("in") == "query"] + ["x", "api_key"]
        values = [*NAMES, "1", "0", "-1", "9" * 30, "true", "start", "latest", "a.1", "idle", "agent_end,error"]
        pairs = [(chance.choice(names), chance.choice(values)) for _ in range(chance.randint(1, 3))]
        return "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)

    def _body(self, name: str) -> bytes | None:
        chance = self._chance
        if name not in BODIES:
            return b'{"x": 1}' if chance.random() < 0.05 else None
        body = copy.deepcopy(BODIES[name])
        if chance.random() < 0.3:
            return self._damaged(json.dumps(body).encode())
        for _ in range(chance.randint(0, 3)):
            self._change(body)
        raw = json.dumps(body).encode()
        if chance.random() < 0.3:
            raw = raw.replace(b"@", chance.choice(NO_VALUES))
        return raw

    def _change(self, body: dict[str, Any]) -> None:
        """One field is left out, is another value, or is one too many; on any level."""
        chance = self._chance
        inner = [cast("dict[str, Any]", value) for value in body.values() if isinstance(value, dict)]
        if inner and chance.random() < 0.3:
            body = chance.choice(inner)
        if body and chance.random() < 0.3:
            del body[chance.choice(list(body))]
        elif body and chance.random() < 0.8:
            body[chance.choice(list(body))] = self._value() if chance.random() < 0.8 else "@"
        else:
            body[chance.choice([*NAMES, "sessionId", "blueprint", "workingDir", "skillsDirs"])] = self._value()

    def _value(self) -> Any:
        return copy.deepcopy(self._chance.choice(VALUES))

    def _damaged(self, raw: bytes) -> bytes:
        """JSON with a few bytes wrong."""
        chance = self._chance
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(raw) + 1)
            match chance.randrange(4):
                case 0:
                    raw = raw[:at]
                case 1:
                    raw = raw[:at] + chance.choice(NO_VALUES)[:2_000] + raw[at:]
                case 2:
                    raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
                case _:
                    raw = raw[:at] + raw[at : at + 9] + raw[at:]
        return raw


# Bytes that are nearly HTTP


async def test_bytes_that_are_nearly_http_are_refused_or_answered_and_smuggle_nothing(
    experiment: Experiment, tmp_path: Path
) -> None:
    """HTTP-2, HTTP-5: also in pieces, and with another request behind them, which must not be heard where it is not one."""
    trials, chance = experiment.trials(short=400, long=3_000), experiment.random
    outcomes: Counter[str] = Counter()
    async with GatewayProcess(tmp_path) as gateway:
        before = 0
        for number, framed in enumerate(_framed(trials, chance)):
            outcomes[await _judge(gateway.port, framed, chance)] += 1
            if number == min(100, trials // 2):
                before = ResourceUsage.of(gateway.pid).memory
        grown = ResourceUsage.of(gateway.pid).memory - before
        log = gateway.log()
    experiment.record("raw requests", outcomes.total())
    experiment.record("outcomes", ", ".join(f"{what} {count:,}×" for what, count in sorted(outcomes.items())))
    experiment.record("memory", mib(grown))
    assert "Traceback" not in log
    assert log.count("\n") <= 1, "a hostile client does not fill the log"
    assert grown <= 20 * 2**20


async def test_requests_sent_in_a_row_are_answered_in_that_row(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-2: pipelined, cut anywhere, and however oddly each of them is framed."""
    rows, chance = experiment.trials(short=15, long=300), experiment.random
    staying = [
        framed for framed in WELL_FRAMED if framed.statuses and len(framed.statuses) > 1 and framed.name != "HEAD"
    ]
    answered = 0
    async with GatewayProcess(tmp_path) as gateway:
        for _ in range(rows):
            row = chance.choices(staying, k=chance.randint(2, 40))
            raw = b"".join(framed.raw for framed in row) + SMUGGLED
            async with connect(gateway.port, *_cut(raw, chance, most=10)) as one:
                one.writer.write_eof()
                answers, end = await _answers(one, to_head=False)
            expected = [framed.statuses[0] for framed in row if framed.statuses]
            assert [answer.status for answer in answers] == [*expected, 401], [framed.name for framed in row]
            assert end == "closed"
            answered += len(answers)
        log = gateway.log()
    experiment.record("requests in rows", answered)
    assert log.count("\n") <= 1


def _framed(trials: int, chance: random.Random) -> Iterator[RawRequest]:
    """Every raw request there is, and then well-framed ones with bytes changed by chance."""
    known = [*WELL_FRAMED, *MALFORMED, *MALFORMED_BODIES, *TOO_LARGE]
    yield from known
    for _ in range(trials - len(known)):
        base = bytearray(chance.choice(_SHORT).raw)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(base))
            match chance.randrange(4):
                case 0:
                    base[at] = chance.randrange(256)
                case 1:
                    del base[at : at + chance.randint(1, 8)]
                case 2:
                    base[at:at] = chance.choice([b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\xff", b"\r\n", b"%00"])
                case _:
                    base[at:at] = base[max(0, at - 20) : at]
            if not base:
                base += b"x"
        yield RawRequest("changed by chance", bytes(base), None)


def _cut(raw: bytes, chance: random.Random, *, most: int) -> list[bytes]:
    """The bytes in pieces: as often as not in one."""
    cuts = sorted(chance.sample(range(len(raw)), k=min(len(raw), chance.choice([0, chance.randint(0, most)]))))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


async def _judge(port: int, framed: RawRequest, chance: random.Random) -> str:
    """Send it, whole or in pieces, with a smuggled request behind it; what came of it."""
    raw = framed.raw + SMUGGLED
    async with connect(port, *_cut(raw, chance, most=3)) as one:
        one.writer.write_eof()
        answers, end = await _answers(one, to_head=framed.name == "HEAD")
    statuses = [answer.status for answer in answers]
    where = f"{framed.name}: {raw[:500]!r}: {statuses} {end}"
    assert end != "reset", where
    assert all(status < 500 for status in statuses), where
    for answer in answers:
        if answer.status >= 400 and answer.body:
            assert {"error", "message"} <= set(answer.json), where
    if framed.statuses is None:
        return "chance: refused" if statuses[-1:] == [400] else "chance: answered" if statuses else "chance: incomplete"
    assert tuple(statuses) == framed.statuses, where
    return "well framed: answered" if framed in WELL_FRAMED else "refused, and nothing smuggled"


async def _answers(one: RawConnection, *, to_head: bool) -> tuple[list[RawResponse], str]:
    answers: list[RawResponse] = []
    async with asyncio.timeout(60):
        while isinstance(answer := await one.read_response(to_head=to_head and not answers), RawResponse):
            answers.append(answer)
    return answers, answer
