"""SSE-6, SSE-9, DUR-1: connections that break anywhere and readers that connect at any time together receive the log."""

import asyncio
import gc
import random
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from cmdc_testkit.conversations import call, script
from cmdc_testkit.events import EventParser, ReceivedEvent, text_of
from cmdc_testkit.gateways import KEY, OTHER_KEY, InProcessGateway
from cmdc_testkit.streams import event_stream, events_request, open_websocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REPLY = {
    "thinking": ["Hm. "],
    "text": ["Grüße\u2028", "👩‍👧 ", "\r\n", *(f"{number} " for number in range(30))],
    "delayMs": 1,
}
LONG = script(REPLY)
LONG_AND_ASKS = script({**REPLY, "toolCalls": [call("ask_user", question="Go on?")]})


@dataclass
class Resumer:
    """A reader whose connections are cut, and that resumes with the last id of a complete frame."""

    port: int
    session: str
    cursor: str
    seen: list[ReceivedEvent] = field(default_factory=list[ReceivedEvent])

    async def connect(self, most: int) -> bool:
        """Read at most `most` bytes of the response, then cut the connection; return whether the run has ended."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(events_request(self.session, headers={"Last-Event-ID": self.cursor}))
            raw = b""
            while len(raw) < most and (piece := await reader.read(most - len(raw))):
                raw += piece
                self._take(raw)
                if self.over:
                    return True
        finally:
            writer.transport.abort()
        return False

    @property
    def over(self) -> bool:
        return bool(self.seen) and self.seen[-1].is_terminal

    def _take(self, raw: bytes) -> None:
        _, found, body = raw.partition(b"\r\n\r\n")
        new = EventParser().feed(_unchunked(body)) if found else []
        known = {event.id for event in self.seen}
        first = next((index for index, event in enumerate(new) if event.id not in known), len(new))
        self.seen += new[first:]
        self.cursor = self.seen[-1].id if self.seen else self.cursor


def _unchunked(body: bytes) -> bytes:
    """As much of the content as has arrived."""
    content = b""
    while body:
        size, found, body = body.partition(b"\r\n")
        if not found:
            break
        content += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return content


@given(cuts=st.lists(st.integers(0, 4_000), max_size=12), during=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_connections_cut_at_any_byte_together_deliver_the_log(
    served: InProcessGateway,
    client: httpx.AsyncClient,
    cuts: list[int],
    during: bool,
) -> None:
    """SSE-6: no gap, no repeat, in order; during the run, and after it."""
    created = await client.post("/v1/sessions", json={"model": "scripted:x"})
    session = created.json()["sessionId"]
    accepted = (await client.post(f"/v1/sessions/{session}/prompt", json={"text": LONG})).json()
    async with asyncio.timeout(30):
        if not during:
            async with event_stream(served.port, session) as stream:
                await stream.rest()
        resumer = Resumer(served.port, session, accepted["cursor"])
        for cut in cuts:
            if await resumer.connect(cut):
                break
        while not resumer.over:
            await resumer.connect(1_000_000)

    page = (await client.get(f"/v1/sessions/{session}/events", headers={"Accept": "application/json"})).json()
    assert [(event.id, event.name, event.data) for event in resumer.seen] == [
        (entry["id"], entry["event"], entry["data"]) for entry in page["events"]
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_missed_when_a_prompt_races_with_its_reader(
    served: InProcessGateway, client: httpx.AsyncClient, seed: int
) -> None:
    """SSE-5, SSE-6: a hundred times each, in sessions with earlier runs."""
    chance = random.Random(seed)
    created = await client.post("/v1/sessions", json={"model": "scripted:x"})
    session = created.json()["sessionId"]

    async def prompt(number: int) -> str:
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        answer = await client.post(f"/v1/sessions/{session}/prompt", json={"text": f"number {number}"})
        return answer.json()["requestId"]

    async def read() -> list[ReceivedEvent]:
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        async with event_stream(served.port, session) as stream:
            return await stream.rest()

    last = 0
    for number in range(100):
        async with asyncio.timeout(10):
            request_id, run = await asyncio.gather(prompt(number), read())
        assert [event.seq for event in run] == list(range(last + 1, last + 1 + len(run)))
        assert {event.request_id for event in run} == {request_id}
        assert text_of(run) == f"You said: number {number}"
        last = run[-1].seq


async def test_readers_that_connect_during_a_run_get_every_event_after_their_cursor(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-6: registered before the log is read. Forty readers, half over SSE and half over WebSockets."""
    await client.post(f"/v1/sessions/{session}/prompt", json={"text": LONG_AND_ASKS})
    all_there = asyncio.Barrier(41)

    async def read(number: int) -> list[int]:
        await asyncio.sleep(number / 1_000)  # spread over the run; where each of them meets it is all one
        cursor = (await client.get(f"/v1/sessions/{session}")).json()["cursor"]
        at = int(cursor.partition(".")[2])
        if number % 2:
            async with event_stream(served.port, session, f"?after={cursor}") as stream:
                await all_there.wait()
                return [at, *(event.seq for event in await stream.rest())]
        async with open_websocket(served.port, session, f"?after={cursor}") as talk:
            await all_there.wait()
            return [at, *(event.seq for event in await talk.until("agent_end"))]

    async with asyncio.timeout(20), event_stream(served.port, session) as stream:
        readers = asyncio.gather(*(read(number) for number in range(40)))
        asked = (await stream.until("ask_user"))[-1]
        await all_there.wait()
        await client.post(f"/v1/sessions/{session}/respond", json={"ref": asked.data["ref"], "response": "yes"})
        end = (await stream.rest())[-1].seq
        seen = await readers

    for seqs in seen:
        assert seqs == list(range(seqs[0], end + 1))


async def test_a_session_of_another_tenant_cannot_be_followed(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """HTTP-8: whatever cursor is sent, it does not exist."""
    async with event_stream(served.port, session, "?after=start", key=OTHER_KEY) as stream:
        hidden = (stream.status, await stream.body())
    async with event_stream(served.port, "never-was", "?after=start", key=OTHER_KEY) as stream:
        absent = (stream.status, await stream.body())

    assert hidden[0] == absent[0] == 404
    assert hidden[1]["message"].replace(session, "never-was") == absent[1]["message"]


async def test_a_websocket_that_breaks_in_both_directions_logs_no_traceback(served: InProcessGateway) -> None:
    """WS-6: asyncio logs no unretrieved exception."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context["message"])))
    async with served.client() as client:
        created = await client.post("/v1/sessions", json={"model": "scripted:x"})
        path = f"/v1/sessions/{created.json()['sessionId']}"
        await client.post(f"{path}/prompt", json={"text": "hello"})
    broken = asyncio.Event()
    told = iter([{"type": "websocket.connect"}])

    async def receive() -> dict[str, Any]:
        for message in told:
            return message
        await broken.wait()
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            broken.set()
            raise OSError("broken")

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "path": f"{path}/ws",
        "raw_path": f"{path}/ws".encode(),
        "root_path": "",
        "query_string": b"after=start",
        "headers": [(b"host", b"gateway"), (b"x-api-key", KEY.encode())],
        "subprotocols": [],
        "state": {},
    }
    await served.app(scope, receive, send)
    gc.collect()

    assert complaints == []
