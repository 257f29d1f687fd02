"""Hostile input: JSON that no ordinary client sends, and requests that are too large or too slow."""

from __future__ import annotations

import asyncio
import json

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import check
from cmdc_conformance.findings import Failed, expect, require
from cmdc_conformance.wire.http import ApiResponse
from cmdc_conformance.wire.raw_http import NoResponse, exchange, open_connection, read_response, request_head

# -- JSON ----------------------------------------------------------------------------------------------------------------


def _nested(levels: int) -> str:
    """The body of a tool registration whose schema has this many levels."""
    inner = '{"items":' * levels + "{}" + "}" * levels
    return (
        '{"name":"deep","description":"d","callbackUrl":"http://127.0.0.1:9/x",'
        f'"parameters":{{"type":"object","properties":{{"a":{inner}}}}}}}'
    )


def _session(ctx: CheckContext, **fields: str) -> str:
    """The body of POST /v1/sessions; the values are already JSON."""
    members = {"model": json.dumps(ctx.server.model), **fields}
    return "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"


async def _expect_rejected(ctx: CheckContext, what: str, content: bytes | str, path: str = "/v1/sessions") -> None:
    data = content.encode() if isinstance(content, str) else content
    response = await ctx.http.post(path, content=data, headers={"Content-Type": "application/json"})
    response.expect(400, code="bad_request", why=what)


async def _require_accepted(ctx: CheckContext, content: str, path: str = "/v1/sessions") -> None:
    response = await ctx.http.post(
        path, content=content.encode(), headers={"Content-Type": "application/json"}, secret=True
    )
    response.require(201)


@check("HTTP-4.malformed")
async def malformed_json_is_rejected(ctx: CheckContext) -> None:
    """A body that is not JSON returns 400."""
    for content in (b"{", b'{"model": }', b"{'model': 'x'}", b'{"model": "x"} x', b"\x00", b"model=x"):
        await _expect_rejected(ctx, repr(content), content)
    await _require_accepted(ctx, _session(ctx))


@check("HTTP-4.not-object")
async def other_json_values_are_rejected(ctx: CheckContext) -> None:
    """A JSON body that is not an object returns 400."""
    for content in ("[]", "null", "true", "1", '"x"', f"[{_session(ctx)}]"):
        await _expect_rejected(ctx, content, content)
    await _require_accepted(ctx, _session(ctx))


@check("HTTP-4.surrogate")
async def lone_surrogates_are_rejected(ctx: CheckContext) -> None:
    """A lone surrogate returns 400; a surrogate pair is a character."""
    for half in (r'"\ud800"', r'"a\udc00b"', r'"\udc00\ud800"'):
        await _expect_rejected(ctx, half, _session(ctx, systemPrompt=half))
    await _expect_rejected(ctx, "a lone surrogate as a name", _session(ctx, metadata=r'{"\ud800":"x"}'))
    await _require_accepted(ctx, _session(ctx, systemPrompt=r'"\ud83d\ude00"'))


@check("HTTP-4.number")
async def non_finite_numbers_are_rejected(ctx: CheckContext) -> None:
    """NaN, infinities and numbers out of range return 400."""
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
        await _expect_rejected(ctx, number, _session(ctx, providerOpts=f'{{"temperature":{number}}}'))
    await _require_accepted(ctx, _session(ctx, providerOpts='{"temperature":0.5}'))


@check("HTTP-4.int64")
async def big_integers_are_rejected(ctx: CheckContext) -> None:
    """An integer outside 64 bits returns 400."""
    for number in ("9223372036854775808", "-9223372036854775809", "1" + "0" * 400):
        await _expect_rejected(ctx, number[:30], _session(ctx, providerOpts=f'{{"seed":{number}}}'))
    await _require_accepted(ctx, _session(ctx, providerOpts='{"seed":9007199254740991}'))


@check("HTTP-4.duplicate-key")
async def duplicate_keys_are_rejected(ctx: CheckContext) -> None:
    """A duplicate key returns 400, at any depth."""
    model = json.dumps(ctx.server.model)
    await _expect_rejected(ctx, "model twice", f'{{"model":{model},"model":{model}}}')
    await _expect_rejected(
        ctx, "temperature twice", _session(ctx, providerOpts='{"temperature":0.5,"temperature":0.5}')
    )
    await _expect_rejected(ctx, "the same key in two spellings", f'{{"model":{model},"m\\u006fdel":{model}}}')
    await _require_accepted(ctx, _session(ctx, providerOpts='{"temperature":0.5}'))


