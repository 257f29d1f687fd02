"""Runs over connections that are cut at random bytes arrive complete, in order and without duplicates.

By default 100 runs; `CMDC_CUT_RUNS=1000` in the environment makes it 1000, which takes 15 seconds.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from random import Random

import pytest
from cmdc_client import AgentEnd, AsyncClient, AsyncSession, Client, Event, Transcript
from cmdc_testkit.conversations import script
from cmdc_testkit.gateways import KEY, InProcessGateway
from cutting_proxy import cutting_proxy

RUNS = int(os.environ.get("CMDC_CUT_RUNS", "100"))
SESSIONS = 25
_WORDS = ("a", "word ", "\n", "\r\n", "\u2028", "é", "\U0001f1f3\U0001f1f4", '"', "x" * 60)


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the usual delays, these tests would spend most of their time waiting."""
    monkeypatch.setattr("cmdc_client.retry._MAX_SECONDS", 0.02)


def random_answer(random: Random) -> list[str]:
    return [random.choice(_WORDS) for _ in range(random.randint(1, 12))]


async def log_of(session: AsyncSession, request_id: str) -> list[Event]:
    """Return the events of the run from the log."""
    entries = (await session.event_page(limit=5000)).entries
    return [entry.event for entry in entries if entry.event.request_id == request_id]


def check(events: Sequence[Event], words: list[str], logged: list[Event]) -> None:
    """Check that the events are complete, in order and without duplicates."""
    assert [event.id for event in events] == [event.id for event in logged]
    assert [event.seq for event in events] == list(range(events[0].seq, events[0].seq + len(events)))
    assert Transcript.of(events).text == "".join(words)
    assert isinstance(events[-1], AgentEnd)
    assert events[-1].last_message is not None
    assert events[-1].last_message.content == "".join(words)


@pytest.mark.timeout(60 + RUNS)
async def test_runs_survive_connections_cut_at_random_bytes(gateway: InProcessGateway) -> None:
    async def talk(number: int) -> None:
        random = Random(number)
        async with await direct.sessions.create(model="scripted:x") as session:
            broken = await client.sessions.get(session.id)
            for _ in range(number, RUNS, SESSIONS):
                words = random_answer(random)
                async with broken.run(script({"text": words})) as run:
                    events = [event async for event in run]
                check(events, words, await log_of(session, events[0].request_id))
            assert (await session.stats()).prompt_count == len(range(number, RUNS, SESSIONS))

    async with (
        cutting_proxy(gateway.url, seed=1, mean=2000) as proxy,
        AsyncClient(gateway.url, api_key=KEY) as direct,
        AsyncClient(proxy.url, api_key=KEY, max_retries=30, reconnect_timeout=600) as client,
        asyncio.TaskGroup() as conversations,
    ):
        for number in range(min(SESSIONS, RUNS)):
            conversations.create_task(talk(number))
    assert proxy.cuts > RUNS / 4


async def test_runs_of_the_sync_client_survive_cut_connections(gateway: InProcessGateway) -> None:
    def talk(url: str) -> list[tuple[list[str], list[Event], str]]:
        random = Random(7)
        runs: list[tuple[list[str], list[Event], str]] = []
        with Client(url, api_key=KEY, max_retries=30) as client:
            session = client.sessions.create(model="scripted:x")
            for _ in range(10):
                words = random_answer(random)
                runs.append((words, [*session.run(script({"text": words}))], session.id))
        return runs

    async with cutting_proxy(gateway.url, seed=2, mean=2000) as proxy, AsyncClient(gateway.url, api_key=KEY) as direct:
        runs = await asyncio.to_thread(talk, proxy.url)
        session = await direct.sessions.get(runs[0][2])
        for words, events, _ in runs:
            check(events, words, await log_of(session, events[0].request_id))
        assert (await session.stats()).prompt_count == len(runs)
    assert proxy.cuts > 0


async def test_following_a_session_survives_cut_connections(gateway: InProcessGateway) -> None:
    async with (
        cutting_proxy(gateway.url, seed=3, mean=2000) as proxy,
        AsyncClient(gateway.url, api_key=KEY) as direct,
        AsyncClient(proxy.url, api_key=KEY, max_retries=30) as client,
    ):
        session = await direct.sessions.create(model="scripted:x")
        broken = await client.sessions.get(session.id)
        accepted = [await session.prompt(f"number {number} " * 20) for number in range(5)]
        seen: list[Event] = []
        async with aclosing(broken.events(after="start", follow=True)) as events:
            async for event in events:
                seen.append(event)
                if isinstance(event, AgentEnd) and event.request_id == accepted[-1].request_id:
                    break

        logged = [entry.event for entry in (await session.event_page(limit=5000)).entries]
        assert [event.id for event in seen] == [event.id for event in logged]


async def test_many_streams_do_not_close_the_idle_connections_of_other_requests(gateway: InProcessGateway) -> None:
    async with (
        cutting_proxy(gateway.url, seed=4, mean=1 << 40) as proxy,
        AsyncClient(proxy.url, api_key=KEY) as client,
        AsyncExitStack() as reading,
    ):
        session = await client.sessions.create(model="scripted:x")
        await session.prompt("hello")
        for _ in range(25):
            events = await reading.enter_async_context(aclosing(session.events(after="start", follow=True)))
            await anext(aiter(events))
        await session.stats()
        connections = proxy.connections

        for _ in range(5):
            await session.stats()

        assert proxy.connections == connections
