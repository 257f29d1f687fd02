"""Requests byte for byte: unusual ones that HTTP/1.1 allows, and ones that it forbids.

Each lists the statuses of all responses on a connection on which `SMUGGLED` follows it. If a parser and the standard
disagree about the end of a request, another request can be smuggled past the parser.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmdc_testkit.gateways import KEY

SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
_SMUGGLED_STATUS = 401

_KEY = b"X-API-Key: %b\r\n" % KEY.encode()
_JSON = b"Content-Type: application/json\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_BODY = b'{"text": "x"}'


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request, and the statuses of all responses to it and to `SMUGGLED` after it; None: unspecified."""

    name: str
    raw: bytes
    statuses: tuple[int, ...] | None


def _valid(name: str, raw: bytes, status: int, *, last: bool = False) -> RawRequest:
    """A request that is handled, and so is the next one, unless it is the last on its connection."""
    return RawRequest(name, raw, (status,) if last else (status, _SMUGGLED_STATUS))


def _invalid(name: str, raw: bytes, status: int = 400) -> RawRequest:
    """A request that is rejected, and so closes the connection."""
    return RawRequest(name, raw, (status,))


def _get(target: bytes, fields: bytes = b"", *, host: bytes = b"Host: a\r\n", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (method, target, host, _KEY, fields)


def _post(fields: bytes, body: bytes) -> bytes:
    """A prompt for an unknown session. Its body is read nevertheless."""
    return _get(b"/v1/sessions/none/prompt", _JSON + fields, method=b"POST") + body


WELL_FRAMED = [
    _valid("a plain request", _get(b"/healthz"), 200),
    _valid("a body with its length", _post(b"Content-Length: 13\r\n", _BODY), 404),
    _valid("a length with zeros before it", _post(b"Content-Length: 00000000000000000013\r\n", _BODY), 404),
    _valid("a body in chunks", _post(_CHUNKED, b"d\r\n%b\r\n0\r\n\r\n" % _BODY), 404),
    _valid("a body in tiny chunks", _post(_CHUNKED, b"".join(b"1\r\n%c\r\n" % c for c in _BODY) + b"0\r\n\r\n"), 404),
    _valid("chunks with extensions", _post(_CHUNKED, b'd;a=b;c="d\\"e"\r\n%b\r\n0;f\r\n\r\n' % _BODY), 404),
    _valid("chunks with trailers", _post(_CHUNKED, b"d\r\n%b\r\n0\r\nX-API-Key: none\r\nHost: b\r\n\r\n" % _BODY), 404),
    _valid("a coding in capitals", _post(b"Transfer-Encoding: CHUNKED\r\n", b"D\r\n%b\r\n0\r\n\r\n" % _BODY), 404),
    _valid("an expectation", _post(b"Expect: 100-continue\r\nContent-Length: 13\r\n", _BODY), 404),
    _valid("an unknown expectation", _post(b"Expect: 200-maybe\r\nContent-Length: 13\r\n", _BODY), 404),
    _valid("a body of a GET request", _get(b"/healthz", b"Content-Length: 5\r\n") + b"GET /", 200),
    _valid("a chunked body of a GET request", _get(b"/healthz", _CHUNKED) + b"5\r\nGET /\r\n0\r\n\r\n", 200),
    _valid("HEAD", _get(b"/healthz", method=b"HEAD"), 405),
    _valid("OPTIONS of everything", _get(b"*", method=b"OPTIONS"), 404),
    _valid("TRACE", _get(b"/healthz", method=b"TRACE"), 405),
    _valid("an absolute target", _get(b"http://evil.example/healthz"), 200),
    _valid("an absolute target with a user", _get(b"http://u:p@evil.example:99/healthz"), 200),
    _valid("two slashes", _get(b"//evil.example/healthz"), 404),
    _valid("empty lines before it", b"\r\n\r\n" + _get(b"/healthz"), 200),
    _valid("an unknown upgrade", _get(b"/healthz", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), 200, last=True),
    _valid("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n", 200, last=True),
    _valid("HTTP/1.0 with keep-alive", b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, last=True),
    _valid("Connection: close", _get(b"/healthz", b"Connection: close\r\n"), 200, last=True),
    _valid("an encoded slash", _get(b"/v1/sessions/a%2F..%2Fb"), 404),
    _valid("an encoded null", _get(b"/v1/sessions/%00"), 404),
    _valid("encoded line ends", _get(b"/v1/sessions/%0D%0AX:%20y"), 404),
    _valid("an encoded path that is not UTF-8", _get(b"/v1/sessions/%FF%C0%80"), 404),
    _valid("an encoded surrogate", _get(b"/v1/sessions/%ED%A0%80"), 404),
    _valid("an incomplete escape", _get(b"/v1/sessions/%"), 404),
    _valid("dots", _get(b"/v1/../healthz"), 404),
    _valid("a query that is not UTF-8", _get(b"/v1/sessions?%FF=%ED%A0%80"), 400),
    _valid("a query of a thousand names", _get(b"/v1/sessions?" + b"&".join(b"%x=1" % n for n in range(1_000))), 400),
    *(
        _valid(f"the host {host!r}", _get(b"/v1/nowhere", host=b"Host: %b\r\n" % host), 404)
        for host in (b"", b"[", b"[::1", b"a/b?c#d", b"a@b", b"a:99999", b"\xff", b"a b", b"..", b"%00", b"a" * 9_000)
    ),
    _valid("a header that is not ASCII", _get(b"/healthz", b"X: \xff\xfe\r\n"), 200),
    _valid("100 header fields", _get(b"/healthz", b"X: y\r\n" * 98), 200),
    _valid("32 KiB of header", _get(b"/healthz", b"X: " + b"y" * 32_600 + b"\r\n"), 200),
    _valid("8 KiB of URL", _get(b"/healthz?" + b"u" * 8_000), 400),
    _valid("a body of more than 1 MiB", _post(b"Content-Length: 1048577\r\n", b""), 413, last=True),
    _valid("a body of more than 1 MiB, sent", _post(b"Content-Length: 1200000\r\n", bytes(1_200_000)), 413, last=True),
    _valid(
        "chunks of more than 1 MiB",
        _post(_CHUNKED, (b"10000\r\n" + bytes(0x10000) + b"\r\n") * 18 + b"0\r\n\r\n"),
        413,
        last=True,
    ),
]

MALFORMED = [
    _invalid("not HTTP", b"hello\r\n\r\n"),
    _invalid("TLS", b"\x16\x03\x01\x02\x00\x01\x00"),
    _invalid("an unknown method", b"FETCH / HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("a lower-case method", b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _invalid("HTTP/2.0 as a version", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    _invalid("HTTP/0.9", b"GET /\r\n\r\n"),
    _invalid("a URL with a fragment", b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("an unknown version", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    _invalid("no path", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("a path that is not ASCII", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("no Host", b"GET / HTTP/1.1\r\n\r\n"),
    _invalid("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    _invalid("two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    _invalid("a space before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"),
    _invalid("a header without a name", b"GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n"),
    _invalid("a folded header", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
    _invalid("a null in a header", b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
    _invalid("line ends of one character", b"GET / HTTP/1.1\nHost: a\n\n"),
    _invalid(
        "length and coding",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    _invalid(
        "coding and length",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    _invalid("two lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    _invalid("a list of lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc"),
    _invalid("a length with a sign", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"),
    _invalid("a length of 30 digits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nabc"),
    _invalid("an unknown coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    _invalid("a compressed coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    _invalid(
        "two codings",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    _invalid("a coding in HTTP/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    _invalid(
        "an upgrade with a body",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    ),
    _invalid(
        "a coding after a vertical tab",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    _invalid(
        "a coding with a space behind it", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked \r\n\r\n0\r\n\r\n"
    ),
    _invalid("a coding after a comma", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n"),
    _invalid(
        "the same coding twice",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    _invalid(
        "the same length twice", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"
    ),
    _invalid("a hexadecimal length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc"),
    _invalid("a negative length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc"),
    _invalid("a length of two numbers", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 4\r\n\r\nabc"),
    _invalid("an empty length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n"),
    _invalid("a null in the path", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("a query that is not ASCII", b"GET /?\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("a CR in a header", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n"),
    _invalid("an LF in a header", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: z\r\n\r\n"),
    _invalid("an LF that ends the header", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    _invalid("a name that is not ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nX\xff: y\r\n\r\n"),
    _invalid("a header without a colon", b"GET / HTTP/1.1\r\nHost: a\r\nXyz\r\n\r\n"),
    _invalid("tabs in the request line", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("a space in the path", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("a version with a space behind it", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    _invalid("a long version", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
    _invalid("an absolute target without a path", b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n"),
    _invalid("an absolute target with a broken host", b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n"),
]

MALFORMED_BODIES = [
    _invalid("a length among the trailers", _post(_CHUNKED, b"d\r\n%b\r\n0\r\nContent-Length: 9\r\n\r\n" % _BODY)),
    _invalid("chunks with line ends of one character", _post(_CHUNKED, b"d\n%b\n0\n\n" % _BODY)),
    _invalid("a hexadecimal prefix on a chunk's size", _post(_CHUNKED, b"0xd\r\n%b\r\n0\r\n\r\n" % _BODY)),
    _invalid("a chunk's size with a space", _post(_CHUNKED, b"d \r\n%b\r\n0\r\n\r\n" % _BODY)),
    _invalid("a negative chunk", _post(_CHUNKED, b"-d\r\n%b\r\n0\r\n\r\n" % _BODY)),
    _invalid("a chunk's size of 17 digits", _post(_CHUNKED, b"f000000000000000d\r\n%b\r\n0\r\n\r\n" % _BODY)),
    _invalid("an extension with a CR", _post(_CHUNKED, b"d;a\rb\r\n%b\r\n0\r\n\r\n" % _BODY)),
    _invalid("an extension with an LF", _post(_CHUNKED, b"d;a\nb\r\n%b\r\n0\r\n\r\n" % _BODY)),
    _invalid("a chunk longer than it says", _post(_CHUNKED, b"c\r\n%b\r\n0\r\n\r\n" % _BODY)),
    _invalid("a chunk without its end", _post(_CHUNKED, b"d\r\n%b0\r\n\r\n" % _BODY)),
]

TOO_LARGE = [
    _invalid("101 header fields", _get(b"/healthz", b"X: y\r\n" * 99), 431),
    _invalid("20,000 header fields", _get(b"/healthz", b"".join(b"X%d: y\r\n" % n for n in range(20_000))), 431),
    _invalid("33 KiB of header", _get(b"/healthz", b"X: " + b"y" * 33_000 + b"\r\n"), 431),
    _invalid("20 MB of header", _get(b"/healthz", b"X: " + b"y" * 20_000_000 + b"\r\n"), 431),
    _invalid("a name of 1 MB", _get(b"/healthz", b"y" * 1_000_000 + b": x\r\n"), 431),
    _invalid("9 KiB of URL", _get(b"/healthz?" + b"u" * 9_000), 414),
    _invalid("20 MB of URL", _get(b"/healthz?" + b"u" * 20_000_000), 414),
    _invalid("an extension of 1 MB", _post(_CHUNKED, b"d;%b\r\n%b\r\n0\r\n\r\n" % (b"x" * 1_000_000, _BODY)), 431),
    _invalid("trailers of 1 MB", _post(_CHUNKED, b"d\r\n%b\r\n0\r\nX: %b\r\n\r\n" % (_BODY, b"x" * 1_000_000)), 431),
    _invalid("20,000 trailers", _post(_CHUNKED, b"d\r\n%b\r\n0\r\n%b\r\n" % (_BODY, b"X: y\r\n" * 20_000)), 431),
]
