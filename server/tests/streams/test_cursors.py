"""SSE-6 … SSE-8, SSE-11 and EVT-7: reading the log from any cursor, by run, by type, or in pages."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_gateway.store.factory import create_store
from cmdc_testkit.conversations import script
from cmdc_testkit.events import ReceivedEvent, json_object, text_of
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from cmdc_testkit.streams import event_stream, open_websocket
from websockets.exceptions import InvalidStatus

ASKS = script({"toolCalls": [{"name": "ask_user", "args": {"question": "Go on?"}}]}, {"text": ["Going on."]})


async def post(client: httpx.AsyncClient, session: str, text: str) -> dict[str, Any]:
    answer = await client.post(f"/v1/sessions/{session}/prompt", json={"text": text})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def read(served: InProcessGateway, session: str, query: str = "", **headers: str) -> list[ReceivedEvent]:
    async with asyncio.timeout(5), event_stream(served.port, session, query, headers=headers) as stream:
        assert stream.status == 200
        return await stream.rest()


async def refused(
    served: InProcessGateway, session: str, query: str = "", **headers: str
) -> tuple[int, dict[str, Any]]:
    async with asyncio.timeout(5), event_stream(served.port, session, query, headers=headers) as stream:
        return stream.status, await stream.body()


async def page(client: httpx.AsyncClient, session: str, **query: str | int) -> dict[str, Any]:
    answer = await client.get(f"/v1/sessions/{session}/events", params=query, headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def two_runs(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> tuple[list[ReceivedEvent], list[ReceivedEvent]]:
    """Run two prompts; return the events of each."""
    runs: list[list[ReceivedEvent]] = []
    for text in ("one", "two"):
        await post(client, session, text)
        runs.append(await read(served, session))
    return runs[0], runs[1]


# Numbers


async def test_events_are_numbered_from_1_without_a_gap_over_all_runs(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """EVT-7: under one epoch."""
    one, two = await two_runs(served, client, session)

    assert [event.seq for event in (*one, *two)] == list(range(1, len(one) + len(two) + 1))
    assert len({event.epoch for event in (*one, *two)}) == 1


async def test_an_event_delivered_twice_is_byte_identical_also_after_a_restart(tmp_path: Path) -> None:
    """EVT-7: and the epoch stays the same."""
    raw: list[bytes] = []
    for number in range(2):
        store = create_store(f"sqlite:///{tmp_path / 'gateway.db'}")
        async with in_process_gateway(tmp_path, store=store) as served, served.client() as client, asyncio.timeout(10):
            if number == 0:
                await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
                await post(client, "s", script({"text": ["a\u2028", "👧", "\r\n"], "thinking": ["?"]}))
            for _ in range(2):
                got = b""
                async with event_stream(served.port, "s", "?after=start") as stream:
                    while piece := await stream.chunk():
                        got += piece
                raw.append(got)

    assert raw == [raw[0]] * 4


# Where a cursor starts a stream


async def test_a_cursor_starts_the_stream_just_after_its_event(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-6: at every event; and the stream ends with its run (SSE-4)."""
    one, two = await two_runs(served, client, session)

    for index, event in enumerate(one[:-1], start=1):
        assert await read(served, session, f"?after={event.id}") == one[index:]
    for index, event in enumerate((one[-1], *two[:-1])):
        assert await read(served, session, **{"Last-Event-ID": event.id}) == two[index:]


