import asyncio
import base64
import gzip
import json
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import httpcore
import pytest
from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.client import CallbackClient
from cmdc_gateway.tools.callbacks.connector import connect_tcp
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition
from cmdc_gateway.tools.callbacks.response import MAX_RESPONSE_BYTES
from cmdc_gateway.tools.callbacks.secret import check_secret, new_secret
from cmdc_gateway.tools.callbacks.tool import CallbackTool
from cmdc_gateway.tools.tool import ToolResult
from pydantic import JsonValue
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

SECRET = new_secret(lambda size: bytes(range(size)))
LOOPBACK = AddressPolicy(["127.0.0.0/8"])
CALL = ToolCall("call_1", "get_weather", {"city": "Tromsø", "days": 2})


class Endpoint(Protocol):
    """The fixture of this name."""

    requests: list[tuple[dict[str, str], bytes]]
    request_lines: list[str]
    responses: list[Any]
    port: int
    disconnected: asyncio.Event

    def url(self, path: str = "/tool") -> str: ...
    def respond_with(self, body: bytes, *, status: str = "200 OK", headers: str = "") -> None: ...


class Network:
    """A resolver and a connector that record their arguments. Only connections to loopback are made."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = {name.replace("_", "."): list(addresses) for name, addresses in names.items()}
        self.resolved: list[str] = []
        self.connected_to: list[str] = []
        self.port = 0
        self.refuse = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    async def connect(self, address: str, port: int) -> httpcore.AsyncNetworkStream:
        self.connected_to.append(address)
        if self.refuse or not address.startswith("127."):
            self.refuse = max(0, self.refuse - 1)
            raise ConnectionRefusedError
        return await connect_tcp(address, self.port or port)


class Sleep:
    """A sleep that records the delays and returns immediately."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.delays.append(seconds)


def weather(url: str, **more: Any) -> CallbackDefinition:
    schema: dict[str, JsonValue] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return replace(CallbackDefinition("get_weather", "The weather", schema, url, secret=SECRET), **more)


def client(network: Network | None = None, policy: AddressPolicy = LOOPBACK, **more: Any) -> CallbackClient:
    network = network or Network()
    more = {"sleep": Sleep()} | more
    return CallbackClient(policy, resolve=network.resolve, connect=network.connect, **more)


async def call(endpoint: Endpoint, **more: Any) -> ToolResult:
    return await client().call(weather(endpoint.url(), **more), CALL, "s1")


async def test_a_call_is_one_post_with_the_call_in_its_body(endpoint: Endpoint) -> None:
    endpoint.respond_with(b'{"result": "cold"}')

    assert await call(endpoint) == ToolResult("ok", "cold")

    [(headers, body)] = endpoint.requests
    assert endpoint.request_lines == ["POST /tool HTTP/1.1"]
    assert json.loads(body) == {
        "callId": "call_1",
        "toolName": "get_weather",
        "args": {"city": "Tromsø", "days": 2},
        "sessionId": "s1",
    }
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["host"] == f"127.0.0.1:{endpoint.port}"
    assert "cookie" not in headers
    assert "authorization" not in headers


async def test_a_call_is_signed_as_in_standard_webhooks(endpoint: Endpoint) -> None:
    endpoint.respond_with(b'{"result": ""}')

    await call(endpoint)

    [(headers, body)] = endpoint.requests
    assert headers["webhook-id"] == "call_1"
    assert Webhook(SECRET).verify(body, headers) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"days", b"Days"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret(lambda size: b"x" * size)).verify(body, headers)


