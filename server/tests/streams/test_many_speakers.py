"""With many active sessions, chunks are committed and sent in batches, which the log does not show."""

import asyncio

import httpx
from cmdc_testkit.conversations import Conversation, script

PIECES = [f"piece {number} " for number in range(30)]


async def test_every_chunk_is_an_event_of_its_own(client: httpx.AsyncClient) -> None:
    """EVT-6, EVT-7, SSE-11: each reader gets what is in the log, and `at` never decreases."""
    talks = [await Conversation.begin(client) for _ in range(40)]

    runs = await asyncio.gather(*(talk.run(script({"text": PIECES, "delayMs": 1})) for talk in talks))

    for talk, run in zip(talks, runs, strict=True):
        assert [seen.data["delta"] for seen in run if seen.name == "message_delta"] == PIECES
        assert [int(seen.id.rpartition(".")[2]) for seen in run] == list(range(1, len(run) + 1))
        answer = await client.get(f"{talk.path}/events", headers={"Accept": "application/json"})
        page = answer.json()["events"]
        assert [event["id"] for event in page] == [seen.id for seen in run]
        assert sorted(event["at"] for event in page) == [event["at"] for event in page]
