"""Decisions about the server reach the audit log, even if the store is unavailable for a while."""

import asyncio

from cmdc_gateway.sessions.audit import AuditLog
from cmdc_gateway.store.memory import MemoryStore
from cmdc_testkit.faults import faulty
from cmdc_testkit.watchers import wait_until


async def test_a_row_whose_commit_is_in_progress_at_close_is_written_once() -> None:
    store, faults = faulty(MemoryStore())
    audit_log = AuditLog(store, lambda: 0)
    faults.open.clear()
    audit_log.record("key_added")
    await faults.waiting.wait()

    closing = asyncio.create_task(audit_log.close())
    await asyncio.sleep(0)
    faults.open.set()
    await closing

    assert [row.action for _, row in await store.audit(0, 10)] == ["key_added"]


async def test_a_row_that_waits_for_the_store_is_written_at_close() -> None:
    store, faults = faulty(MemoryStore())
    audit_log = AuditLog(store, lambda: 0)
    faults.down = True
    audit_log.record("key_added")
    await wait_until(lambda: faults.refused > 0)
    faults.down = False

    await audit_log.close()

    assert [row.action for _, row in await store.audit(0, 10)] == ["key_added"]


async def test_close_does_not_wait_for_a_store_that_stays_unavailable() -> None:
    store, faults = faulty(MemoryStore())
    audit_log = AuditLog(store, lambda: 0)
    faults.down = True
    audit_log.record("key_added")

    async with asyncio.timeout(15):
        await audit_log.close()

    faults.down = False
    assert await store.audit(0, 10) == []