@pytest.mark.parametrize(
    ("response", "result"),
    [
        (b'{"result": "text"}', ToolResult("ok", "text")),
        (b'{"result": ""}', ToolResult("ok", "")),
        ('{"result": "ø\u2028"}'.encode(), ToolResult("ok", "ø\u2028")),
        (b'{"result": {"t": [1, 2.5, null, true]}}', ToolResult("ok", '{"t":[1,2.5,null,true]}')),
        (b'{"result": null}', ToolResult("ok", "null")),
        (b'{"result": 7, "more": 1}', ToolResult("ok", "7")),
        (b'{"error": "no such city"}', ToolResult("error", "no such city")),
    ],
)
async def test_the_response_determines_the_result(endpoint: Endpoint, response: bytes, result: ToolResult) -> None:
    endpoint.respond_with(response)

    assert await call(endpoint) == result


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"cold",
        b"[]",
        b'"cold"',
        b"{}",
        b'{"error": 7}',
        b'{"error": null}',
        b'{"result": 1, "error": "x"}',
        b'{"result": 1, "error": null}',
        b'{"result": NaN}',
        b'{"result": 1e999}',
        b'{"result": 1, "result": 2}',
        b'{"result": "\\ud800"}',
        b'{"result": "\xff"}',
        b'{"result": ' + b"[" * 100 + b"]" * 100 + b"}",
        b"\xef\xbb\xbf{}",
        b'{"result": 1} trailing',
    ],
)
async def test_any_other_response_is_an_error(endpoint: Endpoint, response: bytes) -> None:
    endpoint.respond_with(response)

    result = await call(endpoint, idempotent=True)

    assert result.status == "error"
    assert result.result.startswith("the tool 'get_weather' failed: its response ")
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_not_followed(endpoint: Endpoint, status: str) -> None:
    endpoint.respond_with(b"{}", status=status, headers=f"Location: {endpoint.url('/other')}\r\n")

    result = await call(endpoint, idempotent=True)

    assert "redirect" in result.result
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "404 Not Found", "429 Slow", "500 Oops", "503 Busy"])
async def test_a_tool_that_is_not_idempotent_is_called_once_whatever_the_response(
    endpoint: Endpoint, status: str
) -> None:
    endpoint.respond_with(b'{"result": "not this"}', status=status)

    assert (await call(endpoint)).status == "error"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", ["429 Slow", "500 Oops", "503 Busy"])
async def test_a_call_of_an_idempotent_tool_is_retried_twice_with_the_same_id(endpoint: Endpoint, status: str) -> None:
    endpoint.respond_with(b"", status=status)
    endpoint.respond_with(b"", status=status)
    endpoint.respond_with(b'{"result": "at last"}')
    times = iter([time.time() - 2, time.time() - 1, time.time()])
    sleep = Sleep()

    result = await client(clock=lambda: next(times), sleep=sleep).call(
        weather(endpoint.url(), idempotent=True), CALL, "s"
    )

    assert result == ToolResult("ok", "at last")
    assert sleep.delays == [0.25, 0.5]
    assert {headers["webhook-id"] for headers, _ in endpoint.requests} == {"call_1"}
    assert len({headers["webhook-timestamp"] for headers, _ in endpoint.requests}) == 3
    assert len({body for _, body in endpoint.requests}) == 1
    for headers, body in endpoint.requests:
        Webhook(SECRET).verify(body, headers)


async def test_a_call_has_at_most_three_attempts(endpoint: Endpoint) -> None:
    for _ in range(4):
        endpoint.respond_with(b"", status="500 Oops")

    assert (await call(endpoint, idempotent=True)).status == "error"
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(("idempotent", "attempts"), [(False, 1), (True, 3)])
async def test_a_lost_connection_is_retried_only_for_an_idempotent_tool(
    endpoint: Endpoint, idempotent: bool, attempts: int
) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()

    endpoint.responses += [hang_up] * 3

    assert (await call(endpoint, idempotent=idempotent)).status == "error"
    assert len(endpoint.requests) == attempts


async def test_a_refused_connection_is_retried_for_any_tool(endpoint: Endpoint) -> None:
    endpoint.respond_with(b'{"result": "at last"}')
    network = Network()
    network.refuse = 2
    callbacks = client(network)

    assert await callbacks.call(weather(endpoint.url()), CALL, "s1") == ToolResult("ok", "at last")
    assert (callbacks.attempts, callbacks.connections, len(endpoint.requests)) == (3, 1, 1)


