"""One effect for one Idempotency-Key (HTTP-11)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cmdc_gateway.errors import IdempotencyInProgress, IdempotencyMismatch, QueueFull
from cmdc_gateway.protocol.sessions import AbortTaken
from cmdc_gateway.sessions.command import IdempotencyRecord, Reply
from cmdc_gateway.sessions.idempotency import RETENTION_MS, Idempotency, StoredResponse
from cmdc_gateway.store.memory import MemoryStore

BODY = {"text": "hi", "n": 1}
Act = Callable[[IdempotencyRecord | None], Awaitable[Reply]]


class Harness:
    """Executes requests, and counts their effects."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 1_000_000
        self.effects = 0
        self.idempotency = Idempotency(self.store, lambda: self.now)

    def restart(self) -> None:
        self.idempotency = Idempotency(self.store, lambda: self.now)

    async def act(self, record: IdempotencyRecord | None) -> Reply:
        self.effects += 1
        reply = Reply(AbortTaken(ok=self.effects == 1), 202)
        if record is not None:
            await self.store.commit([record.write(reply, self.now)])
        return reply

    async def send(
        self,
        key: str | None = "k",
        body: dict[str, Any] | None = None,
        *,
        tenant: str = "acme",
        route: str = "prompt s1",
        act: Act | None = None,
    ) -> StoredResponse:
        return await self.idempotency.execute(tenant, route, key, BODY if body is None else body, act or self.act)


@pytest.fixture
def harness() -> Harness:
    return Harness()


FIRST = StoredResponse(202, b'{"ok":true}')
AGAIN = StoredResponse(202, b'{"ok":true}', replayed=True)


async def test_a_repeated_request_gets_the_stored_response_and_has_no_second_effect(harness: Harness) -> None:
    assert await harness.send() == FIRST
    assert await harness.send() == AGAIN
    assert await harness.send(body={"n": 1, "text": "hi"}) == AGAIN
    assert harness.effects == 1


async def test_a_stored_response_survives_a_restart(harness: Harness) -> None:
    await harness.send()
    harness.restart()

    assert await harness.send() == AGAIN
    with pytest.raises(IdempotencyMismatch):
        await harness.send(body={"text": "ho"})
    assert harness.effects == 1


@pytest.mark.parametrize("body", [{}, {"text": "hi"}, {"text": "hi", "n": True}, {"text": "hi", "n": 1.0}])
async def test_another_body_is_rejected(harness: Harness, body: dict[str, Any]) -> None:
    await harness.send()

    with pytest.raises(IdempotencyMismatch):
        await harness.send(body=body)
    assert harness.effects == 1
    assert await harness.send() == AGAIN


async def test_without_a_key_every_request_has_an_effect(harness: Harness) -> None:
    await harness.send(None)
    response = await harness.send(None)

    assert response == StoredResponse(202, b'{"ok":false}')
    assert harness.effects == 2


@pytest.mark.parametrize("other", [{"key": "l"}, {"tenant": "globex"}, {"route": "prompt s2"}])
async def test_a_key_belongs_to_its_tenant_and_route(harness: Harness, other: dict[str, Any]) -> None:
    """HTTP-8: a tenant learns nothing about the requests of another."""
    await harness.send()

    assert not (await harness.send(**other)).replayed
    assert harness.effects == 2


@pytest.mark.parametrize(("later", "effects"), [(RETENTION_MS - 1, 1), (RETENTION_MS, 2)])
async def test_a_response_is_kept_for_a_day(harness: Harness, later: int, effects: int) -> None:
    await harness.send()
    harness.now += later

    await harness.send()

    assert harness.effects == effects


async def test_a_key_can_be_reused_after_a_day(harness: Harness) -> None:
    await harness.send()
    harness.now += RETENTION_MS

    assert not (await harness.send(body={"text": "ho"})).replayed
    assert (await harness.send(body={"text": "ho"})).replayed


async def test_while_the_first_request_runs_a_repetition_is_in_progress_and_another_body_a_mismatch(
    harness: Harness,
) -> None:
    running, done = asyncio.Event(), asyncio.Event()

    async def slowly(record: IdempotencyRecord | None) -> Reply:
        running.set()
        await done.wait()
        return await harness.act(record)

    async with asyncio.timeout(5):
        first = asyncio.create_task(harness.send(act=slowly))
        await running.wait()
        with pytest.raises(IdempotencyInProgress):
            await harness.send()
        with pytest.raises(IdempotencyMismatch):
            await harness.send(body={"text": "ho"})
        done.set()

        assert await first == FIRST
    assert await harness.send() == AGAIN
    assert harness.effects == 1


async def test_of_many_concurrent_requests_one_has_an_effect(harness: Harness) -> None:
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*(harness.send() for _ in range(20)), return_exceptions=True)

    assert harness.effects == 1
    assert outcomes.count(FIRST) == 1
    assert all(outcome in (FIRST, AGAIN) or isinstance(outcome, IdempotencyInProgress) for outcome in outcomes)


async def test_an_error_is_not_stored(harness: Harness) -> None:
    """An error had no effect, so a retry is a new attempt."""

    async def fail(record: IdempotencyRecord | None) -> Reply:
        raise QueueFull(100)

    with pytest.raises(QueueFull):
        await harness.send(act=fail)

    assert await harness.send() == FIRST


async def test_a_request_whose_client_disconnected_can_be_retried(harness: Harness) -> None:
    forever = asyncio.Event()

    async def hang(record: IdempotencyRecord | None) -> Reply:
        await forever.wait()
        raise AssertionError

    hanging = asyncio.create_task(harness.send(act=hang))
    await asyncio.sleep(0)
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)

    assert await harness.send() == FIRST
