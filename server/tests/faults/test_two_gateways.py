"""Two gateways on one store: one takes a session over while the other still carries something out."""

import asyncio
from pathlib import Path
from typing import Any, cast

from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.store import Lease, Store
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.faults import faulty
from cmdc_testkit.gateways import serving
from cmdc_testkit.watchers import record_session, wait_until_idle


class SlowToClaim:
    """Another store, on which whoever claims a session waits until they may."""

    def __init__(self, store: Store) -> None:
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        self._store = store

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        self.asked.set()
        await self.may.wait()
        return await self._store.acquire(key, owner, now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_key_has_one_effect_though_the_session_is_taken_over_in_between(tmp_path: Path) -> None:
    """HTTP-11: what its last owner commits before it loses the session is found by its next one."""
    store = MemoryStore()
    held, faults = faulty(store)
    slow = SlowToClaim(store)
    async with (
        serving(tmp_path, store=held) as first,
        first.client() as client,
        serving(tmp_path, store=cast("Store", slow)) as second,
        second.client() as other,
    ):
        talk = await Conversation.begin(client)
        await talk.info()
        there = Conversation(other, talk.id)
        faults.open.clear()
        committing = asyncio.create_task(talk.post("prompt", {"text": "hello"}, Idempotency_Key="once"))
        await faults.waiting.wait()
        await store.renew(first.gateway.registry.services.owner, 0)
        taking_over = asyncio.create_task(there.post("prompt", {"text": "hello"}, Idempotency_Key="once"))
        await slow.asked.wait()
        faults.open.set()
        answer = await committing
        slow.may.set()
        again = await taking_over

        await wait_until_idle(there)
        record = await record_session(there)
    assert (answer.status_code, again.status_code) == (202, 202)
    assert again.json() == answer.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert record.prompt_count == 1
