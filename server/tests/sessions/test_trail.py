"""What is decided about the server is noted, whatever its store does meanwhile."""

import asyncio

from cmdc_gateway.sessions.audit import AuditLog
from cmdc_gateway.store.memory import MemoryStore
from cmdc_testkit.faults import faulty
from cmdc_testkit.watchers import wait_until


async def test_a_note_whose_commit_is_under_way_at_the_end_is_kept_once() -> None:
    store, faults = faulty(MemoryStore())
    trail = AuditLog(store, lambda: 0)
    faults.open.clear()
    trail.record("key_added")
    await faults.waiting.wait()

    closing = asyncio.create_task(trail.close())
    await asyncio.sleep(0)
    faults.open.set()
    await closing

    assert [row.action for _, row in await store.audit(0, 10)] == ["key_added"]


async def test_a_note_that_waits_for_the_store_is_written_at_the_end() -> None:
    store, faults = faulty(MemoryStore())
    trail = AuditLog(store, lambda: 0)
    faults.down = True
    trail.record("key_added")
    await wait_until(lambda: faults.refused > 0)
    faults.down = False

    await trail.close()

    assert [row.action for _, row in await store.audit(0, 10)] == ["key_added"]


async def test_an_end_does_not_wait_for_a_store_that_stays_down() -> None:
    store, faults = faulty(MemoryStore())
    trail = AuditLog(store, lambda: 0)
    faults.down = True
    trail.record("key_added")

    async with asyncio.timeout(15):
        await trail.close()

    faults.down = False
    assert await store.audit(0, 10) == []
