"""SSE-1 … SSE-4 and SSE-9: the format of a stream, and when it ends."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_testkit.conversations import script
from cmdc_testkit.events import HEARTBEAT, EventParser, ProtocolViolation, text_of
from cmdc_testkit.gateways import OTHER_KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.streams import EventStream, event_stream, wait_until

FRAME = b'id: a.1\nevent: agent_start\ndata: {"requestId":"r"}\n\n'
WAITS = script({"toolCalls": [{"name": "ask_user", "args": {"question": "Go on?"}}]}, {"text": ["Going on."]})


# The parser all of these tests rely on


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\xef\xbb\xbf" + FRAME,
        FRAME.replace(b"\n", b"\r\n"),
        FRAME.replace(b": ", b":"),
        FRAME.replace(b"id: a.1\n", b""),
        FRAME.replace(b"a.1", b"a.01"),
        FRAME.replace(b"agent_start", b"agent_started"),
        FRAME.replace(b"id: a.1\nevent: agent_start\n", b"event: agent_start\nid: a.1\n"),
        FRAME.replace(b"data: {", b"data: {\ndata: "),
        FRAME.replace(b'{"requestId":"r"}', b'{"requestId":"r","more":1}'),
        FRAME.replace(b'{"requestId":"r"}', b"{}"),
        FRAME.replace(b"event: ", b"retry: 1\nevent: "),
        FRAME.replace(b"data", b": heartbeat\ndata"),
        b": heartbeat\n\n",
        b"\n",
    ],
)
def test_the_strict_parser_rejects_malformed_streams(bytes_: bytes) -> None:
    """SSE-2, SSE-3."""
    with pytest.raises(ProtocolViolation):
        EventParser().feed(bytes_)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_strict_parser_accepts_chunks_of_any_size(size: int) -> None:
    """SSE-2."""
    stream, parser = b": heartbeat\n" + FRAME + FRAME.replace(b"a.1", b"a.2"), EventParser()

    events = [event for at in range(0, len(stream), size) for event in parser.feed(stream[at : at + size])]

    assert [event.id for event in events] == ["a.1", "a.2"]
    assert parser.heartbeats == 1
    assert parser.between_frames


# The answer's head


async def test_the_head_of_a_stream_is_sent_immediately(served: InProcessGateway, session: str) -> None:
    """SSE-1: nothing has happened in this session."""
    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["x-accel-buffering"] == "no"


async def test_a_stream_carries_the_cors_headers(served: InProcessGateway, session: str) -> None:
    """HTTP-10."""
    async with event_stream(served.port, session, headers={"Origin": "https://example.com"}) as stream:
        assert stream.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?after=nonsense", 400, "invalid_cursor"),
        ("?after=otherlog.1", 410, "cursor_expired"),
        ("?requestId=never", 404, "not_found"),
        ("?types=message_delta,nonsense", 400, "bad_request"),
        ("?types=", 400, "bad_request"),
        ("?follow=yes", 400, "bad_request"),
        ("?nonsense=1", 400, "bad_request"),
        ("?after=start&after=latest", 400, "bad_request"),
    ],
)
async def test_an_error_instead_of_a_stream_is_json(
    served: InProcessGateway, session: str, query: str, status: int, code: str
) -> None:
    """SSE-1, HTTP-3: never a stream that contains the error."""
    async with event_stream(served.port, session, query) as stream:
        body = await stream.body()

    assert (stream.status, body["error"]) == (status, code)
    assert stream.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [(None, 401, "unauthorized"), ("wrong", 401, "unauthorized"), (OTHER_KEY, 404, "not_found")],
)
async def test_an_unauthorized_reader_gets_json(
    served: InProcessGateway, session: str, key: str | None, status: int, code: str
) -> None:
    """SSE-1, HTTP-7, HTTP-8."""
    async with event_stream(served.port, session, key=key) as stream:
        assert (stream.status, (await stream.body())["error"]) == (status, code)
        assert stream.headers["content-type"] == "application/json"


async def test_the_stream_of_an_unknown_session_is_404(served: InProcessGateway) -> None:
    """SSE-1: the message names the id."""
    async with event_stream(served.port, "nobody") as stream:
        assert stream.status == 404
        assert "nobody" in (await stream.body())["message"]


# Heartbeats


async def test_a_heartbeat_starts_the_stream(served: InProcessGateway, session: str) -> None:
    """SSE-3: it ends with a single newline, so that no parser takes it for a frame."""
    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        assert await stream.chunk() == f"{HEARTBEAT}\n".encode()


async def test_heartbeats_are_sent_while_nothing_happens(tmp_path: Path) -> None:
    """SSE-3."""
    async with in_process_gateway(tmp_path, heartbeat_ms=40) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        async with asyncio.timeout(5), event_stream(served.port, "s") as stream:
            assert {await stream.chunk() for _ in range(5)} == {f"{HEARTBEAT}\n".encode()}


async def test_heartbeats_are_sent_while_events_are_filtered_out(tmp_path: Path) -> None:
    """SSE-3, SSE-8: so that no proxy closes the stream of a rare event."""
    async with in_process_gateway(tmp_path, heartbeat_ms=40) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        async with asyncio.timeout(5), event_stream(served.port, "s", "?types=agent_end") as stream:
            await client.post("/v1/sessions/s/prompt", json={"text": script({"text": ["x"] * 200, "delayMs": 2})})
            for _ in range(4):
                await stream.heartbeat()
            assert names(await stream.rest()) == ["agent_end"]


async def test_heartbeats_between_events_have_no_effect(tmp_path: Path) -> None:
    """SSE-3: the strict parser returns the same run as without them."""
    async with in_process_gateway(tmp_path, heartbeat_ms=10) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        await client.post("/v1/sessions/s/prompt", json={"text": script({"text": ["a", "b", "c"], "delayMs": 50})})
        async with asyncio.timeout(5), event_stream(served.port, "s") as stream:
            events = await stream.rest()

    assert text_of(events) == "abc"
    assert stream.parser.heartbeats > 3


async def test_the_stream_of_a_queued_request_has_heartbeats_too(tmp_path: Path) -> None:
    """SSE-3, SSE-8."""
    async with in_process_gateway(tmp_path, heartbeat_ms=40) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s", "tools": ["ask_user"]})
        await client.post("/v1/sessions/s/prompt", json={"text": WAITS})
        queued = (await client.post("/v1/sessions/s/prompt", json={"text": "next"})).json()
        async with asyncio.timeout(5), event_stream(served.port, "s", f"?requestId={queued['requestId']}") as stream:
            for _ in range(3):
                await stream.heartbeat()


# The end


async def test_a_stream_ends_after_the_terminal_event(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-4: and the connection can be used again."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": "hello"})

    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        events = await stream.rest()
        stream.writer.write(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert (await stream.reader.readline()).startswith(b"HTTP/1.1 200")

    assert [event.is_terminal for event in events] == [False] * (len(events) - 1) + [True]


@pytest.mark.parametrize("reason", ["aborted", "enough of it"])
async def test_a_stream_ends_after_an_abort(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, reason: str
) -> None:
    """SSE-4: a question is left open, and is closed first (EVT-9)."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": WAITS})

    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        await stream.until("ask_user")
        body = {} if reason == "aborted" else {"reason": reason}
        assert (await client.post(f"/v1/sessions/{session}/abort", json=body)).status_code == 202
        end = await stream.rest()

    assert names(end) == ["tool_execution_end", "agent_abort"]
    assert end[-1].data["reason"] == reason


