"""A request that its client abandoned may still fail; asyncio must not log that as an unhandled exception."""

# pyright: reportPrivateUsage=false
# The end of an opening is not observable otherwise.

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.store import Lease
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.faults import faulty
from cmdc_testkit.gateways import in_process_gateway
from cmdc_testkit.watchers import retry_while_unavailable, wait_until


class SlowStore(MemoryStore):
    """Blocks every attempt to acquire a session until `may_acquire` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.acquiring = asyncio.Event()
        self.may_acquire = asyncio.Event()

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        self.acquiring.set()
        await self.may_acquire.wait()
        return await super().acquire(key, owner, now)


@pytest.fixture
async def unhandled() -> AsyncIterator[list[str]]:
    """The messages that asyncio would log."""
    messages: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: messages.append(str(context["message"])))
    yield messages
    loop.set_exception_handler(None)


async def abandon(task: asyncio.Task[Any]) -> None:
    """Cancel a request and wait until it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_session_that_fails_to_open_after_its_request_was_abandoned(
    tmp_path: Path, unhandled: list[str]
) -> None:
    store = SlowStore()
    async with in_process_gateway(tmp_path, store=store) as served:
        registry = served.gateway.registry
        task = asyncio.create_task(registry.find(SessionKey("default", "nowhere")))
        await store.acquiring.wait()
        await abandon(task)
        store.may_acquire.set()
        del task
        await wait_until(lambda: not registry._opening)
        await asyncio.sleep(0)
        gc.collect()
    assert unhandled == []


async def test_a_prompt_that_fails_after_its_request_was_abandoned(tmp_path: Path, unhandled: list[str]) -> None:
    store, faults = faulty(MemoryStore())
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        talk = await Conversation.begin(client)
        session = await served.gateway.registry.find(SessionKey("default", talk.id))
        faults.open.clear()
        task = asyncio.create_task(session.commands.submit("hello", "key"))
        await faults.waiting.wait()
        await abandon(task)
        del task
        faults.refuse = lambda _: StoreUnavailable("no")
        faults.open.set()
        await wait_until(lambda: faults.refused > 0)
        faults.refuse = lambda _: None
        await retry_while_unavailable(lambda: talk.post("abort"))
        gc.collect()
    assert unhandled == []


async def test_a_session_that_opens_during_shutdown_is_stopped(tmp_path: Path) -> None:
    """DUR-3: no task outlives the server."""
    store = SlowStore()
    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        talk = await Conversation.begin(client)
        registry = served.gateway.registry
        finding = asyncio.create_task(registry.find(SessionKey("default", talk.id)))
        await store.acquiring.wait()

        closing = asyncio.create_task(registry.close())
        for _ in range(100):  # let `close` advance as far as it can
            await asyncio.sleep(0)
        store.may_acquire.set()
        session = await finding
        await closing

        assert session._actor._task is not None
        assert session._actor._task.done()