async def test_last_event_id_takes_precedence_over_after(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-6: a browser sends the URL of the first connection with the header of the latest."""
    one, _ = await two_runs(served, client, session)

    assert await read(served, session, "?after=start", **{"Last-Event-ID": one[2].id}) == one[3:]
    assert (await refused(served, session, "?after=start", **{"Last-Event-ID": "x"}))[0] == 400


async def test_after_start_is_the_beginning(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """SSE-6, SSE-7: like the cursor with seq 0."""
    one, _ = await two_runs(served, client, session)

    assert await read(served, session, "?after=start") == one
    assert await read(served, session, f"?after={one[0].epoch}.0") == one


async def test_after_latest_is_the_present(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """SSE-6: also in the middle of a run, and also if it is unread."""
    await post(client, session, "hello")
    async with asyncio.timeout(5), event_stream(served.port, session, "?after=latest&follow=true") as stream:
        await post(client, session, ASKS)
        asked = (await stream.until("ask_user"))[-1]
        async with event_stream(served.port, session, "?after=latest") as late:
            await client.post(f"/v1/sessions/{session}/respond", json={"ref": asked.data["ref"], "response": "yes"})
            assert (await late.rest())[0].name == "tool_execution_end"


async def test_a_cursor_at_the_end_waits_for_the_next_run(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-6."""
    _, two = await two_runs(served, client, session)

    async with asyncio.timeout(5), event_stream(served.port, session, f"?after={two[-1].id}") as stream:
        await post(client, session, "three")
        events = await stream.rest()

    assert events[0].seq == two[-1].seq + 1
    assert text_of(events) == "You said: three"


async def test_the_cursor_of_an_accepted_prompt_misses_nothing(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """EP-prompt: whatever has been read in the meantime."""
    await two_runs(served, client, session)
    accepted = await post(client, session, "three")
    await read(served, session)

    assert text_of(await read(served, session, f"?after={accepted['cursor']}")) == "You said: three"


async def test_the_cursor_of_a_session_is_the_end_of_its_log(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """EP-session."""
    _, two = await two_runs(served, client, session)

    assert (await client.get(f"/v1/sessions/{session}")).json()["cursor"] == two[-1].id


# Cursors that start nothing


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "1", ".1", "START", "EPOCH.1", "e" * 33 + ".1"),
        *("{epoch}", "{epoch}.", "{epoch}.-1", "{epoch}.01", "{epoch}.1.1", "{epoch}.1x", "{epoch}. 1", " {epoch}.1"),
        *("{epoch}.٣", "{epoch}.1e3", "{epoch}.99999999999999999999"),
    ],
)
async def test_a_malformed_cursor_is_rejected(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, cursor: str
) -> None:
    """SSE-7: 400 in the stream, in the page, and before the WebSocket's upgrade."""
    one, _ = await two_runs(served, client, session)
    query = str(httpx.QueryParams(after=cursor.format(epoch=one[0].epoch)))

    status, body = await refused(served, session, f"?{query}")
    assert (status, body["error"]) == (400, "invalid_cursor")
    status, body = await refused(served, session, f"?{query}", Accept="application/json")
    assert (status, body["error"]) == (400, "invalid_cursor")
    with pytest.raises(InvalidStatus) as refusal:
        async with open_websocket(served.port, session, f"?{query}"):
            pass
    assert refusal.value.response.status_code == 400
    assert json_object(refusal.value.response.body)["error"] == "invalid_cursor"


@pytest.mark.parametrize("name", ["after", "Last-Event-ID"])
async def test_a_cursor_in_the_future_is_rejected(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, name: str
) -> None:
    """SSE-7."""
    _, two = await two_runs(served, client, session)
    future = f"{two[0].epoch}.{two[-1].seq + 1}"

    answer = (
        refused(served, session, f"?after={future}") if name == "after" else refused(served, session, **{name: future})
    )
    status, body = await answer

    assert (status, body["error"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_cursor_of_another_sessions_log_is_expired(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, accept: str
) -> None:
    """SSE-7: the error has the first and the last valid cursor."""
    one, two = await two_runs(served, client, session)

    status, body = await refused(served, session, "?after=anotherlog.1", Accept=accept)

    assert (status, body["error"]) == (410, "cursor_expired")
    assert body["earliest"] == f"{one[0].epoch}.0"
    assert body["latest"] == two[-1].id


async def test_a_cursor_of_a_deleted_session_is_expired_in_its_successor(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """SSE-7, EVT-7: the same id is another log, even if the seq exists in it."""
    ids: list[str] = []
    for _ in range(2):
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "again"})
        await post(client, "again", "hello")
        ids.append((await read(served, "again"))[0].id)
        if len(ids) == 1:
            await client.delete("/v1/sessions/again")

    assert ids[0] != ids[1]
    status, body = await refused(served, "again", f"?after={ids[0]}")
    assert (status, body["error"]) == (410, "cursor_expired")


async def test_a_new_session_with_the_id_of_a_deleted_one_has_its_own_log(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """EP-delete: nothing of the first is left, and its reads do not count for SSE-5."""
    for text in ("first", "second"):
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "again"})
        await post(client, "again", text)
        events = await read(served, "again")
        assert (events[0].seq, text_of(events)) == (1, f"You said: {text}")
        await client.delete("/v1/sessions/again")