async def test_a_stream_ends_when_its_session_is_deleted(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """EP-delete: with `agent_abort`, reason `session_deleted`, if a run is active."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": WAITS})

    async with asyncio.timeout(5), event_stream(served.port, session, "?follow=true") as stream:
        await stream.until("ask_user")
        await client.delete(f"/v1/sessions/{session}")
        end = await stream.rest()

    assert end[-1].data["reason"] == "session_deleted"


async def test_an_idle_stream_ends_silently_when_its_session_is_deleted(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """EP-delete."""
    async with asyncio.timeout(5), event_stream(served.port, session, "?follow=true") as stream:
        await client.delete(f"/v1/sessions/{session}")
        assert await stream.rest() == []


async def test_a_following_stream_stays_open_across_runs(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-4."""
    async with asyncio.timeout(5), event_stream(served.port, session, "?follow=true") as stream:
        for text in ("one", "two", "three"):
            await client.post(f"/v1/sessions/{session}/prompt", json={"text": text})
            assert text_of(await stream.until("agent_end")) == f"You said: {text}"


async def test_follow_false_is_the_default(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """SSE-4."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": "one"})
    async with asyncio.timeout(5), event_stream(served.port, session, "?follow=false") as stream:
        assert (await stream.rest())[-1].name == "agent_end"


# Text


@pytest.mark.parametrize(
    "pieces",
    [
        ["a\r\nb", "\r", "\n", "\n\n"],
        ["\u2028", "\u2029", "\u0085", "\x0b\x0c\x1c"],
        ["data: x\n\n", "id: 7\n", ": heartbeat\n"],
        ["👩‍", "👧", "e", "\u0301", "\ufeff"],
        ['"', "\\", "\\u2028", "{}", "\x7f"],
    ],
)
async def test_text_arrives_unchanged(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, pieces: list[str]
) -> None:
    """EVT-6, SSE-2: on one line, by every definition of a line."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": script({"text": pieces})})

    raw = b""
    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        while piece := await stream.chunk():
            raw += piece
    events = EventParser().feed(raw)

    assert [event.data["delta"] for event in events if event.name == "message_delta"] == pieces
    assert events[-1].data["lastMessage"]["content"] == "".join(pieces)
    assert [line.encode() for line in raw.decode().splitlines()] == raw.split(b"\n")[:-1]


