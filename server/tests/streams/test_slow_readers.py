"""SSE-10 and WS-6: a client that does not read costs little, delays no other, and is disconnected."""

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_gateway.web.streaming.heartbeats import WatchedStream
from cmdc_testkit.conversations import call, script
from cmdc_testkit.events import EventParser, text_of
from cmdc_testkit.gateways import KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.streams import event_stream, events_request, open_websocket, wait_until

MIB = 1024 * 1024
STALLED_AFTER = 0.4
LAST_CHUNK = b"\r\n0\r\n\r\n"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A gateway that disconnects stalled readers after a short time."""
    async with in_process_gateway(tmp_path, heartbeat_ms=100) as served:
        served.gateway.heartbeats.stalled_after = STALLED_AFTER
        yield served


@pytest.fixture
async def session(served: InProcessGateway, client: httpx.AsyncClient, tmp_path: Path) -> str:
    """A session whose only run, unread, has 8 MB of events: more than the system's buffers hold."""
    (tmp_path / "workspace" / "long.txt").write_text("x" * 60_000)
    await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "long", "tools": ["read_file"]})
    reads = script({"toolCalls": [call("read_file", path="long.txt")] * 120}, {"text": ["That", " was", " long."]})
    accepted = await client.post("/v1/sessions/long/prompt", json={"text": f"{reads}\n{'y' * 900_000}"})
    assert accepted.status_code == 202, accepted.text
    async with asyncio.timeout(20), open_websocket(served.port, "long", "?after=start") as talk:
        await talk.until("agent_end")
    return "long"


Stall = Callable[[bytes], Awaitable["Stalled"]]


@pytest.fixture
async def stall(served: InProcessGateway) -> AsyncIterator[Stall]:
    """Creates clients that send a request and do not read the response."""
    made: list[Stalled] = []

    async def stall(request: bytes) -> Stalled:
        made.append(await Stalled.ask(served, request))
        return made[-1]

    yield stall
    for client in made:
        client.leave()


class Stalled:
    """A client that asks for a stream and does not read it."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    @classmethod
    async def ask(cls, served: InProcessGateway, request: bytes) -> "Stalled":
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connected, ("127.0.0.1", served.port))
        await loop.sock_sendall(connected, request)
        return cls(connected)

    async def read_on(self) -> bytes:
        """Read until the server closes the connection; return the bytes."""
        got = b""
        try:
            while piece := await self.read(65536):
                got += piece
        except ConnectionResetError:
            pass
        return got

    async def read(self, size: int) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, size)

    async def read_until(self, end: bytes) -> bytes:
        """Read until these bytes arrive last, or the connection is closed."""
        got = b""
        while not got.endswith(end) and (piece := await self.read(65536)):
            got += piece
        return got

    def leave(self) -> None:
        self._socket.close()


def socket_request(session: str, query: str) -> bytes:
    lines = [
        f"GET /v1/sessions/{session}/ws{query} HTTP/1.1",
        "Host: gateway",
        f"X-API-Key: {KEY}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def close_frame(code: int) -> bytes:
    """A WebSocket's last frame, as a server sends it."""
    return b"\x88\x02" + code.to_bytes(2, "big")


def beats(served: InProcessGateway) -> list[WatchedStream]:
    return list(served.gateway.heartbeats._watched)  # pyright: ignore[reportPrivateUsage]


def stalled(served: InProcessGateway) -> int:
    """The number of streams that wait for their client."""
    return sum(beat.writing_since is not None for beat in beats(served))


async def test_a_stalled_stream_is_closed_and_can_resume_from_its_cursor(
    served: InProcessGateway, session: str, stall: Stall
) -> None:
    """SSE-10."""
    reader = await stall(events_request(session))
    await wait_until(lambda: beats(served))
    await wait_until(lambda: not beats(served))
    seen = EventParser().feed(_content(await reader.read_on()))

    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert not any(event.is_terminal for event in seen)
    after = seen[-1].id if seen else "start"
    async with asyncio.timeout(20), event_stream(served.port, session, f"?after={after}") as stream:
        rest = await stream.rest()
    assert [event.seq for event in rest] == list(range(len(seen) + 1, len(seen) + 1 + len(rest)))
    assert text_of(rest) == "That was long."


async def test_a_run_whose_end_a_stalled_reader_never_read_counts_as_unread(
    served: InProcessGateway, session: str, stall: Stall
) -> None:
    """SSE-5, SSE-10: a client without cursors also gets all of it when it reconnects."""
    await stall(events_request(session))
    await wait_until(lambda: beats(served))
    await wait_until(lambda: not beats(served))

    async with asyncio.timeout(10), event_stream(served.port, session) as stream:
        assert names(await stream.rest())[0] == "prompt_received"


async def test_a_terminal_event_that_a_stalled_reader_read_half_of_counts_as_unread(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, stall: Stall
) -> None:
    """SSE-5, SSE-10: the connection is closed while the event is being written."""
    accepted = await client.post(f"/v1/sessions/{session}/prompt", json={"text": script({"text": ["x" * 900_000]})})
    reader = await stall(events_request(session, f"?after={accepted.json()['cursor']}"))
    async with asyncio.timeout(10):
        got = b""
        while b"event: agent_end" not in got:
            got += await reader.read(65536)
    await wait_until(lambda: not beats(served))

    async with asyncio.timeout(10), event_stream(served.port, session) as stream:
        events = await stream.rest()
    assert [events[0].name, events[-1].name] == ["prompt_received", "agent_end"]
    assert len(text_of(events)) == 900_000


