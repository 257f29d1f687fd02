"""Experiment 16: hostile WebSockets: invalid handshakes and frames, and floods.

WS-1, WS-5 … WS-7: each is rejected or closed with the right code, and well-behaved clients are not affected.
"""

import asyncio
import json
import os
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, GatewayProcess
from cmdc_testkit.raw_connections import RawConnection, RawResponse, connect
from cmdc_testkit.resource_usage import ResourceUsage, mib, ms, p99
from cmdc_testkit.well_behaved_client import WellBehavedClient

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures a process with /proc")

ORIGIN = "https://app.example"
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
FIN, RSV1 = 0x80, 0x40
MIB = 2**20
PING_SECONDS = 20


def frame(
    opcode: int, content: bytes = b"", *, first: int = FIN, masked: bool = True, length: int | None = None
) -> bytes:
    """A client's frame; `length` is the length in its header, if that is to be wrong."""
    size = len(content) if length is None else length
    mask = os.urandom(4) if masked else b""
    if masked:
        pad = (mask * (len(content) // 4 + 1))[: len(content)]
        content = (int.from_bytes(content) ^ int.from_bytes(pad)).to_bytes(len(content))
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first | opcode, bit | size)
    elif size < 2**16:
        head = struct.pack("!BBH", first | opcode, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first | opcode, bit | 127, size)
    return head + mask + content


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def _deflated(size: int) -> bytes:
    squeezing = zlib.compressobj(wbits=-15)
    return squeezing.compress(b"x" * size) + squeezing.flush(zlib.Z_SYNC_FLUSH)


# Created once, so that the test does not slow down its measurements.
_OVER_1_MIB = frame(TEXT, b"x" * (MIB + 1))
_FRAGMENTS_OVER_1_MIB = frame(TEXT, b"x" * 600_000, first=0) + frame(CONTINUATION, b"x" * 600_000, first=0)
_DEFLATE_BOMB = frame(TEXT, _deflated(10_000_000), first=FIN | RSV1)
_MANY_MEMBERS = frame(TEXT, json.dumps({f"{n:x}": 1 for n in range(90_000)}).encode())
# What is sent on an open WebSocket, and the code of the server's close frame.
CLOSED: dict[str, tuple[Callable[[random.Random], bytes], int]] = {
    "a message over 1 MiB": (lambda _: _OVER_1_MIB, 1009),
    "a message of 8 EiB, according to its header": (lambda _: frame(TEXT, b"x", length=2**63 - 1), 1009),
    "fragments over 1 MiB": (lambda _: _FRAGMENTS_OVER_1_MIB, 1009),
    "a deflate bomb without the extension": (lambda _: _DEFLATE_BOMB, 1002),
    "text that is not UTF-8": (lambda rng: frame(TEXT, b'{"action": "\xff' + rng.randbytes(5)), 1007),
    "half a character": (lambda _: frame(TEXT, "€".encode()[:2]), 1007),
    "an encoded surrogate": (lambda _: frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "a reserved opcode": (lambda rng: frame(rng.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), b"x"), 1002),
    "a reserved bit": (lambda rng: frame(TEXT, b"x", first=FIN | rng.choice([0x10, 0x20, 0x30])), 1002),
    "a frame without a mask": (lambda _: frame(TEXT, b"x", masked=False), 1002),
    "a ping in fragments": (lambda _: frame(PING, b"x", first=0), 1002),
    "a ping of 126 bytes": (lambda _: frame(PING, bytes(126)), 1002),
    "a continuation of nothing": (lambda _: frame(CONTINUATION, b"x"), 1002),
    "a message within a message": (lambda _: frame(TEXT, b"x", first=0) + frame(TEXT, b"y"), 1002),
    "a close of one byte": (lambda _: frame(CLOSE, b"x"), 1002),
    "a close with a reserved code": (
        lambda rng: close(rng.choice([0, 999, 1005, 1006, 1015, 5000])),
        1002,
    ),
    "a close whose reason is not UTF-8": (lambda _: close(1000, b"\xff"), 1007),
    "a valid close": (lambda _: close(1000, b"done"), 1000),
    "a close with an application's code": (lambda _: close(4999), 4999),
}
# Messages that are rejected while the connection stays open (WS-5).
REJECTED: dict[str, Callable[[random.Random], bytes]] = {
    "binary": lambda rng: frame(BINARY, rng.randbytes(20)),
    "an empty binary": lambda _: frame(BINARY),
    "an empty text": lambda _: frame(TEXT),
    "not JSON": lambda _: frame(TEXT, b"hello"),
    "not an object": lambda rng: frame(TEXT, rng.choice([b"[]", b"1", b'"x"', b"null"])),
    "hostile JSON": lambda rng: frame(
        TEXT, rng.choice([b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":"\\ud800"}', b'{"a":1e999}', b"[" * 50_000, b"\0"])
    ),
    "an unknown action": lambda rng: frame(TEXT, json.dumps({"action": rng.choice(["", "x", None, 1, []])}).encode()),
    "an unknown member": lambda _: frame(TEXT, b'{"action":"abort","x":1}'),
    "a missing member": lambda _: frame(TEXT, b'{"action":"prompt"}'),
    "a long actionId": lambda _: frame(TEXT, json.dumps({"action": "abort", "actionId": "x" * 65}).encode()),
    "a hundred thousand members": lambda _: _MANY_MEMBERS,
}
HANDSHAKE = (
    b"Host: a",
    b"X-API-Key: %b" % KEY.encode(),
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


def _without(name: bytes, *instead: bytes) -> tuple[bytes, ...]:
    return (*(field for field in HANDSHAKE if not field.startswith(name)), *instead)


# Handshakes that are rejected: their header fields, and the status.
REJECTED_HANDSHAKES: dict[str, tuple[tuple[bytes, ...], int]] = {
    "a foreign origin": ((*HANDSHAKE, b"Origin: https://evil.example"), 403),
    "an origin with the allowed one as its prefix": ((*HANDSHAKE, b"Origin: https://app.example.evil"), 403),
    "an origin that is not ASCII": ((*HANDSHAKE, b"Origin: https://app.example\xff"), 403),
    "the origin null": ((*HANDSHAKE, b"Origin: null"), 403),
    "no key": (_without(b"X-API-Key"), 401),
    "a key that is not ASCII": (_without(b"X-API-Key", b"X-API-Key: \xff"), 401),
    "an invalid ticket": (_without(b"X-API-Key", b"Sec-WebSocket-Protocol: cmdc.v1, cmdc.ticket.x"), 401),
    "an old version": (_without(b"Sec-WebSocket-Version", b"Sec-WebSocket-Version: 8"), 400),
    "a version that is not a number": (_without(b"Sec-WebSocket-Version", b"Sec-WebSocket-Version: thirteen"), 400),
    "two versions": ((*HANDSHAKE, b"Sec-WebSocket-Version: 13"), 400),
    "no nonce": (_without(b"Sec-WebSocket-Key"), 400),
    "a short nonce": (_without(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: AAAA"), 400),
    "two nonces": ((*HANDSHAKE, b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400),
    "a body": ((*HANDSHAKE, b"Content-Length: 5"), 400),
    "a body in chunks": ((*HANDSHAKE, b"Transfer-Encoding: chunked"), 400),
    "two hosts": ((*HANDSHAKE, b"Host: b"), 400),
    "an invalid subprotocol": ((*HANDSHAKE, b"Sec-WebSocket-Protocol: a b\x7f,,;"), 400),
    "101 fields": ((*HANDSHAKE, *[b"X: y"] * 95), 431),
}


async def test_hostile_websockets_are_closed_with_their_code_and_do_not_affect_others(
    experiment: Experiment, tmp_path: Path
) -> None:
    """WS-1, WS-5, WS-6, WS-7."""
    rounds, rng = experiment.trials(short=2, long=40), experiment.random
    outcomes: Counter[str] = Counter()
    async with GatewayProcess(tmp_path, GATEWAY_CORS_ORIGINS=ORIGIN) as gateway, gateway.client() as client:
        victim, quiet = await Conversation.begin(client), await Conversation.begin(client)
        attacker = HostileClient(gateway.port, victim, rng)
        async with WellBehavedClient(gateway.port, quiet.id, ORIGIN) as well_behaved:
            await attacker.attack(Counter())  # to warm up
            before = ResourceUsage.of(gateway.pid).memory
            for _ in range(rounds):
                await attacker.attack(outcomes)
            if experiment.long:
                await asyncio.gather(*(attacker.no_pong() for _ in range(20)))
                outcomes["closed without a pong"] += 20
        grown = ResourceUsage.of(gateway.pid).memory - before
        log = gateway.log()
    experiment.record("attacks", outcomes.total())
    experiment.record("outcomes", ", ".join(f"{what} {count:,}×" for what, count in sorted(outcomes.items())))
    experiment.record("actions of a well-behaved client, p99", ms(p99(well_behaved.latencies)))
    experiment.record("its complete runs", well_behaved.runs)
    experiment.record("memory", mib(grown))
    assert well_behaved.runs > 0
    assert p99(well_behaved.latencies) <= (1 if experiment.long else 2)
    assert grown <= 20 * MIB
    assert "Traceback" not in log
    lines = [line for line in log.splitlines()[1:] if '"level": "info"' not in line]  # its runs are logged
    assert lines == [], "hostile clients do not fill the log"


class HostileClient:
    """Attacks on one session's WebSocket."""

    def __init__(self, port: int, talk: Conversation, rng: random.Random) -> None:
        self._port = port
        self._path = f"{talk.path}/ws".encode()
        self._rng = rng

    async def attack(self, outcomes: Counter[str]) -> None:
        doing: list[tuple[str, Awaitable[Any]]] = []
        doing += [("handshake rejected", self._handshake_rejected(*one)) for one in REJECTED_HANDSHAKES.items()]
        doing += [("closed", self._closed(name, make(self._rng), code)) for name, (make, code) in CLOSED.items()]
        doing += [("rejected", self._rejected(name, make(self._rng))) for name, make in REJECTED.items()]
        doing += [
            ("flood limited", self._flood()),
            ("pings answered", self._pings()),
        ]
        doing += [("deflate not negotiated", self._deflate()), ("broken off", self._break_off())]
        await asyncio.gather(*(what for _, what in doing))
        outcomes.update(name for name, _ in doing)

    async def _handshake_rejected(self, name: str, refusal: tuple[tuple[bytes, ...], int]) -> None:
        fields, status = refusal
        async with connect(self._port, self._handshake(fields)) as connection:
            answer = await connection.read_response()
            assert isinstance(answer, RawResponse), (name, answer)
            assert answer.status == status, (name, answer)
            assert set(answer.json) == {"error", "message"}, (name, answer)
            assert await connection.read_end() == "closed", name

    async def _closed(self, name: str, frames: bytes, code: int) -> None:
        async with connect(self._port, self._handshake()) as connection:
            await _receive_upgrade(connection)
            await connection.send(frames)
            opcode, content = await _receive_frame(connection)
            assert (opcode, content[:2]) == (CLOSE, struct.pack("!H", code)), (name, opcode, content)
            await connection.send(close(code))
            assert await connection.read_end() in ("closed", "reset"), name

    async def _rejected(self, name: str, message: bytes) -> None:
        async with connect(self._port, self._handshake()) as connection:
            await _receive_upgrade(connection)
            await connection.send(message)
            await _receive_error(connection, name)
            await connection.send(frame(TEXT, b'{"action":"abort","actionId":"still here"}'))
            acknowledged = json.loads((await _receive_frame(connection))[1])
            assert acknowledged["actionId"] == "still here", name

    async def _flood(self) -> None:
        """WS-7: every message is acknowledged, all but about twenty with `rate_limited`."""
        async with connect(self._port, self._handshake()) as connection:
            await _receive_upgrade(connection)
            await connection.send(frame(TEXT, b'{"action":"abort"}') * 500)
            answers = [json.loads((await _receive_frame(connection))[1]) for _ in range(500)]
        limited = sum(answer.get("error") == "rate_limited" for answer in answers)
        assert limited >= 400, limited
        assert answers[0] == {"ok": False}

    async def _pings(self) -> None:
        async with connect(self._port, self._handshake()) as connection:
            await _receive_upgrade(connection)
            await connection.send(frame(PING, b"x") * 500 + frame(PONG, b"unasked") * 500 + frame(PING, b"last"))
            assert [await _receive_frame(connection) for _ in range(501)] == [(PONG, b"x")] * 500 + [(PONG, b"last")]

    async def _deflate(self) -> None:
        extensions = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"
        async with connect(self._port, self._handshake((*HANDSHAKE, extensions))) as connection:
            assert b"sec-websocket-extensions" not in (await _receive_upgrade(connection)).lower()

    async def _break_off(self) -> None:
        """Drop the connection in the middle of a message."""
        async with connect(self._port, self._handshake()) as connection:
            await _receive_upgrade(connection)
            await connection.send(frame(TEXT, b"x" * 100_000, length=900_000))

    async def no_pong(self) -> None:
        """WS-6: the first ping is sent after 20 s; without a pong within 20 s the connection is closed."""
        begun = time.monotonic()
        async with connect(self._port, self._handshake()) as connection:
            await _receive_upgrade(connection)
            async with asyncio.timeout(3 * PING_SECONDS):
                assert (await _receive_frame(connection))[0] == PING
                opcode, content = await _receive_frame(connection)
            assert (opcode, content[:2]) == (CLOSE, struct.pack("!H", 1011))
        assert time.monotonic() - begun >= 2 * PING_SECONDS - 1

    def _handshake(self, fields: tuple[bytes, ...] = HANDSHAKE) -> bytes:
        return b"\r\n".join([b"GET %b HTTP/1.1" % self._path, *fields, b"", b""])


async def _receive_upgrade(connection: RawConnection) -> bytes:
    head = await connection.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return head


async def _receive_frame(connection: RawConnection) -> tuple[int, bytes]:
    """Read the server's next frame that is not an event; return its opcode and content."""
    while True:
        first, length = await connection.reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await connection.reader.readexactly(2))
        elif length == 127:
            length = int.from_bytes(await connection.reader.readexactly(8))
        content = await connection.reader.readexactly(length)
        if not content.startswith(b'{"event"'):
            return first & 15, content


async def _receive_error(connection: RawConnection, name: str) -> None:
    opcode, content = await _receive_frame(connection)
    assert opcode == TEXT, (name, opcode, content)
    answer = json.loads(content)
    assert {"error", "message"} <= set(answer), (name, answer)
    assert answer["error"] == "bad_request", (name, answer)