async def test_a_connection_that_is_always_refused_is_an_error() -> None:
    network = Network()
    network.refuse = 99

    result = await client(network).call(weather("http://127.0.0.1:9/x?token=t"), CALL, "s1")

    assert result == ToolResult(
        "error", "the tool 'get_weather' failed: http://127.0.0.1:9: the connection was refused or timed out"
    )
    assert len(network.connected_to) == 3


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def dribbling_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def dribbling_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def processing(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("response", [silent, dribbling_head, dribbling_body, processing])
@pytest.mark.parametrize("idempotent", [False, True])
async def test_the_timeout_applies_to_the_whole_call(endpoint: Endpoint, response: Any, idempotent: bool) -> None:
    endpoint.responses.append(response)
    started = time.monotonic()

    result = await call(endpoint, timeout_ms=200, idempotent=idempotent)

    assert result == ToolResult("error", "the tool 'get_weather' failed: it did not respond within 200 ms")
    assert 0.15 < time.monotonic() - started < 3


async def test_retries_do_not_extend_the_timeout(endpoint: Endpoint) -> None:
    for _ in range(3):
        endpoint.respond_with(b"", status="500 Oops")
    started = time.monotonic()

    result = await client(sleep=asyncio.sleep).call(
        weather(endpoint.url(), timeout_ms=100, idempotent=True), CALL, "s1"
    )

    assert "within 100 ms" in result.result
    assert time.monotonic() - started < 3


async def test_an_endless_response_is_not_read_to_its_end(endpoint: Endpoint) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
            sent += 0x10000

    endpoint.responses.append(endless)

    result = await call(endpoint, idempotent=True)

    assert f"more than {MAX_RESPONSE_BYTES} bytes" in result.result
    async with asyncio.timeout(5):
        await endpoint.disconnected.wait()
    assert sent < 50_000_000


@pytest.mark.parametrize(("size", "status"), [(MAX_RESPONSE_BYTES, "ok"), (MAX_RESPONSE_BYTES + 1, "error")])
async def test_a_response_may_have_256_kib(endpoint: Endpoint, size: int, status: str) -> None:
    endpoint.respond_with(b'{"result": "' + b"x" * (size - 14) + b'"}')

    assert (await call(endpoint)).status == status


async def test_endless_headers_are_an_error(endpoint: Endpoint) -> None:
    endpoint.respond_with(b"{}", headers=f"X: {'y' * 1_000_000}\r\n")

    assert (await call(endpoint)).status == "error"


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1_000),
    ],
    ids=["interim responses", "tiny chunks"],
)
async def test_the_bytes_besides_the_body_are_limited_too(endpoint: Endpoint, first: bytes, piece: bytes) -> None:
    """CB-3: otherwise the client would parse them until the timeout."""
    written = 0

    async def respond(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(first)
        while not writer.is_closing():
            writer.write(piece)
            written += len(piece)
            await writer.drain()

    endpoint.responses.append(respond)

    async with asyncio.timeout(20):
        result = await call(endpoint, timeout_ms=300_000)

    assert "sent more than 524288 bytes" in result.result
    async with asyncio.timeout(5):
        await endpoint.disconnected.wait()
    assert written < 16 * 2**20  # more than the buffers of both sockets


async def test_a_compressed_response_is_rejected_without_decompression(endpoint: Endpoint) -> None:
    endpoint.respond_with(gzip.compress(b'{"result": "' + b"x" * 10**8 + b'"}'), headers="Content-Encoding: gzip\r\n")

    assert "compressed" in (await call(endpoint)).result


async def test_a_response_that_is_not_http_is_an_error(endpoint: Endpoint) -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
        await writer.drain()

    endpoint.responses.append(respond)

    assert (await call(endpoint)).status == "error"


async def test_an_error_contains_neither_path_nor_query(endpoint: Endpoint) -> None:
    endpoint.respond_with(b"", status="404 Not Found")

    result = await client().call(weather(endpoint.url("/T0KEN/x?key=T0KEN")), CALL, "s1")

    assert result.result == f"the tool 'get_weather' failed: http://127.0.0.1:{endpoint.port} returned status 404"


async def test_proxies_and_cookies_are_ignored(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    endpoint.respond_with(b'{"result": "direct"}', headers="Set-Cookie: a=b\r\n")
    endpoint.respond_with(b'{"result": "direct"}')
    callbacks = client()

    for _ in range(2):
        assert (await callbacks.call(weather(endpoint.url()), CALL, "s1")).result == "direct"
    assert "cookie" not in endpoint.requests[1][0]


async def test_cancelling_a_call_closes_the_connection(endpoint: Endpoint) -> None:
    started = asyncio.Event()

    async def respond(writer: asyncio.StreamWriter) -> None:
        started.set()
        while not writer.is_closing():
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.005)

    endpoint.responses.append(respond)
    task = asyncio.create_task(call(endpoint))
    async with asyncio.timeout(5):
        await started.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await endpoint.disconnected.wait()


# Addresses: a connection is made to an address that was checked.


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%eth0"],
        ["127.0.0.1", "10.0.0.1"],
        ["8.8.8.8", "169.254.169.254"],
        ["8.8.8.8", "nonsense"],
        ["0.0.0.0"],
    ],
)
async def test_no_connection_is_made_if_one_address_of_a_host_is_forbidden(addresses: list[str]) -> None:
    network = Network(tool_example=addresses)
    callbacks = client(network)

    result = await callbacks.call(weather("http://tool.example/"), CALL, "s1")

    assert "not public" in result.result
    assert network.connected_to == []
    assert (callbacks.attempts, callbacks.connections, callbacks.rejections) == (1, 0, 1)
    assert not any(address in result.result for address in addresses)


