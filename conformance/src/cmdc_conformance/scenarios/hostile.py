"""Hostile input: JSON that no honest client sends, and HTTP that is too big or too slow."""

from __future__ import annotations

import asyncio
import json

from cmdc_conformance.case import Case
from cmdc_conformance.check import check
from cmdc_conformance.findings import Failed, expect, need
from cmdc_conformance.raw import Closed, connected, exchange, head, read_answer
from cmdc_conformance.wire import Answer

# -- JSON ----------------------------------------------------------------------------------------------------------------


def _nested(levels: int) -> str:
    """The registration of a tool whose schema is nested so deep."""
    inner = '{"items":' * levels + "{}" + "}" * levels
    return (
        '{"name":"deep","description":"d","callbackUrl":"http://127.0.0.1:9/x",'
        f'"parameters":{{"type":"object","properties":{{"a":{inner}}}}}}}'
    )


def _session(case: Case, **fields: str) -> str:
    """The body of POST /v1/sessions, with values that are JSON already."""
    members = {"model": json.dumps(case.server.model), **fields}
    return "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"


async def _refused(case: Case, what: str, content: bytes | str, path: str = "/v1/sessions") -> None:
    data = content.encode() if isinstance(content, str) else content
    answer = await case.http.post(path, content=data, headers={"Content-Type": "application/json"})
    answer.must_be(400, code="bad_request", why=what)


async def _taken(case: Case, content: str, path: str = "/v1/sessions") -> None:
    answer = await case.http.post(
        path, content=content.encode(), headers={"Content-Type": "application/json"}, secret=True
    )
    answer.needed(201)


@check("HTTP-4.malformed")
async def not_json(case: Case) -> None:
    """What is not JSON is 400."""
    for content in (b"{", b'{"model": }', b"{'model': 'x'}", b'{"model": "x"} x', b"\x00", b"model=x"):
        await _refused(case, repr(content), content)
    await _taken(case, _session(case))


@check("HTTP-4.not-object")
async def not_an_object(case: Case) -> None:
    """JSON that is no object is 400."""
    for content in ("[]", "null", "true", "1", '"x"', f"[{_session(case)}]"):
        await _refused(case, content, content)
    await _taken(case, _session(case))


@check("HTTP-4.surrogate")
async def surrogates(case: Case) -> None:
    """Half of a surrogate pair is 400, a whole one is a character."""
    for half in (r'"\ud800"', r'"a\udc00b"', r'"\udc00\ud800"'):
        await _refused(case, half, _session(case, systemPrompt=half))
    await _refused(case, "half a pair as a name", _session(case, metadata=r'{"\ud800":"x"}'))
    await _taken(case, _session(case, systemPrompt=r'"\ud83d\ude00"'))


@check("HTTP-4.number")
async def numbers(case: Case) -> None:
    """NaN, infinities and what does not fit a number are 400."""
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
        await _refused(case, number, _session(case, providerOpts=f'{{"temperature":{number}}}'))
    await _taken(case, _session(case, providerOpts='{"temperature":0.5}'))


@check("HTTP-4.int64")
async def big_integers(case: Case) -> None:
    """Integers beyond 64 bits are 400."""
    for number in ("9223372036854775808", "-9223372036854775809", "1" + "0" * 400):
        await _refused(case, number[:30], _session(case, providerOpts=f'{{"seed":{number}}}'))
    await _taken(case, _session(case, providerOpts='{"seed":9007199254740991}'))


@check("HTTP-4.duplicate-key")
async def duplicate_keys(case: Case) -> None:
    """A key that stands twice is 400, at any depth."""
    model = json.dumps(case.server.model)
    await _refused(case, "model twice", f'{{"model":{model},"model":{model}}}')
    await _refused(case, "temperature twice", _session(case, providerOpts='{"temperature":0.5,"temperature":0.5}'))
    await _refused(case, "the same key in two spellings", f'{{"model":{model},"m\\u006fdel":{model}}}')
    await _taken(case, _session(case, providerOpts='{"temperature":0.5}'))


@check("HTTP-4.depth")
async def depth(case: Case) -> None:
    """What is nested too deep is 400, however deep."""
    async with case.session() as session:
        path = f"{session.path}/tools"
        for levels in (70, 900, 20_000):
            await _refused(case, f"{levels} levels", _nested(levels), path)
        await _refused(case, "100,000 open brackets", "[" * 100_000, path)
        await _taken(case, _nested(40), path)


@check("HTTP-4.nul")
async def nul(case: Case) -> None:
    """U+0000 is 400."""
    await _refused(case, r"\u0000 in a value", _session(case, systemPrompt=r'"a\u0000b"'))
    await _refused(case, r"\u0000 in a name", _session(case, **{r"a\u0000": "1"}))
    await _taken(case, _session(case, systemPrompt=r'"a\u0001b"'))


@check("HTTP-4.bom")
async def byte_order_mark(case: Case) -> None:
    """A byte order mark is 400."""
    await _refused(case, "a byte order mark", b"\xef\xbb\xbf" + _session(case).encode())
    await _taken(case, _session(case))


