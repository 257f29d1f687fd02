"""Experiment 12: hostile callback tools: at forbidden addresses, and with endless or invalid responses.

CB-3, CB-5: the gateway connects only to addresses that the operator allows, and every call ends in time.
"""

import asyncio
import gzip
import itertools
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpcore
import pytest
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.client import CallbackClient
from cmdc_gateway.tools.callbacks.connector import connect_tcp
from cmdc_gateway.tools.callbacks.response import MAX_RESPONSE_BYTES
from cmdc_testkit.addresses import DISGUISED, FORBIDDEN
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import GatewayProcess, InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.resource_usage import ResourceUsage, mib

PUBLIC = "8.8.8.8"
PARAMETERS = {"type": "object"}


@dataclass(slots=True)
class Network:
    """A network on loopback: the public address leads to `tool`, every other address to `forbidden`.

    `names` maps each host name to the addresses of consecutive lookups. Whatever is broken, no connection leaves this
    machine.
    """

    tool: Receiver
    forbidden: Receiver
    names: dict[str, list[list[str]]] = field(default_factory=dict[str, list[list[str]]])
    connected: list[str] = field(default_factory=list[str])

    async def resolve(self, host: str, port: int) -> list[str]:
        answers = self.names.get(host, [[]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect(self, address: str, port: int) -> httpcore.AsyncNetworkStream:
        self.connected.append(address)
        return await connect_tcp("127.0.0.1", self.tool.port if address == PUBLIC else self.forbidden.port)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A gateway whose operator allows only public addresses."""
    async with in_process_gateway(tmp_path, callback_allow=[]) as served:
        yield served


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with Receiver() as tool, Receiver() as forbidden:
        yield Network(tool, forbidden)


def route_callbacks(served: InProcessGateway, network: Network, *allow: str) -> None:
    """Send the gateway's callbacks through the network."""
    calls = CallbackClient(AddressPolicy(allow), resolve=network.resolve, connect=network.connect)
    object.__setattr__(served.gateway.registry.services, "callbacks", calls)


async def call_tool(talk: Conversation, url: str) -> tuple[str, str]:
    """Register a tool at this URL and call it; return the status and the result of its event."""
    body = {"name": "t", "description": "", "parameters": PARAMETERS, "callbackUrl": url, "idempotent": True}
    made = await talk.post("tools", body)
    assert made.status_code == 201, made.text
    events = await talk.run(script(calling(("t", {})), {"text": ["on"]}))
    [end] = [event.data for event in events if event.name == "tool_execution_end"]
    assert events[-1].name == "agent_end", "the run continues"
    return end["status"], end["result"]


async def test_the_gateway_does_not_connect_to_forbidden_addresses(
    experiment: Experiment, served: InProcessGateway, network: Network
) -> None:
    """CB-5: in the URL, from DNS, beside a public address, after a redirect, or from a second lookup."""
    rng, part = experiment.random, experiment.part
    forms, literals = rng.sample(FORBIDDEN, k=12), rng.sample(_literals(), k=40)
    if experiment.long:
        forms, literals = FORBIDDEN[part.index - 1 :: part.of], _literals()[part.index - 1 :: part.of]
    route_callbacks(served, network)
    async with served.client() as client:
        talk = await Conversation.begin(client, maxTurns=1000)
        for literal in literals:
            for url in (f"http://{literal}/", f"https://{literal}:8443/x"):
                body = {"name": "t", "description": "", "parameters": PARAMETERS, "callbackUrl": url}
                refused = await talk.post("tools", body)
                assert (refused.status_code, refused.json()["error"]) == (422, "registration_failed"), url

        for number, address in enumerate(forms):
            host = f"tool{number}.example"
            for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
                network.names[host] = [answer]
                status, result = await call_tool(talk, f"http://{host}/")
                assert status == "error", address
                assert "not public" in result, address
                assert address not in result

            network.names[host] = [[PUBLIC], [address]]  # as in DNS rebinding
            assert await call_tool(talk, f"http://{host}/") == ("ok", "done")
            status, _ = await call_tool(talk, f"http://{host}/")
            assert status == "error", address

            network.names[host] = [[PUBLIC]]
            literal = f"[{address}]" if ":" in address else address
            network.tool.headers = f"Location: http://{literal}/\r\n"
            network.tool.answers.append((f"{rng.choice([301, 302, 303, 307, 308])} Moved", b""))
            status, result = await call_tool(talk, f"http://{host}/")
            assert status == "error"
            assert "redirect" in result
            network.tool.headers = ""
    experiment.record("addresses", len(forms))
    experiment.record("spellings in URLs", len(literals))
    experiment.record("connections to forbidden addresses", len(network.forbidden.calls))
    assert network.forbidden.calls == []
    assert set(network.connected) <= {PUBLIC}


async def test_a_connection_to_a_forbidden_address_would_be_noticed(
    experiment: Experiment, served: InProcessGateway, network: Network
) -> None:
    """CB-5: with a policy that allows everything, the connections are made."""
    route_callbacks(served, network, "0.0.0.0/0", "::/0")
    allowed = [address for address in FORBIDDEN if "%" not in address]
    async with served.client() as client:
        talk = await Conversation.begin(client)
        for address in experiment.random.sample(allowed, k=5):
            network.names["tool.example"] = [[address]]
            assert await call_tool(talk, "http://tool.example/") == ("ok", "done")
    experiment.record("connections without the policy", len(network.forbidden.calls))
    assert len(network.forbidden.calls) == 5


def _literals() -> list[str]:
    return list(dict.fromkeys([*DISGUISED, *(f"[{address}]" if ":" in address else address for address in FORBIDDEN)]))


# -- hostile responses -------------------------------------------------------------------------------------------------

Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\n"
TIMEOUT_MS = 1_500


def send_once(*chunks: bytes) -> Respond:
    """Return a response that consists of these bytes."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    return respond


def send_forever(first: bytes, chunk: bytes, *, every: float = 0.0) -> Respond:
    """Return a response that repeats `chunk` forever."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for _ in itertools.count():
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(every)

    return respond


def _compressed(encoding: bytes, body: bytes) -> Respond:
    return send_once(HEAD + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body)), body)