async def test_localhost_is_checked_when_connecting() -> None:
    network = Network(localhost=["127.0.0.1"])

    result = await client(network, AddressPolicy()).call(weather("http://localhost/"), CALL, "s1")

    assert "not public" in result.result
    assert network.connected_to == []


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "[::1]", "169.254.169.254"])
async def test_a_literal_address_is_checked_again_when_connecting(host: str) -> None:
    network = Network()

    result = await client(network, AddressPolicy()).call(weather(f"http://{host}/"), CALL, "s1")

    assert "not public" in result.result
    assert (network.resolved, network.connected_to) == ([], [])


async def test_a_host_is_resolved_once_and_the_checked_address_is_used(endpoint: Endpoint) -> None:
    """DNS rebinding: the name server returns 127.0.0.2 first, and then the metadata service."""
    network = Network(rebind_example=["127.0.0.2"])
    network.port = endpoint.port
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.2", endpoint.port)
    resolve = network.resolve

    async def rebinding(host: str, port: int) -> list[str]:
        addresses = await resolve(host, port)
        network.names[host] = ["169.254.169.254"]
        return addresses

    callbacks = CallbackClient(LOOPBACK, resolve=rebinding, connect=network.connect, sleep=Sleep())
    async with server:
        first = await callbacks.call(weather("http://rebind.example/"), CALL, "s1")
        second = await callbacks.call(weather("http://rebind.example/"), CALL, "s1")

    assert "closed the connection" in first.result
    assert "not public" in second.result
    assert network.connected_to == ["127.0.0.2"]


async def test_the_next_address_is_tried_if_one_refuses_the_connection(endpoint: Endpoint) -> None:
    endpoint.respond_with(b'{"result": "second"}')
    network = Network(tool_example=["8.8.8.8", "127.0.0.1"])
    network.port = endpoint.port

    result = await client(network).call(weather("http://tool.example/"), CALL, "s1")

    assert result.result == "second"
    assert network.connected_to == ["8.8.8.8", "127.0.0.1"]
    assert endpoint.requests[0][0]["host"] == "tool.example"


async def test_a_host_that_cannot_be_resolved_is_an_error() -> None:
    network = Network()

    result = await client(network).call(weather("http://missing.example/?t=x"), CALL, "s1")

    assert result.result == "the tool 'get_weather' failed: http://missing.example: its host name cannot be resolved"
    assert network.resolved == ["missing.example"] * 3


async def test_an_invalid_stored_url_is_not_connected_to() -> None:
    network = Network()

    for url in ("file:///etc/passwd", "http://a@127.0.0.1/", "unix:/x"):
        assert (await client(network).call(weather(url), CALL, "s1")).status == "error"
    assert network.connected_to == []


