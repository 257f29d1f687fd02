"""Whoever asked may be gone when the answer comes; that is no mistake, and nothing to write a traceback about."""

# pyright: reportPrivateUsage=false
# That an opening has ended shows nowhere else.

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import Lease, SessionKey, StoreUnavailable
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.faults import faulty
from cmdc_testkit.gateways import in_process_gateway
from cmdc_testkit.watchers import retry_while_unavailable, wait_until


class SlowStore(MemoryStore):
    """Lets whoever claims a session wait until they may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        self.asked.set()
        await self.may.wait()
        return await super().acquire(key, owner, now)


@pytest.fixture
async def complaints() -> AsyncIterator[list[str]]:
    """What asyncio would write into the log."""
    heard: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(str(context["message"])))
    yield heard
    loop.set_exception_handler(None)


async def forgotten(task: asyncio.Task[Any]) -> None:
    """Give up on a request; return once nothing of it is left in memory."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_session_that_cannot_be_opened_when_nobody_waits_any_longer(
    tmp_path: Path, complaints: list[str]
) -> None:
    store = SlowStore()
    async with in_process_gateway(tmp_path, store=store) as served:
        registry = served.gateway.registry
        task = asyncio.create_task(registry.find(SessionKey("default", "nowhere")))
        await store.asked.wait()
        await forgotten(task)
        store.may.set()
        del task
        await wait_until(lambda: not registry._opening)
        await asyncio.sleep(0)
        gc.collect()
    assert complaints == []


async def test_a_prompt_that_is_refused_when_nobody_waits_any_longer(tmp_path: Path, complaints: list[str]) -> None:
    store, faults = faulty(MemoryStore())
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        talk = await Conversation.begin(client)
        session = await served.gateway.registry.find(SessionKey("default", talk.id))
        faults.open.clear()
        task = asyncio.create_task(session.submit("hello", "key"))
        await faults.waiting.wait()
        await forgotten(task)
        del task
        faults.refuse = lambda _: StoreUnavailable("no")
        faults.open.set()
        await wait_until(lambda: faults.refused > 0)
        faults.refuse = lambda _: None
        await retry_while_unavailable(lambda: talk.post("abort"))
        gc.collect()
    assert complaints == []


async def test_a_session_that_is_being_taken_up_at_the_end_is_let_go_of(tmp_path: Path) -> None:
    """DUR-3: nothing lives on behind the end."""
    store = SlowStore()
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        talk = await Conversation.begin(client)
        registry = served.gateway.registry
        finding = asyncio.create_task(registry.find(SessionKey("default", talk.id)))
        await store.asked.wait()

        closing = asyncio.create_task(registry.close())
        for _ in range(100):  # as far as it gets by itself
            await asyncio.sleep(0)
        store.may.set()
        session = await finding
        await closing

        assert session._task is not None
        assert session._task.done()