@check("HTTP-4.depth")
async def deep_nesting_is_rejected(ctx: CheckContext) -> None:
    """Nesting beyond the limit returns 400, however deep it is."""
    async with ctx.session() as session:
        path = f"{session.path}/tools"
        for levels in (70, 900, 20_000):
            await _expect_rejected(ctx, f"{levels} levels", _nested(levels), path)
        await _expect_rejected(ctx, "100,000 open brackets", "[" * 100_000, path)
        await _require_accepted(ctx, _nested(40), path)


@check("HTTP-4.nul")
async def nul_characters_are_rejected(ctx: CheckContext) -> None:
    """The character U+0000 returns 400."""
    await _expect_rejected(ctx, r"\u0000 in a value", _session(ctx, systemPrompt=r'"a\u0000b"'))
    await _expect_rejected(ctx, r"\u0000 in a name", _session(ctx, **{r"a\u0000": "1"}))
    await _require_accepted(ctx, _session(ctx, systemPrompt=r'"a\u0001b"'))


@check("HTTP-4.bom")
async def a_byte_order_mark_is_rejected(ctx: CheckContext) -> None:
    """A byte order mark returns 400."""
    await _expect_rejected(ctx, "a byte order mark", b"\xef\xbb\xbf" + _session(ctx).encode())
    await _require_accepted(ctx, _session(ctx))