# A log that is trimmed


async def test_a_trimmed_cursor_is_expired(tmp_path: Path) -> None:
    """SSE-7: `earliest` and `latest` are the bounds of the log, and reading from `earliest` works."""
    async with in_process_gateway(tmp_path, replay_events=10) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        runs: list[list[ReceivedEvent]] = []
        for number in range(4):
            await post(client, "s", f"number {number}")
            runs.append(await read(served, "s"))
        log = [event for run in runs for event in run]
        kept = (await page(client, "s"))["events"]
        first = log.index(next(event for event in log if event.id == kept[0]["id"]))

        assert 0 < first < len(log) - len(runs[-1])
        for expired in (f"{log[0].epoch}.0", log[0].id, log[first - 2].id):
            for status, body in (
                await refused(served, "s", f"?after={expired}"),
                await refused(served, "s", **{"Last-Event-ID": expired}),
                await refused(served, "s", f"?after={expired}", Accept="application/json"),
            ):
                assert (status, body["error"]) == (410, "cursor_expired")
                assert (body["earliest"], body["latest"]) == (log[first - 1].id, log[-1].id)
        for good in ("start", log[first - 1].id):
            async with asyncio.timeout(5), event_stream(served.port, "s", f"?follow=true&after={good}") as stream:
                assert [await stream.next() for _ in kept] == log[first:]


async def test_the_newest_run_is_never_trimmed(tmp_path: Path) -> None:
    """SSE-5, SSE-7: a reader that connects after its prompt gets the whole run, however long it is."""
    async with in_process_gateway(tmp_path, replay_events=1) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        for text in ("x" * 10, "y" * 50):
            await post(client, "s", script({"text": list(text)}))
            assert text_of(await read(served, "s")) == text


async def test_a_trimmed_run_is_expired(tmp_path: Path) -> None:
    """SSE-7, SSE-8: never a part of it."""
    async with in_process_gateway(tmp_path, replay_events=5) as served, served.client() as client:
        await client.post("/v1/sessions", json={"model": "scripted:x", "sessionId": "s"})
        first = await post(client, "s", "one")
        await read(served, "s")
        await post(client, "s", "two")
        await read(served, "s")

        status, body = await refused(served, "s", f"?requestId={first['requestId']}")

    assert (status, body["error"]) == (410, "cursor_expired")


# One run


