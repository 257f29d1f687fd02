"""Experiment 3: a prompt and its reader race, and the run is a burst of a thousand events."""

import asyncio
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from cmdc_testkit.conversations import Conversation, script
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, Served, serving
from websockets.asyncio.client import connect

WORDS = 996  # and prompt_received, agent_start, message_start, agent_end
EVENTS = WORDS + 4
BURST = script({"text": [f"{number} " for number in range(WORDS)]})
RACES_OF_A_SESSION = 20
AT_ONCE = 4

IDS = re.compile(rb'(?:^id: |"id":")[0-9a-z]+\.([0-9]+)', re.MULTILINE)
DELTAS = re.compile(rb'"delta":"([0-9]+) "')
NAMES = re.compile(rb'(?:^event: |"event":")([a-z_]+)', re.MULTILINE)
RUNS = re.compile(rb'"requestId":"([0-9a-f]+)"')


def is_whole(raw: bytes, request_id: str, after: int) -> bool:
    """Whether these bytes are the whole run, in order: the events from `after` on, and each word of the answer."""
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
    """The bytes of a stream, to the end that it comes to by itself."""
    async with talk.client.stream("GET", f"{talk.path}/events", params=params) as answer:
        assert answer.status_code == 200, await answer.aread()
        return b"".join([piece async for piece in answer.aiter_raw()])


async def by_socket(talk: Conversation, after: int) -> bytes:
    """The messages of a WebSocket, to the end of the run, each on a line."""
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


async def race(talk: Conversation, chance: random.Random, after: int, seen: Counter[str]) -> int:
    """Prompt, and read, in whatever order it comes to; return how many events were read."""
    read = chance.choices((without_a_cursor, after_the_last_event, by_socket), (6, 1, 1))[0]
    head_start = chance.choice((0, 0.002, 0.01, 0.05))
    prompt_first = chance.random() < 0.5
    prompting = asyncio.create_task(prompt(talk, 0 if prompt_first else head_start))
    await asyncio.sleep(head_start if prompt_first else 0)
    async with asyncio.timeout(30):
        raw = await read(talk, after)
        request_id = await prompting
    assert is_whole(raw, request_id, after), f"{read.__name__}: {NAMES.findall(raw)[:5]} … {len(IDS.findall(raw))}"
    if read is by_socket:  # which does not count: the next reader without a cursor would be shown this run once more
        await stream(talk, {"requestId": request_id})
    seen[read.__name__.replace("_", " ")] += 1
    return EVENTS


async def races_of_a_session(served: Served, chance: random.Random, races: int, seen: Counter[str]) -> int:
    async with served.client() as client:
        talk = await Conversation.begin(client)
        events = 0
        for number in range(races):
            events += await race(talk, chance, number * EVENTS, seen)
        await client.delete(talk.path)
    return events


@pytest.mark.timeout(180)
async def test_a_reader_that_comes_with_the_prompt_misses_nothing(tmp_path: Path, experiment: Experiment) -> None:
    """SSE-5, SSE-6, WS-2, EVT-7: whoever is first; in order, to the last event."""
    chance = experiment.random
    races = experiment.trials(short=80, long=10_000)
    seen: Counter[str] = Counter()
    events = 0
    async with serving(tmp_path) as served:
        for begun in range(0, races, RACES_OF_A_SESSION * AT_ONCE):
            left = min(RACES_OF_A_SESSION * AT_ONCE, races - begun)
            shares = [left * (index + 1) // AT_ONCE - left * index // AT_ONCE for index in range(AT_ONCE)]
            chances = [random.Random(chance.random()) for _ in shares]
            events += sum(
                await asyncio.gather(
                    *(races_of_a_session(served, *pair, seen) for pair in zip(chances, shares, strict=True))
                )
            )
    experiment.record("races", races)
    experiment.record("readers", ", ".join(f"{count} {how}" for how, count in seen.most_common()))
    experiment.record("events in bursts of 1,000", events)
    experiment.record("lost or out of order", 0)


def test_a_run_with_a_gap_is_not_whole() -> None:
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

    assert is_whole(b"".join(frames), "ab", 0)
    assert not is_whole(b"".join(frames[:500] + frames[501:]), "ab", 0)
    assert not is_whole(b"".join([*frames[:500], frames[501], frames[500], *frames[502:]]), "ab", 0)
    assert not is_whole(b"".join(frames[:-1]), "ab", 0)
    assert not is_whole(b"".join(frames), "cd", 0)