@pytest.fixture
async def tls_server() -> AsyncIterator[tuple[int, list[str | None]]]:
    """A TLS server without a trusted certificate that records the requested server names."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def record_server_name(connection: ssl.SSLObject, name: str | None, given: ssl.SSLContext) -> None:
        names.append(name)

    context.sni_callback = record_server_name
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], names


async def test_tls_requests_the_host_name_in_the_url(tls_server: tuple[int, list[str | None]]) -> None:
    network = Network(tool_example=["127.0.0.1"])
    network.port, names = tls_server

    result = await client(network).call(weather("https://tool.example/"), CALL, "s1")

    assert result.result == "the tool 'get_weather' failed: https://tool.example: the TLS handshake failed"
    assert set(names) == {"tool.example"}
    assert set(network.connected_to) == {"127.0.0.1"}


class HangingStream(httpcore.AsyncNetworkStream):
    """A connection on which the TLS handshake never completes."""

    def __init__(self) -> None:
        self.handshake_started = asyncio.Event()
        self.closed = False

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        self.handshake_started.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True


async def test_cancelling_during_the_tls_handshake_closes_the_connection() -> None:
    stream = HangingStream()

    async def connect(address: str, port: int) -> httpcore.AsyncNetworkStream:
        return stream

    callbacks = CallbackClient(LOOPBACK, connect=connect)
    task = asyncio.create_task(callbacks.call(weather("https://127.0.0.1/"), CALL, "s1"))
    async with asyncio.timeout(5):
        await stream.handshake_started.wait()

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.closed


async def test_the_number_of_connections_is_bounded(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdc_gateway.tools.callbacks.client.MAX_CONNECTIONS", 2)
    release, open_now, max_open = asyncio.Event(), 0, 0

    async def respond(writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, max_open
        open_now += 1
        max_open = max(max_open, open_now)
        if open_now == 2:
            asyncio.get_running_loop().call_later(0.05, release.set)  # time for a third one, if that is allowed
        await release.wait()
        open_now -= 1
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"result": 1}')
        await writer.drain()

    endpoint.responses += [respond] * 6
    callbacks = client()

    results = await asyncio.gather(*(callbacks.call(weather(endpoint.url()), CALL, "s1") for _ in range(6)))

    assert results == [ToolResult("ok", "1")] * 6
    assert max_open == 2


async def test_a_closed_client_rejects_calls(endpoint: Endpoint) -> None:
    callbacks = client()

    await callbacks.aclose()

    assert (await callbacks.call(weather(endpoint.url()), CALL, "s1")).status == "error"
    assert endpoint.requests == []


async def test_a_call_id_that_is_not_a_valid_header_value_is_an_error(endpoint: Endpoint) -> None:
    result = await client().call(weather(endpoint.url()), replace(CALL, id="a\r\nX: b"), "s1")

    assert "callId" in result.result
    assert endpoint.requests == []


# Definitions, secrets, and the tool.


async def test_the_tool_has_the_spec_of_its_definition() -> None:
    definition = weather("http://example.com/", idempotent=True, requires_approval=True)

    assert CallbackTool(definition, client(), "s1").spec == ToolSpec(
        "get_weather",
        "The weather",
        definition.parameters,
        kind="callback",
        requires_approval=True,
        idempotent=True,
    )


async def test_invalid_arguments_are_not_sent(endpoint: Endpoint) -> None:
    tool = CallbackTool(weather(endpoint.url()), client(), "s1")

    result = await tool.run(replace(CALL, args={"city": 7}))

    assert result == ToolResult("error", 'args.city: the value is not of type "string"')
    assert endpoint.requests == []


async def test_valid_arguments_are_sent(endpoint: Endpoint) -> None:
    endpoint.respond_with(b'{"result": "cold"}')

    assert await CallbackTool(weather(endpoint.url()), client(), "s1").run(CALL) == ToolResult("ok", "cold")


def test_a_definition_survives_encoding() -> None:
    definition = weather("http://example.com/?a=ø", timeout_ms=5, idempotent=True)

    assert CallbackDefinition.from_json(definition.to_json()) == definition


def test_neither_the_repr_nor_an_error_contains_the_secret() -> None:
    definition = weather("http://example.com/")

    assert SECRET not in repr(definition)
    with pytest.raises(ValueError, match="is invalid") as raised:
        CallbackDefinition.from_json(definition.to_json().replace(b"30000", b'"soon"'))
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_new_secret_is_valid() -> None:
    secret = new_secret(lambda size: b"\xff" * size)

    assert secret.startswith("whsec_")
    check_secret(secret)


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_secret_has_24_to_64_bytes(size: int) -> None:
    def encode(size: int) -> str:
        return base64.b64encode(b"k" * size).decode()

    check_secret("whsec_" + encode(size))
    for invalid in (encode(size), "whsec_" + encode(23), "whsec_" + encode(65), "whsec_", "", "whsec_!" + encode(size)):
        with pytest.raises(RegistrationFailed) as raised:
            check_secret(invalid)
        assert encode(23) not in str(raised.value)