async def test_a_request_is_read_from_its_first_event_to_its_terminal_one(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8: a finished run, any number of times."""
    one, two = await two_runs(served, client, session)

    for run in (one, two, one):
        assert await read(served, session, f"?requestId={run[0].request_id}") == run


async def test_a_request_that_is_active_is_read_from_its_first_event(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8."""
    accepted = await post(client, session, ASKS)
    async with asyncio.timeout(5), event_stream(served.port, session) as other:
        asked = (await other.until("ask_user"))[-1]

        async with event_stream(served.port, session, f"?requestId={accepted['requestId']}") as stream:
            assert len(await stream.until("ask_user")) == asked.seq
            await client.post(f"/v1/sessions/{session}/respond", json={"ref": asked.data["ref"], "response": "yes"})
            assert (await stream.rest())[-1].name == "agent_end"


async def test_a_request_that_is_queued_is_waited_for(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8: without events of the runs before and after it."""
    await post(client, session, ASKS)
    second = await post(client, session, "second")
    await post(client, session, "third")
    async with asyncio.timeout(5), event_stream(served.port, session) as first:
        asked = (await first.until("ask_user"))[-1]

        async with event_stream(served.port, session, f"?requestId={second['requestId']}") as stream:
            await client.post(f"/v1/sessions/{session}/respond", json={"ref": asked.data["ref"], "response": "yes"})
            events = await stream.rest()

    assert text_of(events) == "You said: second"
    assert {event.request_id for event in events} == {second["requestId"]}


async def test_the_stream_of_a_queued_request_ends_empty_when_its_session_is_deleted(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8, EP-delete: without events of another run."""
    await post(client, session, ASKS)
    queued = await post(client, session, "second")

    async with asyncio.timeout(5), event_stream(served.port, session, f"?requestId={queued['requestId']}") as stream:
        await stream.heartbeat()
        await client.delete(f"/v1/sessions/{session}")
        assert await stream.rest() == []


async def test_an_unknown_request_is_not_found(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8: as is one of another session."""
    created = await client.post("/v1/sessions", json={"model": "scripted:x"})
    elsewhere = await post(client, created.json()["sessionId"], "hello")

    for request_id in ("unknown", elsewhere["requestId"], ""):
        status, body = await refused(served, session, f"?requestId={request_id}")
        assert (status, body["error"]) == (404, "not_found")


async def test_a_cursor_in_a_request_resumes_that_request(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-6, SSE-8: a disconnected browser reconnects to the same URL."""
    one, two = await two_runs(served, client, session)

    url = f"?requestId={two[0].request_id}"
    for index, event in enumerate(two[:-1], start=1):
        assert await read(served, session, url, **{"Last-Event-ID": event.id}) == two[index:]
    assert await read(served, session, url, **{"Last-Event-ID": one[2].id}) == two


async def test_a_cursor_at_or_after_the_end_of_a_request_gives_an_empty_stream(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8: the stream is exactly that run, and its stream is removed."""
    one, two = await two_runs(served, client, session)

    for cursor in (one[-1].id, two[0].id, two[-1].id):
        assert await read(served, session, f"?requestId={one[0].request_id}&after={cursor}") == []


# Some types


async def test_a_filter_keeps_the_ids_of_the_full_log(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8."""
    one, _ = await two_runs(served, client, session)

    seen = await read(served, session, "?after=start&types=message_start,agent_end")

    assert seen == [event for event in one if event.name in ("message_start", "agent_end")]


async def test_a_terminal_event_that_is_filtered_out_still_ends_the_stream(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8: for a finished run and for an active one."""
    await post(client, session, "hello")
    assert set(names(await read(served, session, "?types=message_delta"))) == {"message_delta"}

    async with asyncio.timeout(5), event_stream(served.port, session, "?types=ask_user&after=latest") as stream:
        await post(client, session, ASKS)
        asked = (await stream.until("ask_user"))[-1]
        await client.post(f"/v1/sessions/{session}/respond", json={"ref": asked.data["ref"], "response": "yes"})
        assert await stream.rest() == []


async def test_a_filter_works_with_follow_and_with_a_request(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-8."""
    one, two = await two_runs(served, client, session)

    assert names(await read(served, session, f"?types=agent_end&requestId={two[0].request_id}")) == ["agent_end"]
    query = "?types=agent_end&after=start&follow=true"
    async with asyncio.timeout(5), event_stream(served.port, session, query) as stream:
        assert [await stream.next(), await stream.next()] == [one[-1], two[-1]]


# Pages


async def test_a_page_has_the_same_events_as_the_stream(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-11: with the time of each."""
    one, two = await two_runs(served, client, session)

    got = await page(client, session)

    assert set(got) == {"events", "next", "earliest", "latest"}
    assert [(entry["id"], entry["event"], entry["data"]) for entry in got["events"]] == [
        (event.id, event.name, event.data) for event in (*one, *two)
    ]
    assert all(set(entry) == {"id", "event", "data", "at"} for entry in got["events"])
    times = [entry["at"] for entry in got["events"]]
    assert all(type(at) is int for at in times)
    assert times == sorted(times)
    assert (got["next"], got["latest"]) == (two[-1].id, two[-1].id)
    assert got["earliest"] == f"{one[0].epoch}.0"


@pytest.mark.parametrize("limit", [1, 3, 7, 5000])
async def test_pages_of_any_size_make_up_the_log(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, limit: int
) -> None:
    """SSE-11: `next` is the cursor of the next page."""
    one, two = await two_runs(served, client, session)
    seen: list[str] = []
    after = "start"

    while (got := await page(client, session, after=after, limit=limit))["events"]:
        assert len(got["events"]) <= limit
        seen += [entry["id"] for entry in got["events"]]
        after = got["next"]

    assert seen == [event.id for event in (*one, *two)]
    assert after == got["next"] == got["latest"]


async def test_a_page_of_an_empty_log(client: httpx.AsyncClient, session: str) -> None:
    """SSE-11."""
    got = await page(client, session)

    assert got["events"] == []
    assert got["next"] == got["earliest"] == got["latest"]
    assert got["next"].endswith(".0")


async def test_a_page_has_500_events_by_default(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """SSE-11."""
    await post(client, session, script({"text": ["x"] * 6000}))
    assert len(await read(served, session)) == 6004

    assert len((await page(client, session))["events"]) == 500
    assert len((await page(client, session, limit=5000))["events"]) == 5000


@pytest.mark.parametrize("limit", ["0", "5001", "-1", "1.0", "x", "", "٣", "1_0"])
async def test_an_invalid_page_size_is_rejected(served: InProcessGateway, session: str, limit: str) -> None:
    """SSE-11, HTTP-3."""
    query = str(httpx.QueryParams(limit=limit))
    status, body = await refused(served, session, f"?{query}", Accept="application/json")

    assert (status, body["error"]) == (400, "bad_request")


async def test_pages_can_be_filtered_by_type(served: InProcessGateway, client: httpx.AsyncClient, session: str) -> None:
    """SSE-8, SSE-11."""
    one, two = await two_runs(served, client, session)

    got = await page(client, session, types="agent_end")

    assert [entry["id"] for entry in got["events"]] == [one[-1].id, two[-1].id]


@pytest.mark.parametrize("query", ["follow=true", "requestId={id}"])
async def test_parameters_of_streams_are_rejected_for_a_page(
    served: InProcessGateway, client: httpx.AsyncClient, session: str, query: str
) -> None:
    """HTTP-3: a field that is accepted is enforced."""
    accepted = await post(client, session, "hello")

    status, body = await refused(
        served, session, f"?{query.format(id=accepted['requestId'])}", Accept="application/json"
    )

    assert (status, body["error"]) == (400, "bad_request")


async def test_parameters_without_an_effect_are_rejected_for_a_stream(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """HTTP-3."""
    accepted = await post(client, session, "hello")

    for query in ("limit=5", f"follow=true&requestId={accepted['requestId']}"):
        status, body = await refused(served, session, f"?{query}")
        assert (status, body["error"]) == (400, "bad_request")


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("application/json", True),
        ("application/json;q=0.5", True),
        ("application/json, */*;q=0.1", True),
        ("text/event-stream;q=0.5, application/json", True),
        ("*/*", False),
        ("text/event-stream", False),
        ("text/event-stream, application/json;q=0.9", False),
        ("application/json;q=0", False),
        ("text/html", False),
    ],
)
async def test_a_page_is_returned_if_json_is_preferred(
    served: InProcessGateway, session: str, accept: str, is_page: bool
) -> None:
    """SSE-11."""
    async with asyncio.timeout(5), event_stream(served.port, session, headers={"Accept": accept}) as stream:
        assert (stream.headers["content-type"] == "application/json") is is_page


async def test_the_pages_of_a_log_are_exact_copies_of_its_frames(
    served: InProcessGateway, client: httpx.AsyncClient, session: str
) -> None:
    """EVT-5, EVT-7: the JSON of `data` is the same text in the stream, in the page and on the WebSocket."""
    await post(client, session, script({"text": ["é", "\u2028", "👧", '"']}))
    raw = b""
    async with asyncio.timeout(5), event_stream(served.port, session) as stream:
        while piece := await stream.chunk():
            raw += piece
    datas = [line.removeprefix("data: ") for line in raw.decode().split("\n") if line.startswith("data: ")]
    whole = await client.get(f"/v1/sessions/{session}/events", headers={"Accept": "application/json"})
    async with asyncio.timeout(5), open_websocket(served.port, session, "?after=start") as talk:
        texts = [str(await talk.socket.recv()) for _ in datas]

    for data, text in zip(datas, texts, strict=True):
        assert f'"data":{data}' in text
        assert f'"data":{data}' in whole.text
        assert json.loads(data)["requestId"]
