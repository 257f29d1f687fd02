"""Experiment 12: hostile callback tools: at addresses that are not theirs, and with answers that have no end.

CB-3, CB-5: nothing is connected to that the operator did not allow, and every call comes to its end in its time.
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
from cmdc_gateway.tools.addresses import AddressPolicy
from cmdc_gateway.tools.callback import MAX_ANSWER, CallbackClient
from cmdc_gateway.tools.connector import connect_tcp
from cmdc_testkit.addresses import DISGUISED, FORBIDDEN
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import GatewayProcess, Served, serving
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.resource_usage import ResourceUsage, mib

PUBLIC = "8.8.8.8"
PARAMETERS = {"type": "object"}


@dataclass(slots=True)
class Network:
    """All the addresses there are, on loopback: the public one is a tool, every other one a witness.

    `names` are what host names resolve to, one answer after another. A connection to an address that is not public, were
    one made, would end at the witness: no test leaves this machine, whatever is broken.
    """

    tool: Receiver
    witness: Receiver
    names: dict[str, list[list[str]]] = field(default_factory=dict[str, list[list[str]]])
    dialled: list[str] = field(default_factory=list[str])

    async def resolve(self, host: str, port: int) -> list[str]:
        answers = self.names.get(host, [[]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect(self, address: str, port: int) -> httpcore.AsyncNetworkStream:
        self.dialled.append(address)
        return await connect_tcp("127.0.0.1", self.tool.port if address == PUBLIC else self.witness.port)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway whose operator allows nothing besides public addresses."""
    async with serving(tmp_path, callback_allow=[]) as served:
        yield served


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with Receiver() as tool, Receiver() as witness:
        yield Network(tool, witness)


def put_before(served: Served, network: Network, *allow: str) -> None:
    """Let this gateway's callbacks go through the network."""
    calls = CallbackClient(AddressPolicy(allow), resolve=network.resolve, connect=network.connect)
    object.__setattr__(served.gateway.registry.services, "callbacks", calls)


async def told(talk: Conversation, url: str) -> tuple[str, str]:
    """Register a tool there, have it called, and give the status and the result that readers see."""
    body = {"name": "t", "description": "", "parameters": PARAMETERS, "callbackUrl": url, "idempotent": True}
    made = await talk.post("tools", body)
    assert made.status_code == 201, made.text
    events = await talk.run(script(calling(("t", {})), {"text": ["on"]}))
    [end] = [event.data for event in events if event.name == "tool_execution_end"]
    assert events[-1].name == "agent_end", "the run goes on"
    return end["status"], end["result"]


async def test_no_address_that_is_not_allowed_is_connected_to(
    experiment: Experiment, served: Served, network: Network
) -> None:
    """CB-5: written in the URL, resolved from a name, beside a public one, after a redirect, or on second thoughts."""
    chance, part = experiment.random, experiment.part
    forms, literals = chance.sample(FORBIDDEN, k=12), chance.sample(_literals(), k=40)
    if experiment.long:
        forms, literals = FORBIDDEN[part.index - 1 :: part.of], _literals()[part.index - 1 :: part.of]
    put_before(served, network)
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
                status, result = await told(talk, f"http://{host}/")
                assert status == "error", address
                assert "may not be sent to" in result, address
                assert address not in result

            network.names[host] = [[PUBLIC], [address]]  # the second answer is for a second question
            assert await told(talk, f"http://{host}/") == ("ok", "done")
            status, _ = await told(talk, f"http://{host}/")
            assert status == "error", address

            network.names[host] = [[PUBLIC]]
            literal = f"[{address}]" if ":" in address else address
            network.tool.headers = f"Location: http://{literal}/\r\n"
            network.tool.answers.append((f"{chance.choice([301, 302, 303, 307, 308])} Moved", b""))
            status, result = await told(talk, f"http://{host}/")
            assert status == "error"
            assert "redirect" in result
            network.tool.headers = ""
    experiment.record("addresses", len(forms))
    experiment.record("spellings in URLs", len(literals))
    experiment.record("connections to witness sockets", len(network.witness.calls))
    assert network.witness.calls == []
    assert set(network.dialled) <= {PUBLIC}


