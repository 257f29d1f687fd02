"""The transport: limits of HTTP-5 and errors without the application, over real sockets on loopback."""

import asyncio
import json
import logging
import os
import re
import select
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import uvicorn
from cmdc_gateway.errors import PayloadTooLarge, RequestTimeout
from cmdc_gateway.web.transport.body import read_body
from cmdc_gateway.web.transport.handle import NO_TRANSPORT, TransportHandle, transport_of
from cmdc_gateway.web.transport.http import http_protocol
from cmdc_gateway.web.transport.limits import HttpLimits
from cmdc_gateway.web.transport.websocket import ws_protocol
from cmdc_testkit.raw_requests import MALFORMED
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

LIMITS = HttpLimits(header_seconds=0.3, body_seconds=0.3, linger_seconds=0.3)
UNHURRIED = HttpLimits(header_seconds=3)
"""Generous, because the machine may be busy."""
PATIENT = HttpLimits()
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


# A small server with a route for each kind of failure


class App:
    """A bare ASGI application that records its requests, with events for what happens to it."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self.asked = list[str]()
        self.headers: list[tuple[bytes, bytes]] = []
        self.received = list[Message]()
        self.transport: TransportHandle = NO_TRANSPORT
        self.begun = asyncio.Event()
        self.stalled = asyncio.Event()
        self.gone = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        self.begun.set()
        self.headers = scope["headers"]
        self.transport = transport_of(scope)
        kind = "ws" if scope["type"] == "websocket" else "http"
        await getattr(self, f"{kind}_{scope['path'].strip('/') or 'ok'}")(scope, receive, send)

    async def http_ok(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, {"ok": True})

    async def http_early(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 401, {"error": "unauthorized"})

    async def http_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, scope["headers"], self.limits)
        except PayloadTooLarge as error:
            await answer(send, 413, {"error": error.code, "message": error.message})
        except RequestTimeout as error:
            await answer(send, 408, {"error": error.code, "message": error.message})
        except ClientDisconnect:
            self.gone.set()
            await answer(send, 400, {"error": "never sent"})
        else:
            await answer(send, 200, {"length": len(body)})

    async def http_fail(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a defect")

    async def http_nothing(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Return without a response."""

    async def http_wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.go_on.wait()
        await answer(send, 200, {"waited": True})

    async def http_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async def http_flood(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.flood(receive, send, {"type": "http.response.body", "body": bytes(16_384), "more_body": True})

    async def ws_deny(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b'{"error":"unauthorized"}'})

    async def ws_reject(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})

    async def ws_fail(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a defect")

    async def ws_wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self.received.append(await receive())
        self.gone.set()

    async def ws_echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            self.received.append(message)
            if message.get("text", "").startswith("close "):
                await send({"type": "websocket.close", "code": int(message["text"][6:]), "reason": "asked"})
            else:
                await send({"type": "websocket.send", "text": str(len(message.get("text") or message["bytes"]))})
        self.received.append(message)
        self.gone.set()

    async def ws_flood(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await self.flood(receive, send, {"type": "websocket.send", "bytes": bytes(16_384)})

    async def flood(self, receive: Receive, send: Send, message: Message) -> None:
        """Send until a send blocks because the client does not read, then wait for the disconnect."""
        sending = asyncio.ensure_future(send(message))
        while (await asyncio.wait({sending}, timeout=0.3))[0]:
            await sending
            sending = asyncio.ensure_future(send(message))
        self.stalled.set()
        with suppress(OSError):
            await sending
        while (await receive())["type"] not in {"http.disconnect", "websocket.disconnect"}:
            pass
        self.gone.set()


async def answer(send: Send, status: int, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


class Peer:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = [line.split(": ", 1) for line in lines[1:] if line]
        return Answer(int(lines[0].split()[1]), {name.lower(): value for name, value in fields}, None)

    async def answer(self) -> Answer:
        head = await self.head()
        head.body = json.loads(await self.reader.readexactly(int(head.headers["content-length"])))
        return head

    async def frame(self) -> tuple[int, bytes]:
        """Read a short WebSocket frame: opcode and content."""
        opcode, length = await self.reader.readexactly(2)
        return opcode & 15, await self.reader.readexactly(length)

    async def is_closed(self) -> bool:
        return await self.reader.read() == b""

    async def is_rejected_with(self, status: int, code: str) -> str:
        """Expect one error response of HTTP-2 and the end of the connection; return its message."""
        got = await self.answer()
        assert (got.status, got.body["error"]) == (status, code)
        assert set(got.body) == {"error", "message"}
        assert got.headers["content-type"] == "application/json"
        assert got.headers["connection"] == "close"
        assert await self.is_closed()
        return got.body["message"]


@dataclass
class Server:
    app: App
    port: int
    uvicorn: uvicorn.Server

    @asynccontextmanager
    async def peer(self, first: bytes = b"") -> AsyncGenerator[Peer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            peer = Peer(reader, writer)
            await peer.send(first)
            yield peer
        finally:
            writer.transport.abort()

    async def asks(self, request: bytes) -> Answer:
        async with self.peer(request) as peer:
            return await peer.answer()

    def websocket(self, path: str, **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}{path}", compression=None, proxy=None, **options)

    async def stop(self) -> None:
        await self.uvicorn.shutdown()


@asynccontextmanager
async def serving(
    limits: HttpLimits = LIMITS, *, access_log: bool = False, keep_alive: int = 5, ping_seconds: float = 20.0
) -> AsyncGenerator[Server]:
    app = App(limits)
    config = uvicorn.Config(
        app,
        http=http_protocol(limits),
        ws=ws_protocol(limits),
        lifespan="off",
        log_config=None,
        access_log=access_log,
        timeout_keep_alive=keep_alive,
        ws_ping_interval=ping_seconds,
        ws_ping_timeout=ping_seconds,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await server.startup(sockets=[listening])
        try:
            async with asyncio.timeout(20):
                yield Server(app, listening.getsockname()[1], server)
        finally:
            await server.shutdown()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def patient() -> AsyncIterator[Server]:
    async with serving(PATIENT) as server:
        yield server


# Sizes of the head


async def test_a_header_block_of_32_kib_is_accepted_and_one_byte_more_is_not(patient: Server) -> None:
    """HTTP-5: the block is the header fields with their line ends."""
    fits = 32_768 - len(b"Host: a\r\n") - len(b"X: \r\n")

    taken = await patient.asks(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * fits + b"\r\n\r\n")
    async with patient.peer(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (fits + 1) + b"\r\n\r\n") as peer:
        sentence = await peer.is_rejected_with(431, "headers_too_large")

    assert taken.status == 200
    assert sentence == "the header block is longer than 32768 bytes"
    assert patient.app.asked == ["/"]


async def test_a_header_block_sent_in_parts_has_the_same_limit(patient: Server) -> None:
    """HTTP-5: also if the URL has its maximum length."""
    url = b"/?" + b"u" * 8_190
    fits = 32_768 - len(b"Host: a\r\n") - len(b"X: \r\n")
    head = b"GET " + url + b" HTTP/1.1\r\nHost: a\r\nX: " + b"x" * fits + b"\r\n"

    async with patient.peer() as peer:
        for at in range(0, len(head), 3_000):
            await peer.send(head[at : at + 3_000])
            await asyncio.sleep(0)
        await peer.send(b"\r\n")
        assert (await peer.answer()).status == 200


async def test_an_endless_header_is_cut_off_at_the_limit(patient: Server) -> None:
    """HTTP-5: the limit applies before a line is complete, so no more than the limit is kept in memory."""
    async with patient.peer(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 33_000) as peer:
        await peer.is_rejected_with(431, "headers_too_large")


async def test_a_client_that_sends_20_mb_of_headers_can_read_the_response(patient: Server) -> None:
    """HTTP-5: the connection is not reset while the client is still sending."""
    async with patient.peer(b"GET / HTTP/1.1\r\nHost: a\r\nX: ") as peer:
        for _ in range(20):
            await peer.send(b"x" * 1_000_000)
        peer.writer.write_eof()
        await peer.is_rejected_with(431, "headers_too_large")


async def test_100_header_fields_are_accepted_and_101_are_not(patient: Server) -> None:
    """HTTP-5."""
    taken = await patient.asks(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 99 + b"\r\n")
    async with patient.peer(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n") as peer:
        sentence = await peer.is_rejected_with(431, "headers_too_large")

    assert taken.status == 200
    assert sentence == "the request has more than 100 header fields"


async def test_a_url_of_8_kib_is_accepted_and_one_byte_more_is_not(patient: Server) -> None:
    """HTTP-5."""
    taken = await patient.asks(b"GET /?" + b"u" * 8_190 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    async with patient.peer(b"GET /?" + b"u" * 8_191 + b" HTTP/1.1\r\nHost: a\r\n\r\n") as peer:
        await peer.is_rejected_with(414, "uri_too_long")

    assert taken.status == 200


async def test_an_endless_url_is_cut_off_at_the_limit(patient: Server) -> None:
    """HTTP-5."""
    async with patient.peer(b"GET /" + b"u" * 9_000) as peer:
        await peer.is_rejected_with(414, "uri_too_long")


# Malformed requests


@pytest.mark.parametrize("request_bytes", [one.raw for one in MALFORMED], ids=[one.name for one in MALFORMED])
async def test_an_error_of_the_parser_is_a_bad_request(patient: Server, request_bytes: bytes) -> None:
    """HTTP-2: with the usual error body, and without calling the application."""
    async with patient.peer(request_bytes) as peer:
        await peer.is_rejected_with(400, "bad_request")

    assert patient.app.asked == []


async def test_http_1_0_and_unsupported_upgrades_are_served(patient: Server) -> None:
    """HTTP/1.0 needs no Host; an unsupported upgrade is ignored."""
    old = await patient.asks(b"GET / HTTP/1.0\r\n\r\n")
    other = await patient.asks(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")

    assert (old.status, other.status) == (200, 200)


@pytest.mark.parametrize("path", [b"/", b"/wait"])
async def test_a_client_can_close_its_half_of_the_connection_after_its_last_request(
    patient: Server, path: bytes
) -> None:
    """RFC 9112, 9.6: the requests are answered, and then the connection is closed."""
    async with patient.peer(GET + b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path) as peer:
        peer.writer.write_eof()
        assert (await peer.answer()).body == {"ok": True}
        await asyncio.sleep(0.05)  # The end has been seen by then, or has not: the answer must come either way.
        patient.app.go_on.set()
        assert (await peer.answer()).status == 200
        assert await peer.is_closed()


async def test_a_client_that_has_disconnected_gets_a_short_time(server: Server) -> None:
    """SSE-9: it looks like one that has closed its half; a response that has not begun has a short time."""
    async with server.peer(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n") as peer:
        peer.writer.write_eof()
        assert await peer.is_closed()
    server.app.go_on.set()


async def test_a_stream_ends_with_its_client(patient: Server) -> None:
    """SSE-9."""
    async with patient.peer(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n") as peer:
        assert (await peer.head()).status == 200
        peer.writer.write_eof()
        assert await peer.reader.read() == b"5\r\nfirst\r\n"
    patient.app.go_on.set()


async def test_a_malformed_body_is_a_bad_request(patient: Server) -> None:
    """HTTP-2: the route that waits for the body gets a disconnect, and its response is dropped."""
    async with patient.peer(b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") as peer:
        await peer.send(b"zz\r\n")
        await peer.is_rejected_with(400, "bad_request")

    await patient.app.gone.wait()


async def test_a_malformed_body_does_not_interrupt_a_response(patient: Server) -> None:
    """HTTP-2: a response that has begun is cut off; it does not contain a second one."""
    async with patient.peer(b"POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") as peer:
        assert (await peer.head()).status == 200
        assert await peer.reader.readexactly(10) == b"5\r\nfirst\r\n"
        await peer.send(b"zz\r\n")
        assert await peer.is_closed()
    patient.app.go_on.set()


@pytest.mark.parametrize("path", ["/fail", "/nothing"])
async def test_an_exception_of_the_application_has_an_error_body(
    patient: Server, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP-2: also if the application sends none; its incident id is logged."""
    async with patient.peer(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()) as peer:
        message = await peer.is_rejected_with(500, "internal")

    [incident] = re.findall(r"[0-9a-f]{16}", message)
    assert f"incident {incident}" in caplog.text


async def test_an_error_waits_for_the_responses_before_it(patient: Server) -> None:
    """HTTP-2: pipelined requests are answered in their order, the malformed one last."""
    async with patient.peer(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + GET + b"GET / HTTP/1.1\r\n\r\n" + GET) as peer:
        await patient.app.begun.wait()
        patient.app.go_on.set()
        assert (await peer.answer()).body == {"waited": True}
        assert (await peer.answer()).body == {"ok": True}
        await peer.is_rejected_with(400, "bad_request")

    assert patient.app.asked == ["/wait", "/"]


async def test_the_error_for_a_pipelined_request_is_sent_in_its_turn(patient: Server) -> None:
    """HTTP-2."""
    broken = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    async with patient.peer(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + broken) as peer:
        await patient.app.begun.wait()
        patient.app.go_on.set()
        assert (await peer.answer()).body == {"waited": True}
        await peer.is_rejected_with(400, "bad_request")

    assert patient.app.asked == ["/wait"]


async def test_trailers_are_not_headers(patient: Server) -> None:
    """HTTP-7: a credential in a trailer is ignored."""
    await patient.asks(
        b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-API-Key: k\r\n\r\n"
    )

    assert patient.app.headers == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize("rest", [b"0\r\nX: ", b"3;ext="], ids=["a trailer", "an extension"])
async def test_chunk_extensions_and_trailers_are_limited(patient: Server, rest: bytes) -> None:
    """HTTP-5: they have the limit of the header block."""
    async with patient.peer(b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + rest) as peer:
        await patient.app.begun.wait()
        await peer.send(b"x" * 40_000)
        await peer.is_rejected_with(431, "headers_too_large")


# Time


async def test_incomplete_headers_time_out(server: Server) -> None:
    """HTTP-5: also if the client keeps sending a little."""
    async with server.peer(b"GET / HTTP/1.1\r\nHost: a\r\n") as peer:

        async def drip() -> None:
            while True:
                await peer.send(b"X: y\r\n")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        try:
            await peer.is_rejected_with(408, "request_timeout")
        finally:
            dripping.cancel()


async def test_a_silent_connection_is_closed(server: Server) -> None:
    """HTTP-5: without a response, because there is no request."""
    async with server.peer() as peer:
        assert await peer.is_closed()


async def test_a_connection_that_sends_empty_lines_is_closed(server: Server) -> None:
    """HTTP-5: the parser skips them, but the timeout applies."""
    async with server.peer(b"\r\n") as peer:
        assert await peer.is_closed()


async def test_the_next_request_has_its_own_timeout() -> None:
    """HTTP-5: it begins with the first byte, not with the end of the previous response."""
    async with serving(UNHURRIED, keep_alive=20) as server, server.peer(GET) as peer:
        assert (await peer.answer()).status == 200
        await asyncio.sleep(3.2)  # The subject is that more than `header_seconds` pass here and nothing happens.
        await peer.send(GET[:9])
        await asyncio.sleep(0.1)
        await peer.send(GET[9:])
        assert (await peer.answer()).status == 200
        await peer.send(GET[:9])
        await peer.is_rejected_with(408, "request_timeout")


async def test_an_empty_line_does_not_start_the_timeout_of_the_next_request() -> None:
    """HTTP-5: some old clients send one after a body."""
    async with serving(UNHURRIED, keep_alive=20) as server, server.peer(GET) as peer:
        assert (await peer.answer()).status == 200
        for piece in (b"\r\n", GET[:9], GET[9:]):
            await peer.send(piece)
            await asyncio.sleep(1.6)  # The subject is that more than `header_seconds` pass here and nothing happens.
        assert (await peer.answer()).status == 200


async def test_an_idle_connection_is_closed_by_the_keep_alive_timeout() -> None:
    """HTTP-5: uvicorn's own timeout, without a response."""
    async with serving(PATIENT, keep_alive=1) as server, server.peer(GET) as peer:
        assert (await peer.answer()).status == 200
        assert await peer.is_closed()


async def test_no_request_timeout_ends_a_stream(server: Server) -> None:
    """HTTP-5: the limits apply to requests; a response may take any time."""
    async with server.peer(b"GET /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n") as peer:
        assert (await peer.head()).status == 200
        await asyncio.sleep(0.7)  # Longer than all of them: the subject is that nothing happens.
        server.app.go_on.set()
        assert await peer.reader.readuntil(b"0\r\n\r\n") == b"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n"


async def test_a_body_that_does_not_arrive_times_out(server: Server) -> None:
    """HTTP-5: and the connection is closed after the response."""
    async with server.peer(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc") as peer:
        message = await peer.is_rejected_with(408, "request_timeout")

    assert message == "the body did not arrive in time"


async def test_an_unused_body_times_out_too() -> None:
    """HTTP-5: after an early response the rest of the body has a short time."""
    request = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc"
    async with serving(replace(LIMITS, body_seconds=30)) as server, server.peer(request) as peer:
        assert (await peer.answer()).status == 401
        await peer.send(b"d")  # This stops uvicorn's keep-alive timer.
        assert await peer.is_closed()


async def test_an_early_response_leaves_the_connection_usable(patient: Server) -> None:
    """A client that sends the body after the head, as most do, keeps its connection through a 401."""
    async with patient.peer(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n") as peer:
        assert (await peer.answer()).status == 401
        await peer.send(b"abcde" + GET)
        assert (await peer.answer()).status == 200


# Bodies


async def test_a_body_of_1_mib_is_accepted_and_one_byte_more_is_not(patient: Server) -> None:
    """HTTP-5: with a Content-Length."""
    taken = await patient.asks(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n" + bytes(1_048_576))
    async with patient.peer(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n") as peer:
        await peer.is_rejected_with(413, "payload_too_large")

    assert taken.body == {"length": 1_048_576}


async def test_a_client_that_sends_all_of_a_long_body_can_read_the_response(patient: Server) -> None:
    """HTTP-5: the 413 is not lost to a reset connection."""
    async with patient.peer(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n") as peer:
        for _ in range(20):
            await peer.send(bytes(1_000_000))
        await peer.is_rejected_with(413, "payload_too_large")


async def test_a_chunked_body_is_counted(patient: Server) -> None:
    """HTTP-5."""
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    taken = await patient.asks(
        b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 16 + b"0\r\n\r\n"
    )
    async with patient.peer(b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") as peer:
        await peer.send(chunk * 16 + b"1\r\nx\r\n0\r\n\r\n")
        await peer.is_rejected_with(413, "payload_too_large")

    assert taken.body == {"length": 1_048_576}


async def test_a_client_that_expects_100_continue_gets_413_before_the_body(patient: Server) -> None:
    """HTTP-5: the first and only thing it reads is the 413."""
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n"
    async with patient.peer(head) as peer:
        await peer.is_rejected_with(413, "payload_too_large")


@pytest.mark.parametrize(("version", "continues"), [(b"1.1", True), (b"1.0", False)])
async def test_100_continue_is_sent_to_http_1_1_clients_only(patient: Server, version: bytes, continues: bool) -> None:
    """RFC 9110, 10.1.1: HTTP/1.0 has no interim responses; a client would take one for the final response."""
    head = b"POST /body HTTP/%b\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n" % version
    async with patient.peer(head) as peer:
        if continues:
            assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"abc")
        assert (await peer.answer()).body == {"length": 3}


async def test_bytes_of_a_body_are_read_in_any_framing() -> None:
    """`read_body` without a server: the messages of ASGI."""
    messages: list[Message] = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": b"c"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    assert await read_body(receive, [(b"content-length", b"3")], HttpLimits()) == b"abc"


# Clients that do not read


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_client_that_does_not_read_blocks_the_sender_and_can_be_aborted(patient: Server, kind: str) -> None:
    """SSE-10: `send` waits, little is kept, and `abort` ends it."""
    request = b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n" if kind == "http" else UPGRADE % b"/flood" + b"\r\n"
    async with patient.peer(request) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await patient.app.stalled.wait()
        assert 0 < patient.app.transport.buffered_bytes() <= 262_144

        patient.app.transport.abort()

        await patient.app.gone.wait()


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_client_that_does_not_read_gets_a_reset(patient: Server, kind: str) -> None:
    """SSE-10: the system drops the data that it buffers for the client."""
    request = b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n" if kind == "http" else UPGRADE % b"/flood" + b"\r\n"
    async with patient.peer(request) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await patient.app.stalled.wait()
        poll = select.poll()
        poll.register(peer.writer.get_extra_info("socket").fileno(), select.POLLERR)
        assert not poll.poll(0)

        patient.app.transport.reset()

        await patient.app.gone.wait()
        assert poll.poll(1_000)


async def test_a_client_that_does_not_read_cannot_keep_a_closing_connection_open(server: Server) -> None:
    """SSE-10: a close that makes no progress becomes an abort."""
    async with server.peer(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n") as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await server.app.stalled.wait()
        (protocol,) = server.uvicorn.server_state.connections
        assert isinstance(protocol, http_protocol(LIMITS).__base__)  # type: ignore[arg-type]

        protocol.transport.close()

        await server.app.gone.wait()


# WebSockets


async def closed(websocket: ClientConnection) -> int:
    await websocket.wait_closed()
    assert websocket.close_code is not None
    return websocket.close_code


async def test_a_websocket_message_of_1_mib_is_accepted_and_one_byte_more_is_not(patient: Server) -> None:
    """WS-5."""
    async with patient.websocket("/echo") as websocket:
        await websocket.send("x" * 1_048_576)
        assert await websocket.recv() == "1048576"
        await websocket.send("x" * 1_048_577)
        assert await closed(websocket) == 1009

    await patient.app.gone.wait()


async def test_a_client_that_sends_a_message_of_20_mb_can_read_the_close_code(patient: Server) -> None:
    """WS-5: the close frame is not lost to a reset connection."""
    async with patient.peer(UPGRADE % b"/echo" + b"\r\n") as peer:
        await peer.head()
        await peer.send(struct.pack("!BBQL", 0x81, 0x80 | 127, 20_000_000, 0))
        for _ in range(20):
            await peer.send(bytes(1_000_000))
        assert (await peer.frame())[1][:2] == struct.pack("!H", 1009)
        assert await peer.is_closed()


async def test_fragments_are_limited_together_and_arrive_as_one_message(patient: Server) -> None:
    """WS-5, WS-7: the application sees messages, never fragments or control frames."""

    async def pieces(size: int) -> AsyncIterator[str]:
        for _ in range(size // 16):
            yield "x" * 16

    async with patient.websocket("/echo") as websocket:
        await websocket.send(pieces(160_000))
        await (await websocket.ping())
        assert await websocket.recv() == "160000"
        with suppress(ConnectionClosed):  # Or the client has sent all of it by then.
            await websocket.send(pieces(1_048_576 + 16))
        assert await closed(websocket) == 1009

    assert [message["type"] for message in patient.app.received] == ["websocket.receive", "websocket.disconnect"]


@pytest.mark.parametrize("fragments", [[b"\xff"], [b"\xe2\x82", b"\x28"], [b"ok", b"", b"\xed\xa0\x80"]])
async def test_text_that_is_not_utf_8_closes_with_1007(
    patient: Server, fragments: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """WS-6, RFC 6455 8.1; and nothing is logged."""
    async with patient.peer(UPGRADE % b"/echo" + b"\r\n") as peer:
        assert (await peer.head()).status == 101
        for index, fragment in enumerate(fragments):
            opcode = (1 if index == 0 else 0) | (0x80 if index == len(fragments) - 1 else 0)
            await peer.send(masked(opcode, fragment))
        assert (await peer.frame())[1][:2] == struct.pack("!H", 1007)
        assert await peer.is_closed()

    await patient.app.gone.wait()
    assert [message["type"] for message in patient.app.received] == ["websocket.disconnect"]
    assert caplog.records == []


async def test_text_cut_within_a_character_is_joined(patient: Server) -> None:
    """EVT-6: a fragment may end within a character."""
    async with patient.peer(UPGRADE % b"/echo" + b"\r\n") as peer:
        await peer.head()
        euro = "\N{EURO SIGN}".encode()
        await peer.send(masked(1, euro[:1]) + masked(0, b"") + masked(0x89, b"ping") + masked(0x80, euro[1:]))
        assert await peer.frame() == (10, b"ping")
        assert await peer.frame() == (1, b"1")

    assert patient.app.received == [{"type": "websocket.receive", "text": "\N{EURO SIGN}"}]


async def test_a_missing_pong_closes_the_connection() -> None:
    """WS-6."""
    async with (
        serving(ping_seconds=0.1) as server,
        server.peer(UPGRADE % b"/echo" + b"\r\n") as peer,
    ):
        await peer.head()
        assert (await peer.frame())[0] == 9
        assert (await peer.frame())[1][:2] == struct.pack("!H", 1011)
        assert await peer.is_closed()
        await server.app.gone.wait()


async def test_a_missing_pong_closes_the_connection_of_a_client_that_does_not_read() -> None:
    """WS-6, SSE-10: the close frame cannot be delivered, so the connection is aborted."""
    async with (
        serving(ping_seconds=0.1) as server,
        server.peer(UPGRADE % b"/flood" + b"\r\n") as peer,
    ):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await server.app.gone.wait()


async def test_a_client_that_pings_and_never_reads_is_not_read_from(patient: Server) -> None:
    """SSE-10: the number of unsent pongs is limited."""
    pings = masked(0x89, bytes(125)) * 1_000
    async with patient.peer(UPGRADE % b"/echo" + b"\r\n") as peer:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(500):  # 65 MB, far more than the system's buffers hold.
            peer.writer.write(pings)
            try:
                await asyncio.wait_for(peer.writer.drain(), 0.5)
            except TimeoutError:
                break
        else:
            pytest.fail("the server went on reading")
        assert patient.app.transport.buffered_bytes() <= 1_048_576

        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]

        async def read_on() -> None:
            while True:
                assert await peer.frame() == (10, bytes(125))

        reading = asyncio.create_task(read_on())
        await peer.writer.drain()
        reading.cancel()


async def test_a_million_empty_fragments_take_no_memory(patient: Server) -> None:
    """WS-5: empty fragments must not accumulate."""
    async with patient.peer(UPGRADE % b"/echo" + b"\r\n") as peer:
        await peer.head()
        await peer.send(masked(1, b"a") + masked(0, b"") * 200_000 + masked(0x89, b""))
        assert (await peer.frame())[0] == 10
        (protocol,) = patient.uvicorn.server_state.connections
        assert len(protocol.frames) == 1  # type: ignore[union-attr]
        await peer.send(masked(0x80, b"b"))
        assert await peer.frame() == (1, b"2")


@pytest.mark.parametrize("code", [1000, 1008, 1011, 1012, 4001, 4004, 4008])
async def test_the_application_can_close_with_any_code(patient: Server, code: int) -> None:
    """WS-6."""
    async with patient.websocket("/echo") as websocket:
        await websocket.send(f"close {code}")
        assert await closed(websocket) == code
        assert websocket.close_reason == "asked"


async def test_stopping_the_server_closes_with_1012(patient: Server) -> None:
    """WS-6, DUR-3."""
    async with patient.websocket("/echo") as websocket:
        await patient.stop()
        assert await closed(websocket) == 1012


async def test_a_websocket_can_be_rejected_before_the_upgrade(patient: Server) -> None:
    """WS-1: with the application's own body."""
    with pytest.raises(InvalidStatus) as refused:
        await patient.websocket("/deny")

    assert refused.value.response.status_code == 401
    assert refused.value.response.headers["content-type"] == "application/json"
    assert refused.value.response.body == b'{"error":"unauthorized"}'


@pytest.mark.parametrize(("path", "status", "code"), [("/reject", 403, "forbidden"), ("/fail", 500, "internal")])
async def test_a_websocket_that_is_not_accepted_gets_an_error_body(
    patient: Server, path: str, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP-2: also if the application sends none; the incident id of an exception is logged."""
    async with patient.peer(UPGRADE % path.encode() + b"\r\n") as peer:
        message = await peer.is_rejected_with(status, code)

    incidents = re.findall(r"incident ([0-9a-f]{16})", message)
    assert bool(incidents) == (code == "internal")
    assert all(f"incident {incident}" in caplog.text for incident in incidents)


HANDSHAKES = {
    "no key": (b"Sec-WebSocket-Version: 13\r\n", 400, "bad_request"),
    "a short key": (b"Sec-WebSocket-Key: secret\r\nSec-WebSocket-Version: 13\r\n", 400, "bad_request"),
    "another version": (
        b"Sec-WebSocket-Key: " + b"A" * 22 + b"==\r\nSec-WebSocket-Version: secret\r\n",
        400,
        "bad_request",
    ),
    "a body": (b"Content-Length: 3\r\n\r\nabc", 400, "bad_request"),
    "a long header": (b"X: " + b"x" * 9_000 + b"\r\n", 431, "headers_too_large"),
    "headers over the limit": ((b"X: " + b"x" * 1_000 + b"\r\n") * 33, 431, "headers_too_large"),
    "too many headers": (b"X: y\r\n" * 101, 431, "headers_too_large"),
}


@pytest.mark.parametrize(("headers", "status", "code"), HANDSHAKES.values(), ids=HANDSHAKES.keys())
async def test_a_bad_handshake_gets_an_error_body(patient: Server, headers: bytes, status: int, code: str) -> None:
    """HTTP-2, HTTP-5: the limits apply before the upgrade, and no header value is repeated."""
    head = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    async with patient.peer(head + headers + b"\r\n") as peer:
        assert "secret" not in await peer.is_rejected_with(status, code)

    assert patient.app.asked == []


async def test_a_handshake_over_http_1_0_is_ignored(patient: Server) -> None:
    """RFC 9110, 7.8: it is answered as a plain request."""
    old = (UPGRADE % b"/early" + b"\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")

    assert (await patient.asks(old)).status == 401


async def test_the_url_of_a_handshake_may_be_absolute(patient: Server) -> None:
    """RFC 9112, 3.2.2: "a server MUST accept the absolute-form in requests"."""
    async with patient.peer(UPGRADE % b"http://evil.example:9/echo?x=y" + b"\r\n") as peer:
        assert (await peer.head()).status == 101
    for broken in (b"http://[::1/echo", b"http://evil.example"):
        async with patient.peer(UPGRADE % broken + b"\r\n") as peer:
            await peer.is_rejected_with(400, "bad_request")

    assert patient.app.asked == ["/echo"]


async def test_a_long_url_is_rejected_before_the_upgrade(patient: Server) -> None:
    """HTTP-5."""
    async with patient.peer(UPGRADE % (b"/echo?" + b"u" * 8_192) + b"\r\n") as peer:
        await peer.is_rejected_with(414, "uri_too_long")


async def test_a_handshake_has_a_timeout_too(server: Server) -> None:
    """HTTP-5: and once it is complete, the timeout is canceled."""
    async with server.websocket("/echo") as websocket:
        await asyncio.sleep(0.5)  # Longer than `header_seconds`: the subject is that nothing happens.
        await websocket.send("x")
        assert await websocket.recv() == "1"
    async with server.peer(UPGRADE % b"/echo") as peer:
        await peer.is_rejected_with(408, "request_timeout")


async def test_a_client_that_sends_frames_before_the_handshake_is_disconnected(patient: Server) -> None:
    """RFC 6455, 4.1."""
    async with patient.peer(UPGRADE % b"/wait" + b"\r\n") as peer:
        await patient.app.begun.wait()
        await peer.send(masked(0x81, b"x"))
        await patient.app.gone.wait()

    assert [message["type"] for message in patient.app.received] == ["websocket.disconnect"]


async def test_a_pipelined_handshake_is_rejected(patient: Server) -> None:
    """Two protocols must not write to one connection at a time."""
    async with patient.peer(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + UPGRADE % b"/echo" + b"\r\n") as peer:
        await patient.app.begun.wait()
        patient.app.go_on.set()
        assert (await peer.answer()).status == 200
        await peer.is_rejected_with(400, "bad_request")


def masked(first: int, content: bytes) -> bytes:
    """Return a frame of a client, masked with zeros."""
    assert len(content) < 126
    return bytes([first, 0x80 | len(content), 0, 0, 0, 0]) + content


# The log


async def test_a_hostile_client_does_not_fill_the_log(patient: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Errors are reported to the client only."""
    for malformed in MALFORMED:
        async with patient.peer(malformed.raw) as peer:
            await peer.is_rejected_with(400, "bad_request")

    assert caplog.records == []


async def test_no_part_of_a_url_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """WS-1: at any level, and however logging is configured afterwards."""
    secret = os.urandom(8).hex()
    async with serving(PATIENT, access_log=True) as server:
        caplog.set_level(logging.DEBUG)
        for name in ("uvicorn", "uvicorn.access", "uvicorn.error", "uvicorn.error.websocket", "websockets"):
            caplog.set_level(logging.DEBUG, logger=name)
        query = f"?api_key={secret}"
        async with server.websocket(f"/echo{query}") as websocket:
            await websocket.send(f"text {secret}")
        for path in ("/deny", "/reject", "/fail"):
            async with server.peer(UPGRADE % f"{path}{query}".encode() + b"\r\n") as peer:
                await peer.answer()
        for request in ("GET / HTTP/1.1\r\nHost: a", "GET / HTTP/1.1\r\nX : y", "POST /early HTTP/1.1\r\nHost: a"):
            async with server.peer(f"{request.replace(' HTTP', f'{query} HTTP')}\r\n\r\n".encode()) as peer:
                await peer.answer()

    ours = [record for record in caplog.records if not record.name.startswith("websockets.client")]
    assert not [record.getMessage() for record in ours if secret in logging.Formatter().format(record)]


def test_the_limits_are_those_of_the_protocol() -> None:
    """HTTP-5."""
    limits = HttpLimits()

    assert (limits.body_bytes, limits.header_bytes, limits.header_fields, limits.url_bytes) == (
        2**20,
        2**15,
        100,
        2**13,
    )
    assert (limits.header_seconds, limits.body_seconds, limits.ws_message_bytes) == (10, 30, 2**20)