# Readers


async def test_every_reader_gets_every_event(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """SSE-9: fifty readers, some connected before the prompt and some during the run."""

    async def read(stream: EventStream) -> list[str]:
        return [json.dumps([event.id, event.name, event.data]) for event in await stream.rest()]

    async def early(ready: asyncio.Barrier) -> list[str]:
        async with event_stream(served.port, session) as stream:
            await ready.wait()
            return await read(stream)

    async def late() -> list[str]:
        async with event_stream(served.port, session) as stream:
            return await read(stream)

    async with asyncio.timeout(20):
        ready = asyncio.Barrier(26)
        readers = [asyncio.create_task(early(ready)) for _ in range(25)]
        await ready.wait()
        text = script({"text": [f"{number} " for number in range(200)], "delayMs": 1})
        await client.post(f"/v1/sessions/{session}/prompt", json={"text": text})
        readers += [asyncio.create_task(late()) for _ in range(25)]
        seen = await asyncio.gather(*readers)

    assert seen == [seen[0]] * 50
    assert len(seen[0]) == 204


async def test_a_run_continues_when_its_reader_disconnects(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-9: and the next reader without a cursor gets all of it."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": script({"text": ["x"] * 50, "delayMs": 4})})
    async with asyncio.timeout(10):
        async with event_stream(served.port, session) as stream:
            await stream.until("message_delta")
            stream.abort()

        async with event_stream(served.port, session) as stream:
            assert text_of(await stream.rest()) == "x" * 50


async def test_a_run_needs_no_reader(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """SSE-9."""
    accepted = (await client.post(f"/v1/sessions/{session}/prompt", json={"text": "hello"})).json()
    async with asyncio.timeout(5):
        while (await client.get(f"/v1/sessions/{session}")).json()["state"] != "idle":
            pass
        async with event_stream(served.port, session, f"?requestId={accepted['requestId']}") as stream:
            assert text_of(await stream.rest()) == "You said: hello"


async def test_disconnected_readers_leave_nothing_behind(served: InProcessGateway, session: str) -> None:
    """SSE-9, SSE-10."""
    async with asyncio.timeout(10):
        for _ in range(20):
            async with event_stream(served.port, session) as stream:
                await stream.heartbeat()
    await wait_until(lambda: served.gateway.heartbeats.streams == len(served.gateway.connections) == 0)