async def test_the_witness_would_have_seen_a_connection(
    experiment: Experiment, served: Served, network: Network
) -> None:
    """CB-5: with a guard that lets everything through, each of them ends there."""
    put_before(served, network, "0.0.0.0/0", "::/0")
    allowed = [address for address in FORBIDDEN if "%" not in address]
    async with served.client() as client:
        talk = await Conversation.begin(client)
        for address in experiment.random.sample(allowed, k=5):
            network.names["tool.example"] = [[address]]
            assert await told(talk, "http://tool.example/") == ("ok", "done")
    experiment.record("connections with the guard taken away", len(network.witness.calls))
    assert len(network.witness.calls) == 5


def _literals() -> list[str]:
    return list(dict.fromkeys([*DISGUISED, *(f"[{address}]" if ":" in address else address for address in FORBIDDEN)]))


# What a tool may answer

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\n"
TIMEOUT_MS = 1_500


def once(*pieces: bytes) -> Say:
    """Answer this."""

    async def say(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return say


def endless(first: bytes, piece: bytes, *, every: float = 0.0) -> Say:
    """Begin with this, and then go on for ever with that."""

    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for _ in itertools.count():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)

    return say


def _compressed(encoding: bytes, body: bytes) -> Say:
    return once(HEAD + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body)), body)


BOMB = b'{"result": "' + bytes(10_000_000) + b'"}'
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_BIG = b"x" * 65_536
ANSWERS: dict[str, Say] = {
    "nothing": endless(b"", b"", every=0.5),
    "half a status line": endless(b"HTTP/1.1 2", b"", every=0.5),
    "headers that drip": endless(HEAD, b"X: y\r\n", every=0.05),
    "a body that drips": endless(HEAD + b"Content-Length: 1000\r\n\r\n", b" ", every=0.05),
    "chunks that drip": endless(HEAD + _CHUNKED, b"1\r\n \r\n", every=0.05),
    "endless headers": endless(HEAD, b"X: " + _BIG + b"\r\n"),
    "an endless header": endless(HEAD + b"X: ", _BIG),
    "endless interim answers": endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 100),
    "an endless body": endless(HEAD + b"\r\n", _BIG),
    "a body of a terabyte": endless(HEAD + b"Content-Length: 1000000000000\r\n\r\n", _BIG),
    "endless chunks": endless(HEAD + _CHUNKED, b"10000\r\n" + _BIG + b"\r\n"),
    "endless tiny chunks": endless(HEAD + _CHUNKED, b"1\r\nx\r\n" * 10_000),
    "an endless chunk extension": endless(HEAD + _CHUNKED + b"1;", _BIG),
    "endless trailers": endless(HEAD + _CHUNKED + b"0\r\n", b"X: y\r\n" * 10_000),
    "256 KiB and one byte": once(HEAD + b"Content-Length: 262145\r\n\r\n", b'{"result": "' + b"x" * 262_131 + b'"}'),
    "a gzip bomb": _compressed(b"gzip", gzip.compress(BOMB)),
    "a gzip bomb by another name": _compressed(b"X-GZip", gzip.compress(BOMB)),
    "a deflate bomb": _compressed(b"deflate", zlib.compress(BOMB)),
    "a bomb in a bomb": _compressed(b"gzip, gzip", gzip.compress(gzip.compress(BOMB))),
    "a bomb in the transfer": once(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"0\r\n\r\n"),
    "a bomb that says nothing": once(
        HEAD + b"Content-Length: %d\r\n\r\n" % len(gzip.compress(BOMB)), gzip.compress(BOMB)
    ),
    "brotli": _compressed(b"br", b"\x8b\x02\x80" + bytes(100)),
    "deep JSON": once(HEAD + b"Content-Length: 200000\r\n\r\n", b"[" * 200_000),
    "a number of 200,000 digits": once(
        HEAD + b"Content-Length: 200012\r\n\r\n", b'{"result": ' + b"9" * 200_000 + b"}"
    ),
    "an upgrade": endless(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"x", every=0.1
    ),
    "no content": once(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a redirect to itself": once(b"HTTP/1.1 307 Moved\r\nLocation: /tool\r\nContent-Length: 0\r\n\r\n"),
    "two lengths": once(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"),
    "length and coding": once(HEAD + b"Content-Length: 13\r\nTransfer-Encoding: gzip\r\n\r\n", b'{"result": 1}'),
    "a length that is too long": once(HEAD + b"Content-Length: 99\r\n\r\n", b'{"result": 1}'),
    "HTTP/2": once(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)),
    "HTTP/0.9": once(b'{"result": 1}'),
    "TLS": once(b"\x15\x03\x01\x00\x02\x02\x46"),
}