async def test_a_stalled_websocket_is_closed_with_4008(served: InProcessGateway, session: str, stall: Stall) -> None:
    """SSE-10, WS-6: a client that reads again soon gets the close code."""
    reader = await stall(socket_request(session, "?after=start"))
    await wait_until(lambda: beats(served))
    [beat] = beats(served)
    abort, dropped = beat.abort, asyncio.Event()

    def tell() -> None:
        dropped.set()
        abort()

    beat.abort = tell
    async with asyncio.timeout(10):
        await dropped.wait()
        got = await reader.read_on()

    assert got.endswith(close_frame(4008))
    await wait_until(lambda: not beats(served))


async def test_a_websocket_that_never_reads_again_is_reset(
    served: InProcessGateway, session: str, stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSE-10."""
    monkeypatch.setattr("cmdc_gateway.web.streaming.websocket._SLOW_SECONDS", 0.2)

    await stall(socket_request(session, "?after=start"))

    await wait_until(lambda: beats(served))
    await wait_until(lambda: not beats(served))


@pytest.mark.parametrize("kind", ["stream", "websocket"])
async def test_a_slow_reader_is_not_disconnected(
    served: InProcessGateway, session: str, stall: Stall, kind: str
) -> None:
    """SSE-10: only a lack of progress disconnects it."""
    request = events_request(session) if kind == "stream" else socket_request(session, "?after=start")
    reader = await stall(request)
    await wait_until(lambda: stalled(served))
    loop = asyncio.get_running_loop()
    begun = loop.time()

    while loop.time() < begun + 4 * STALLED_AFTER:  # the subject is that this much time passes and it stays open
        assert await reader.read(8_192)
        await asyncio.sleep(0.01)

    assert len(beats(served)) == 1


async def test_a_stalled_reader_costs_at_most_1_mib(served: InProcessGateway, session: str, stall: Stall) -> None:
    """SSE-10: over SSE and WebSockets, each far behind in a log that is not in memory."""
    served.gateway.heartbeats.stalled_after = 60
    requests = [events_request(session), socket_request(session, "?after=start")] * 10
    for request in requests[:2]:  # what the log keeps for everybody, once somebody asks, is not a reader's cost
        await stall(request)
    await wait_until(lambda: stalled(served) == 2)

    gc.collect()
    tracemalloc.start()
    try:
        for request in requests:
            await stall(request)
        await wait_until(lambda: stalled(served) == 22)
        gc.collect()
        cost = tracemalloc.get_traced_memory()[0] / len(requests)
    finally:
        tracemalloc.stop()

    assert cost <= MIB
    assert max(beat.buffered_bytes() for beat in beats(served)) <= MIB


async def test_a_stalled_reader_delays_no_other_reader(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, stall: Stall
) -> None:
    """SSE-10: nor the run, nor other sessions."""
    served.gateway.heartbeats.stalled_after = 60
    await stall(events_request(session))
    await stall(socket_request(session, "?after=start"))
    await wait_until(lambda: stalled(served) == 2)

    async with (
        asyncio.timeout(10),
        event_stream(served.port, session, "?after=latest") as stream,
        open_websocket(served.port, session) as talk,
    ):
        await client.post(f"/v1/sessions/{session}/prompt", json={"text": "hello"})
        assert text_of(await stream.rest()) == "You said: hello"
        assert text_of(await talk.until("agent_end")) == "You said: hello"

        other = (await client.post("/v1/sessions", json={"model": "scripted:x"})).json()["sessionId"]
        await client.post(f"/v1/sessions/{other}/prompt", json={"text": "you too"})
        async with event_stream(served.port, other) as elsewhere:
            assert text_of(await elsewhere.rest()) == "You said: you too"

    assert stalled(served) == 2


async def test_streams_far_behind_end_when_their_session_is_deleted(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, stall: Stall
) -> None:
    """EP-delete: unread events are deleted with the log."""
    served.gateway.heartbeats.stalled_after = 60
    stream = await stall(events_request(session))
    talk = await stall(socket_request(session, "?after=start"))
    await wait_until(lambda: stalled(served) == 2)

    assert (await client.delete(f"/v1/sessions/{session}")).status_code == 200

    async with asyncio.timeout(10):
        assert (await stream.read_until(LAST_CHUNK)).endswith(LAST_CHUNK)
        assert (await talk.read_until(close_frame(4004))).endswith(close_frame(4004))


async def test_a_stopping_server_does_not_wait_for_stalled_readers(
    served: InProcessGateway, session: str, stall: Stall, caplog: pytest.LogCaptureFixture
) -> None:
    """DUR-3: and logs nothing about each of them."""
    served.gateway.heartbeats.stalled_after = 60
    await stall(events_request(session))
    await stall(socket_request(session, "?after=start"))
    await wait_until(lambda: stalled(served) == 2)

    async with asyncio.timeout(15):
        await served.server.shutdown()

    await wait_until(lambda: not beats(served))
    assert [record.getMessage() for record in caplog.records] == []


def _content(raw: bytes) -> bytes:
    """The stream's content as far as it came."""
    _, _, body = raw.partition(b"\r\n\r\n")
    content = b""
    while body:
        size, found, body = body.partition(b"\r\n")
        if not found or not size:
            break
        content += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return content