@check("HTTP-4.utf8")
async def invalid_utf8_is_rejected(ctx: CheckContext) -> None:
    """A body that is not UTF-8 returns 400."""
    for bad in (b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xf5\x80\x80\x80"'):
        await _expect_rejected(ctx, repr(bad), _session(ctx, systemPrompt="@").encode().replace(b"@", bad))
    await _expect_rejected(ctx, "UTF-16", _session(ctx).encode("utf-16"))
    await _require_accepted(ctx, _session(ctx, systemPrompt='"ä €"'))


@check("HTTP-4.nothing-left")
async def rejected_bodies_have_no_effect(ctx: CheckContext) -> None:
    """Rejected bodies leave nothing behind."""
    wanted = ctx.unique()
    for extra in (r'"systemPrompt":"\ud800"', '"providerOpts":{"temperature":NaN}', f'"sessionId":"{wanted}"'):
        body = _session(ctx, sessionId=json.dumps(wanted))[:-1] + f",{extra}}}"
        await _expect_rejected(ctx, extra, body)
    (await ctx.http.get(f"/v1/sessions/{wanted}")).expect(404, why="its creation was rejected")
    async with ctx.session(sessionId=wanted) as session:
        for text in (r'"\ud800"', r'"a\u0000"', '"a","text":"a"'):
            await _expect_rejected(ctx, text, f'{{"text":{text}}}', f"{session.path}/prompt")
        info = (await session.info()).require(200)
        expect(info.get("turns") == 0 and info.get("state") == "idle", f"after rejected prompts, the session is {info}")
        expect(await session.history() == [], "a rejected prompt is in the history")
        text = ctx.simple_prompt()
        events = await session.run_to_end(text)
        expect(events[0].data.get("text") == text, "a rejected prompt was run")


# -- limits -------------------------------------------------------------------------------------------------------------


def _expect_status(response: ApiResponse | NoResponse, status: int, code: str, why: str) -> None:
    if isinstance(response, NoResponse):
        raise Failed(f"{why}: the connection was closed without a response, expected {status} {code}")
    response.expect(status, code=code, why=why)


def _post(ctx: CheckContext, body: bytes) -> bytes:
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return request_head(ctx.http, "POST", "/v1/sessions", headers) + b"\r\n" + body


def _body_of(ctx: CheckContext, size: int) -> bytes:
    empty = _session(ctx, systemPrompt='""').encode()
    return _session(ctx, systemPrompt=f'"{"x" * (size - len(empty))}"').encode()


@check("HTTP-5.body")
async def large_bodies_are_rejected(ctx: CheckContext) -> None:
    """A body one byte over the limit returns 413; one at the limit is accepted."""
    limit = int(ctx.server.limit("bodyBytes", ctx.target.limits.body_bytes))
    _expect_status(
        await exchange(ctx.http, _post(ctx, _body_of(ctx, limit + 1))), 413, "payload_too_large", f"{limit + 1} bytes"
    )
    chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    body = _body_of(ctx, limit + 1)
    sent = request_head(ctx.http, "POST", "/v1/sessions", chunked) + b"\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    _expect_status(await exchange(ctx.http, sent), 413, "payload_too_large", f"{limit + 1} bytes in one chunk")
    response = await exchange(ctx.http, _post(ctx, _body_of(ctx, limit)))
    expect(isinstance(response, ApiResponse), f"a body of {limit} bytes: the connection was closed")
    assert isinstance(response, ApiResponse)
    response.expect(200, 201, why=f"{limit} bytes are allowed")


@check("HTTP-5.header-bytes")
async def large_headers_are_rejected(ctx: CheckContext) -> None:
    """Headers over the limit return 431."""
    limit = int(ctx.server.limit("headerBytes", ctx.target.limits.header_bytes))
    sent = request_head(ctx.http, "GET", "/v1/sessions/x", [("X-Padding", "x" * limit)]) + b"\r\n"
    _expect_status(await exchange(ctx.http, sent), 431, "headers_too_large", f"a header of {limit} bytes")
    sent = request_head(ctx.http, "GET", "/v1/sessions/x", [("X-Padding", "x" * (limit // 2))]) + b"\r\n"
    _expect_status(await exchange(ctx.http, sent), 404, "not_found", f"a header of {limit // 2} bytes")


@check("HTTP-5.header-fields")
async def too_many_headers_are_rejected(ctx: CheckContext) -> None:
    """Too many header fields return 431."""
    limit = ctx.target.limits.header_fields
    sent = (
        request_head(ctx.http, "GET", "/v1/sessions/x", [(f"X-{number}", "x") for number in range(limit + 1)]) + b"\r\n"
    )
    _expect_status(await exchange(ctx.http, sent), 431, "headers_too_large", f"{limit + 3} headers")
    sent = (
        request_head(ctx.http, "GET", "/v1/sessions/x", [(f"X-{number}", "x") for number in range(limit // 2)])
        + b"\r\n"
    )
    _expect_status(await exchange(ctx.http, sent), 404, "not_found", f"{limit // 2} headers")


@check("HTTP-5.url")
async def long_urls_are_rejected(ctx: CheckContext) -> None:
    """A URL over the limit returns 414."""
    limit = ctx.target.limits.url_bytes
    sent = request_head(ctx.http, "GET", f"/v1/sessions/{'x' * limit}") + b"\r\n"
    _expect_status(await exchange(ctx.http, sent), 414, "uri_too_long", f"a URL of {limit + 13} bytes")
    response = await exchange(ctx.http, request_head(ctx.http, "GET", f"/v1/sessions/{'x' * (limit // 2)}") + b"\r\n")
    expect(
        isinstance(response, ApiResponse) and response.status in (400, 404),
        f"a URL of {limit // 2} bytes was not accepted",
    )


async def _expect_timeout(ctx: CheckContext, sent: bytes, ms: int, what: str) -> None:
    """Expect that a request that is never completed returns 408, or that its connection is closed, in time."""
    within = ms / 1000 + 5 * ctx.target.timing.scale
    require(within < ctx.deadline * 10, f"the timeout of {within:.0f} s is too long to wait for")
    async with open_connection(ctx.http) as (reader, writer):
        writer.write(sent)
        await writer.drain()
        try:
            async with asyncio.timeout(within):
                response = await read_response(ctx.http, reader, "POST", "a slow request")
        except TimeoutError:
            raise Failed(f"an incomplete {what} was not given up within {within:.0f} s") from None
    if isinstance(response, ApiResponse):
        response.expect(408, code="request_timeout")


@check("HTTP-5.slow-headers", schedule="slow")
async def slow_headers_time_out(ctx: CheckContext) -> None:
    """Headers that are never completed time out."""
    await _expect_timeout(
        ctx, request_head(ctx.http, "GET", "/v1/sessions/x"), ctx.target.limits.header_timeout_ms, "header block"
    )


@check("HTTP-5.slow-body", schedule="slow")
async def a_slow_body_times_out(ctx: CheckContext) -> None:
    """A body that is never completed times out."""
    headers = [("Content-Type", "application/json"), ("Content-Length", "1000")]
    sent = request_head(ctx.http, "POST", "/v1/sessions", headers) + b"\r\n" + b'{"model":'
    await _expect_timeout(ctx, sent, ctx.target.limits.body_timeout_ms, "body")
