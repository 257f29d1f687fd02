"""Two gateways on one store: one takes over a session while the other one commits."""

import asyncio
from pathlib import Path
from typing import Any, cast

from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.store import Lease, Store
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.faults import faulty
from cmdc_testkit.gateways import in_process_gateway
from cmdc_testkit.watchers import record_session, wait_until_idle


class SlowAcquireStore:
    """A store whose `acquire` waits for `released`."""

    def __init__(self, store: Store) -> None:
        self.acquiring = asyncio.Event()
        self.released = asyncio.Event()
        self._store = store

    async def acquire(self, key: SessionKey, owner: str, now: int) -> Lease:
        self.acquiring.set()
        await self.released.wait()
        return await self._store.acquire(key, owner, now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_key_has_one_effect_when_the_session_is_taken_over_meanwhile(tmp_path: Path) -> None:
    """HTTP-11: the new owner finds the response that the previous one committed."""
    store = MemoryStore()
    held, faults = faulty(store)
    slow = SlowAcquireStore(store)
    async with (
        in_process_gateway(tmp_path, store=held) as first,
        first.client() as client,
        in_process_gateway(tmp_path, store=cast("Store", slow)) as second,
        second.client() as other,
    ):
        talk = await Conversation.begin(client)
        await talk.info()
        taken_over = Conversation(other, talk.id)
        faults.open.clear()
        committing = asyncio.create_task(talk.post("prompt", {"text": "hello"}, Idempotency_Key="once"))
        await faults.waiting.wait()
        await store.renew(first.gateway.registry.services.owner, 0)
        taking_over = asyncio.create_task(taken_over.post("prompt", {"text": "hello"}, Idempotency_Key="once"))
        await slow.acquiring.wait()
        faults.open.set()
        answer = await committing
        slow.released.set()
        again = await taking_over

        await wait_until_idle(taken_over)
        record = await record_session(taken_over)
    assert (answer.status_code, again.status_code) == (202, 202)
    assert again.json() == answer.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert record.prompt_count == 1
