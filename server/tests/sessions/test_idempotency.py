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


class Desk:
    """Where requests arrive; it counts what comes of them."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 1_000_000
        self.effects = 0
        self.idempotency = Idempotency(self.store, lambda: self.now)

    def restart(self) -> None:
        self.idempotency = Idempotency(self.store, lambda: self.now)

    async def act(self, remember: IdempotencyRecord | None) -> Reply:
        self.effects += 1
        reply = Reply(AbortTaken(ok=self.effects == 1), 202)
        if remember is not None:
            await self.store.commit([remember.write(reply, self.now)])
        return reply

    async def ask(
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
def desk() -> Desk:
    return Desk()


FIRST = StoredResponse(202, b'{"ok":true}')
AGAIN = StoredResponse(202, b'{"ok":true}', replayed=True)


async def test_the_same_request_gets_the_stored_answer_and_has_no_second_effect(desk: Desk) -> None:
    assert await desk.ask() == FIRST
    assert await desk.ask() == AGAIN
    assert await desk.ask(body={"n": 1, "text": "hi"}) == AGAIN
    assert desk.effects == 1


async def test_an_answer_outlasts_a_restart(desk: Desk) -> None:
    await desk.ask()
    desk.restart()

    assert await desk.ask() == AGAIN
    with pytest.raises(IdempotencyMismatch):
        await desk.ask(body={"text": "ho"})
    assert desk.effects == 1


@pytest.mark.parametrize("body", [{}, {"text": "hi"}, {"text": "hi", "n": True}, {"text": "hi", "n": 1.0}])
async def test_another_body_is_refused(desk: Desk, body: dict[str, Any]) -> None:
    await desk.ask()

    with pytest.raises(IdempotencyMismatch):
        await desk.ask(body=body)
    assert desk.effects == 1
    assert await desk.ask() == AGAIN


async def test_without_a_key_every_request_is_one(desk: Desk) -> None:
    await desk.ask(None)
    given = await desk.ask(None)

    assert given == StoredResponse(202, b'{"ok":false}')
    assert desk.effects == 2


@pytest.mark.parametrize("other", [{"key": "l"}, {"tenant": "globex"}, {"route": "prompt s2"}])
async def test_a_key_belongs_to_its_tenant_and_route(desk: Desk, other: dict[str, Any]) -> None:
    """HTTP-8: one tenant cannot learn what another has asked."""
    await desk.ask()

    assert not (await desk.ask(**other)).replayed
    assert desk.effects == 2


@pytest.mark.parametrize(("later", "effects"), [(RETENTION_MS - 1, 1), (RETENTION_MS, 2)])
async def test_an_answer_is_kept_for_a_day(desk: Desk, later: int, effects: int) -> None:
    await desk.ask()
    desk.now += later

    await desk.ask()

    assert desk.effects == effects


async def test_a_key_that_is_a_day_old_can_be_used_for_something_else(desk: Desk) -> None:
    await desk.ask()
    desk.now += RETENTION_MS

    assert not (await desk.ask(body={"text": "ho"})).replayed
    assert (await desk.ask(body={"text": "ho"})).replayed


async def test_while_the_first_runs_the_same_request_is_told_so_and_another_is_refused(desk: Desk) -> None:
    running, done = asyncio.Event(), asyncio.Event()

    async def slowly(remember: IdempotencyRecord | None) -> Reply:
        running.set()
        await done.wait()
        return await desk.act(remember)

    async with asyncio.timeout(5):
        first = asyncio.create_task(desk.ask(act=slowly))
        await running.wait()
        with pytest.raises(IdempotencyInProgress):
            await desk.ask()
        with pytest.raises(IdempotencyMismatch):
            await desk.ask(body={"text": "ho"})
        done.set()

        assert await first == FIRST
    assert await desk.ask() == AGAIN
    assert desk.effects == 1


async def test_of_many_at_once_one_acts(desk: Desk) -> None:
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*(desk.ask() for _ in range(20)), return_exceptions=True)

    assert desk.effects == 1
    assert outcomes.count(FIRST) == 1
    assert all(outcome in (FIRST, AGAIN) or isinstance(outcome, IdempotencyInProgress) for outcome in outcomes)


async def test_a_refusal_is_not_kept(desk: Desk) -> None:
    """It had no effect, so a retry is a new try."""

    async def refuse(remember: IdempotencyRecord | None) -> Reply:
        raise QueueFull(100)

    with pytest.raises(QueueFull):
        await desk.ask(act=refuse)

    assert await desk.ask() == FIRST


async def test_a_request_whose_client_went_away_can_be_tried_again(desk: Desk) -> None:
    forever = asyncio.Event()

    async def hang(remember: IdempotencyRecord | None) -> Reply:
        await forever.wait()
        raise AssertionError

    hanging = asyncio.create_task(desk.ask(act=hang))
    await asyncio.sleep(0)
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)

    assert await desk.ask() == FIRST
