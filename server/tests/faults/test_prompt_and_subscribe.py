"""Experiment 3: a prompt and its reader race, and the run is a burst of a thousand events."""

import asyncio
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from cmdc_testkit.conversations import Conversation, script
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, InProcessGateway, in_process_gateway
from websockets.asyncio.client import connect

WORDS = 996  # besides prompt_received, agent_start, message_start and agent_end
EVENTS = WORDS + 4
BURST = script({"text": [f"{number} " for number in range(WORDS)]})
RACES_PER_SESSION = 20
CONCURRENT_SESSIONS = 4

IDS = re.compile(rb'(?:^id: |"id":")[0-9a-z]+\.([0-9]+)', re.MULTILINE)
DELTAS = re.compile(rb'"delta":"([0-9]+) "')
NAMES = re.compile(rb'(?:^event: |"event":")([a-z_]+)', re.MULTILINE)
RUNS = re.compile(rb'"requestId":"([0-9a-f]+)"')


def is_complete(raw: bytes, request_id: str, after: int) -> bool:
    """Whether these bytes are the complete run, in order: the events after `after`, and every word."""
    names = NAMES.findall(raw)
    return (
        [int(seq) for seq in IDS.findall(raw)] == list(range(after + 1, after + EVENTS + 1))
        and [int(word) for word in DELTAS.findall(raw)] == list(range(WORDS))
        and (names[0], names[-1]) == (b"prompt_received", b"agent_end")
        and set(RUNS.findall(raw)) == {request_id.encode()}
    )


async def without_a_cursor(talk: Conversation, _: int) -> bytes:
    return await stream(talk, {})


async def after_the_last_event(talk: Conversation, after: int) -> bytes:
    epoch = (await talk.info())["cursor"].partition(".")[0]
    return await stream(talk, {"after": f"{epoch}.{after}"})


async def stream(talk: Conversation, params: dict[str, str]) -> bytes:
    """Read a stream until the server ends it; return its bytes."""
    async with talk.client.stream("GET", f"{talk.path}/events", params=params) as answer:
        assert answer.status_code == 200, await answer.aread()
        return b"".join([chunk async for chunk in answer.aiter_raw()])


async def over_websocket(talk: Conversation, after: int) -> bytes:
    """Read a WebSocket until the run ends; return the messages, one per line."""
    epoch = (await talk.info())["cursor"].partition(".")[0]
    base = str(talk.client.base_url).rstrip("/").replace("http", "ws", 1)
    url = f"{base}{talk.path}/ws?after={epoch}.{after}"
    texts: list[str] = []
    async with connect(url, additional_headers={"X-API-Key": KEY}, proxy=None, compression=None) as socket:
        while not texts or not texts[-1].startswith('{"event":"agent_end"'):
            text = await socket.recv()
            assert isinstance(text, str)
            texts.append(text)
    return "\n".join(texts).encode()


async def prompt(talk: Conversation, after: float) -> str:
    await asyncio.sleep(after)
    return await talk.prompt(BURST)


async def race(talk: Conversation, rng: random.Random, after: int, seen: Counter[str]) -> int:
    """Prompt and read in random order; return the number of events that were read."""
    read = rng.choices((without_a_cursor, after_the_last_event, over_websocket), (6, 1, 1))[0]
    head_start = rng.choice((0, 0.002, 0.01, 0.05))
    prompt_first = rng.random() < 0.5
    prompting = asyncio.create_task(prompt(talk, 0 if prompt_first else head_start))
    await asyncio.sleep(head_start if prompt_first else 0)
    async with asyncio.timeout(30):
        raw = await read(talk, after)
        request_id = await prompting
    assert is_complete(raw, request_id, after), f"{read.__name__}: {NAMES.findall(raw)[:5]} … {len(IDS.findall(raw))}"
    if (
        read is over_websocket
    ):  # a WebSocket does not mark the run as delivered, so the next reader without a cursor would receive it again
        await stream(talk, {"requestId": request_id})
    seen[read.__name__.replace("_", " ")] += 1
    return EVENTS


async def races_of_a_session(served: InProcessGateway, rng: random.Random, races: int, seen: Counter[str]) -> int:
    async with served.client() as client:
        talk = await Conversation.begin(client)
        events = 0
        for number in range(races):
            events += await race(talk, rng, number * EVENTS, seen)
        await client.delete(talk.path)
    return events


@pytest.mark.timeout(180)
async def test_a_reader_that_races_with_the_prompt_misses_nothing(tmp_path: Path, experiment: Experiment) -> None:
    """SSE-5, SSE-6, WS-2, EVT-7: it receives every event in order."""
    rng = experiment.random
    races = experiment.trials(short=40, long=10_000)
    seen: Counter[str] = Counter()
    events = 0
    async with in_process_gateway(tmp_path) as served:
        for begun in range(0, races, RACES_PER_SESSION * CONCURRENT_SESSIONS):
            left = min(RACES_PER_SESSION * CONCURRENT_SESSIONS, races - begun)
            shares = [
                left * (index + 1) // CONCURRENT_SESSIONS - left * index // CONCURRENT_SESSIONS
                for index in range(CONCURRENT_SESSIONS)
            ]
            chances = [random.Random(rng.random()) for _ in shares]
            events += sum(
                await asyncio.gather(
                    *(races_of_a_session(served, *pair, seen) for pair in zip(chances, shares, strict=True))
                )
            )
    experiment.record("races", races)
    experiment.record("readers", ", ".join(f"{count} {how}" for how, count in seen.most_common()))
    experiment.record("events in bursts of 1,000", events)
    experiment.record("lost or out of order", 0)


def test_a_run_with_a_gap_is_not_complete() -> None:
    frames = [
        f'id: a.{seq}\nevent: {name}\ndata: {{{data}"requestId":"ab"}}\n\n'.encode()
        for seq, (name, data) in enumerate(
            [
                ("prompt_received", ""),
                ("agent_start", ""),
                ("message_start", ""),
                *(("message_delta", f'"delta":"{word} ",') for word in range(WORDS)),
                ("agent_end", ""),
            ],
            1,
        )
    ]

    assert is_complete(b"".join(frames), "ab", 0)
    assert not is_complete(b"".join(frames[:500] + frames[501:]), "ab", 0)
    assert not is_complete(b"".join([*frames[:500], frames[501], frames[500], *frames[502:]]), "ab", 0)
    assert not is_complete(b"".join(frames[:-1]), "ab", 0)
    assert not is_complete(b"".join(frames), "cd", 0)