class HostileTool:
    """A tool on loopback that answers as its path says; `sent` has how many bytes of each it got rid of."""

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
        saying: asyncio.Task[None] | None = None
        try:
            line = await reader.readline()
            name = list(ANSWERS)[int(line.split()[1].removeprefix(b"/"))]
            saying = asyncio.create_task(self._say(name, writer))
            while await reader.read(65_536):
                pass  # until the gateway has enough
        except ConnectionError:
            pass
        finally:
            if saying is not None:
                saying.cancel()
                await asyncio.gather(saying, return_exceptions=True)
            writer.transport.abort()
            self.open -= 1

    async def _say(self, name: str, writer: asyncio.StreamWriter) -> None:
        write = writer.write

        def counted(data: bytes) -> None:
            self.sent[name] = self.sent.get(name, 0) + len(data)
            write(data)

        writer.write = counted  # type: ignore[method-assign]
        await ANSWERS[name](writer)
        if name not in ("nothing", "half a status line"):
            writer.write_eof()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="weighs a process by /proc")
async def test_answers_without_an_end_come_to_one(experiment: Experiment, tmp_path: Path) -> None:
    """CB-3: each is an error in its time, costs little, and the run goes on."""
    rounds = experiment.trials(short=1, long=15)
    took: list[float] = []
    async with HostileTool() as tool, GatewayProcess(tmp_path) as gateway, gateway.client() as client:
        talks = [await Conversation.begin(client, maxTurns=1000) for _ in ANSWERS]
        urls = [f"http://127.0.0.1:{tool.port}/{number}" for number in range(len(ANSWERS))]
        await asyncio.gather(*(_call(talk, url) for talk, url in zip(talks, urls, strict=True)))  # to warm up
        before = ResourceUsage.of(gateway.pid).memory
        for _ in range(rounds):
            took += await asyncio.gather(*(_call(talk, url) for talk, url in zip(talks, urls, strict=True)))
        grown = ResourceUsage.of(gateway.pid).memory - before
        async with asyncio.timeout(10):
            while tool.open:  # noqa: ASYNC110 - the gateway lets go of every connection
                await asyncio.sleep(0.02)
        log = gateway.log()
    most = max(tool.sent.values()) // (rounds + 1)
    experiment.record("hostile answers", len(took))
    experiment.record(f"ended (limit {TIMEOUT_MS} ms) within", f"{max(took):.2f} s")
    experiment.record(f"taken of one at most (limit {MAX_ANSWER // 1024} KiB and what systems buffer)", mib(most))
    experiment.record("memory", mib(grown))
    assert max(took) <= TIMEOUT_MS / 1000 + 5
    assert most <= _unread_at_most()
    assert grown <= 20 * 2**20
    assert "Traceback" not in log


def _unread_at_most() -> int:
    """What both systems may hold of a connection that one side no longer reads, and then some."""
    buffers = ("/proc/sys/net/ipv4/tcp_rmem", "/proc/sys/net/ipv4/tcp_wmem")
    return 8 * 2**20 + sum(int(Path(buffer).read_text().split()[-1]) for buffer in buffers)


async def _call(talk: Conversation, url: str) -> float:
    """Have the tool called; how many seconds it was running, as readers see it."""
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