@check("HTTP-4.utf8")
async def not_utf8(case: Case) -> None:
    """What is not UTF-8 is 400."""
    for bad in (b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xf5\x80\x80\x80"'):
        await _refused(case, repr(bad), _session(case, systemPrompt="@").encode().replace(b"@", bad))
    await _refused(case, "UTF-16", _session(case).encode("utf-16"))
    await _taken(case, _session(case, systemPrompt='"ä €"'))


@check("HTTP-4.nothing-left")
async def nothing_is_left(case: Case) -> None:
    """After refusals nothing is there that was not before."""
    wanted = case.fresh()
    for extra in (r'"systemPrompt":"\ud800"', '"providerOpts":{"temperature":NaN}', f'"sessionId":"{wanted}"'):
        body = _session(case, sessionId=json.dumps(wanted))[:-1] + f",{extra}}}"
        await _refused(case, extra, body)
    (await case.http.get(f"/v1/sessions/{wanted}")).must_be(404, why="its creation was refused")
    async with case.session(sessionId=wanted) as session:
        for text in (r'"\ud800"', r'"a\u0000"', '"a","text":"a"'):
            await _refused(case, text, f'{{"text":{text}}}', f"{session.path}/prompt")
        info = (await session.info()).needed(200)
        expect(info.get("turns") == 0 and info.get("state") == "idle", f"after refused prompts the session is {info}")
        expect(await session.history() == [], "a refused prompt is in the history")
        text = case.plain()
        events = await session.ran(text)
        expect(events[0].data.get("text") == text, "a refused prompt was run")


# -- sizes ---------------------------------------------------------------------------------------------------------------


def _must(answer: Answer | Closed, status: int, code: str, why: str) -> None:
    if isinstance(answer, Closed):
        raise Failed(f"{why}: the connection was closed without an answer, and should be {status} {code}")
    answer.must_be(status, code=code, why=why)


def _post(case: Case, body: bytes) -> bytes:
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return head(case.http, "POST", "/v1/sessions", headers) + b"\r\n" + body


def _body_of(case: Case, size: int) -> bytes:
    empty = _session(case, systemPrompt='""').encode()
    return _session(case, systemPrompt=f'"{"x" * (size - len(empty))}"').encode()


@check("HTTP-5.body")
async def the_longest_body(case: Case) -> None:
    """One byte over the limit is 413, the limit itself is read."""
    most = int(case.server.limit("bodyBytes", case.target.limits.body_bytes))
    _must(
        await exchange(case.http, _post(case, _body_of(case, most + 1))), 413, "payload_too_large", f"{most + 1} bytes"
    )
    chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    body = _body_of(case, most + 1)
    sent = head(case.http, "POST", "/v1/sessions", chunked) + b"\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    _must(await exchange(case.http, sent), 413, "payload_too_large", f"{most + 1} bytes in a chunk")
    answer = await exchange(case.http, _post(case, _body_of(case, most)))
    expect(isinstance(answer, Answer), f"a body of {most} bytes: the connection was closed")
    assert isinstance(answer, Answer)
    answer.must_be(200, 201, why=f"{most} bytes are allowed")


@check("HTTP-5.header-bytes")
async def the_longest_headers(case: Case) -> None:
    """Headers over the limit are 431."""
    most = int(case.server.limit("headerBytes", case.target.limits.header_bytes))
    sent = head(case.http, "GET", "/v1/sessions/x", [("X-Padding", "x" * most)]) + b"\r\n"
    _must(await exchange(case.http, sent), 431, "headers_too_large", f"a header of {most} bytes")
    sent = head(case.http, "GET", "/v1/sessions/x", [("X-Padding", "x" * (most // 2))]) + b"\r\n"
    _must(await exchange(case.http, sent), 404, "not_found", f"a header of {most // 2} bytes")


@check("HTTP-5.header-fields")
async def the_most_headers(case: Case) -> None:
    """Too many headers are 431."""
    most = case.target.limits.header_fields
    sent = head(case.http, "GET", "/v1/sessions/x", [(f"X-{number}", "x") for number in range(most + 1)]) + b"\r\n"
    _must(await exchange(case.http, sent), 431, "headers_too_large", f"{most + 3} headers")
    sent = head(case.http, "GET", "/v1/sessions/x", [(f"X-{number}", "x") for number in range(most // 2)]) + b"\r\n"
    _must(await exchange(case.http, sent), 404, "not_found", f"{most // 2} headers")


@check("HTTP-5.url")
async def the_longest_url(case: Case) -> None:
    """A URL over the limit is 414."""
    most = case.target.limits.url_bytes
    sent = head(case.http, "GET", f"/v1/sessions/{'x' * most}") + b"\r\n"
    _must(await exchange(case.http, sent), 414, "uri_too_long", f"a URL of {most + 13} bytes")
    answer = await exchange(case.http, head(case.http, "GET", f"/v1/sessions/{'x' * (most // 2)}") + b"\r\n")
    expect(isinstance(answer, Answer) and answer.status in (400, 404), f"a URL of {most // 2} bytes is not read")


async def _given_up(case: Case, begun: bytes, ms: int, what: str) -> None:
    """A request that never becomes complete is answered 408, or its connection closed, in time."""
    within = ms / 1000 + 5 * case.target.timing.scale
    need(within < case.deadline * 10, f"{within:.0f} s are too long to wait")
    async with connected(case.http) as (reader, writer):
        writer.write(begun)
        await writer.drain()
        try:
            async with asyncio.timeout(within):
                answer = await read_answer(case.http, reader, "POST", "a slow request")
        except TimeoutError:
            raise Failed(f"{what} that does not become complete is waited for longer than {within:.0f} s") from None
    if isinstance(answer, Answer):
        answer.must_be(408, code="request_timeout")


@check("HTTP-5.slow-headers", when="slow")
async def slow_headers(case: Case) -> None:
    """Headers that never become complete are given up."""
    await _given_up(
        case, head(case.http, "GET", "/v1/sessions/x"), case.target.limits.header_timeout_ms, "a header block"
    )


@check("HTTP-5.slow-body", when="slow")
async def slow_body(case: Case) -> None:
    """A body that never becomes complete is given up."""
    headers = [("Content-Type", "application/json"), ("Content-Length", "1000")]
    begun = head(case.http, "POST", "/v1/sessions", headers) + b"\r\n" + b'{"model":'
    await _given_up(case, begun, case.target.limits.body_timeout_ms, "a body")