BOMB = b'{"result": "' + bytes(10_000_000) + b'"}'
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_LARGE = b"x" * 65_536
RESPONSES: dict[str, Respond] = {
    "nothing": send_forever(b"", b"", every=0.5),
    "half a status line": send_forever(b"HTTP/1.1 2", b"", every=0.5),
    "slow headers": send_forever(HEAD, b"X: y\r\n", every=0.05),
    "a slow body": send_forever(HEAD + b"Content-Length: 1000\r\n\r\n", b" ", every=0.05),
    "slow chunks": send_forever(HEAD + _CHUNKED, b"1\r\n \r\n", every=0.05),
    "endless headers": send_forever(HEAD, b"X: " + _LARGE + b"\r\n"),
    "an endless header": send_forever(HEAD + b"X: ", _LARGE),
    "endless interim answers": send_forever(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 100),
    "an endless body": send_forever(HEAD + b"\r\n", _LARGE),
    "a body of a terabyte": send_forever(HEAD + b"Content-Length: 1000000000000\r\n\r\n", _LARGE),
    "endless chunks": send_forever(HEAD + _CHUNKED, b"10000\r\n" + _LARGE + b"\r\n"),
    "endless tiny chunks": send_forever(HEAD + _CHUNKED, b"1\r\nx\r\n" * 10_000),
    "an endless chunk extension": send_forever(HEAD + _CHUNKED + b"1;", _LARGE),
    "endless trailers": send_forever(HEAD + _CHUNKED + b"0\r\n", b"X: y\r\n" * 10_000),
    "256 KiB and one byte": send_once(
        HEAD + b"Content-Length: 262145\r\n\r\n", b'{"result": "' + b"x" * 262_131 + b'"}'
    ),
    "a gzip bomb": _compressed(b"gzip", gzip.compress(BOMB)),
    "a gzip bomb by another name": _compressed(b"X-GZip", gzip.compress(BOMB)),
    "a deflate bomb": _compressed(b"deflate", zlib.compress(BOMB)),
    "a bomb in a bomb": _compressed(b"gzip, gzip", gzip.compress(gzip.compress(BOMB))),
    "a bomb in the transfer": send_once(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"0\r\n\r\n"),
    "an undeclared gzip body": send_once(
        HEAD + b"Content-Length: %d\r\n\r\n" % len(gzip.compress(BOMB)), gzip.compress(BOMB)
    ),
    "brotli": _compressed(b"br", b"\x8b\x02\x80" + bytes(100)),
    "deep JSON": send_once(HEAD + b"Content-Length: 200000\r\n\r\n", b"[" * 200_000),
    "a number of 200,000 digits": send_once(
        HEAD + b"Content-Length: 200012\r\n\r\n", b'{"result": ' + b"9" * 200_000 + b"}"
    ),
    "an upgrade": send_forever(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"x", every=0.1
    ),
    "no content": send_once(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a redirect to itself": send_once(b"HTTP/1.1 307 Moved\r\nLocation: /tool\r\nContent-Length: 0\r\n\r\n"),
    "two lengths": send_once(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"),
    "length and coding": send_once(HEAD + b"Content-Length: 13\r\nTransfer-Encoding: gzip\r\n\r\n", b'{"result": 1}'),
    "a length that is too long": send_once(HEAD + b"Content-Length: 99\r\n\r\n", b'{"result": 1}'),
    "HTTP/2": send_once(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)),
    "HTTP/0.9": send_once(b'{"result": 1}'),
    "TLS": send_once(b"\x15\x03\x01\x00\x02\x02\x46"),
}


class HostileTool:
    """A tool on loopback whose path selects the response; `sent` has the bytes sent of each."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}
        self.open = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        responding: asyncio.Task[None] | None = None
        try:
            line = await reader.readline()
            name = list(RESPONSES)[int(line.split()[1].removeprefix(b"/"))]
            responding = asyncio.create_task(self._respond(name, writer))
            while await reader.read(65_536):
                pass  # until the gateway closes the connection
        except ConnectionError:
            pass
        finally:
            if responding is not None:
                responding.cancel()
                await asyncio.gather(responding, return_exceptions=True)
            writer.transport.abort()
            self.open -= 1

    async def _respond(self, name: str, writer: asyncio.StreamWriter) -> None:
        write = writer.write

        def counted(data: bytes) -> None:
            self.sent[name] = self.sent.get(name, 0) + len(data)
            write(data)

        writer.write = counted  # type: ignore[method-assign]
        await RESPONSES[name](writer)
        if name not in ("nothing", "half a status line"):
            writer.write_eof()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures a process with /proc")
async def test_every_hostile_response_ends_in_time_with_an_error(experiment: Experiment, tmp_path: Path) -> None:
    """CB-3: it uses little memory, and the run continues."""
    rounds = experiment.trials(short=1, long=15)
    took: list[float] = []
    async with HostileTool() as tool, GatewayProcess(tmp_path) as gateway, gateway.client() as client:
        talks = [await Conversation.begin(client, maxTurns=1000) for _ in RESPONSES]
        urls = [f"http://127.0.0.1:{tool.port}/{number}" for number in range(len(RESPONSES))]
        await asyncio.gather(*(_timed_call(talk, url) for talk, url in zip(talks, urls, strict=True)))  # to warm up
        before = ResourceUsage.of(gateway.pid).memory
        for _ in range(rounds):
            took += await asyncio.gather(*(_timed_call(talk, url) for talk, url in zip(talks, urls, strict=True)))
        grown = ResourceUsage.of(gateway.pid).memory - before
        async with asyncio.timeout(10):
            while tool.open:  # noqa: ASYNC110 - the gateway closes every connection
                await asyncio.sleep(0.02)
        log = gateway.log()
    largest = max(tool.sent.values()) // (rounds + 1)
    experiment.record("hostile responses", len(took))
    experiment.record(f"slowest (limit {TIMEOUT_MS} ms)", f"{max(took):.2f} s")
    experiment.record(f"largest response read (limit {MAX_RESPONSE_BYTES // 1024} KiB plus buffers)", mib(largest))
    experiment.record("memory", mib(grown))
    assert max(took) <= TIMEOUT_MS / 1000 + 5
    assert largest <= _unread_at_most()
    assert grown <= 20 * 2**20
    assert "Traceback" not in log


def _unread_at_most() -> int:
    """An upper bound of what the kernel buffers for a connection that is no longer read."""
    buffers = ("/proc/sys/net/ipv4/tcp_rmem", "/proc/sys/net/ipv4/tcp_wmem")
    return 8 * 2**20 + sum(int(Path(buffer).read_text().split()[-1]) for buffer in buffers)


async def _timed_call(talk: Conversation, url: str) -> float:
    """Call the tool; return the seconds between the events of its start and its end."""
    body = {"name": "t", "description": "", "parameters": PARAMETERS, "callbackUrl": url, "timeoutMs": TIMEOUT_MS}
    assert (await talk.post("tools", body)).status_code == 201
    request_id = await talk.prompt(script(calling(("t", {})), {"text": ["on"]}))
    begun, started, ended, last = time.perf_counter(), 0.0, 0.0, ""
    async with asyncio.timeout(60):
        async for seen in talk.stream(requestId=request_id):
            last = seen.name
            if last == "tool_execution_start":
                started = time.perf_counter()
            if last == "tool_execution_end":
                ended = time.perf_counter()
                assert seen.data["status"] == "error", (url, seen.data)
    assert last == "agent_end"
    assert begun <= started <= ended
    return ended - started
