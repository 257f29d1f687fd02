"""Experiment 11: fifty duplicates of a request at once under one Idempotency-Key, and crashes before the answer."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.writes import PutResponse, Write
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.faults import faulty
from cmdc_testkit.gateways import KEY, GatewayProcess, serving
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, retry_while_unavailable, wait_until_idle, whole_log

DUPLICATES = 50
CRASHES = 0.25  # of the keys

Moment = Callable[[], Awaitable[None]]
Send = Callable[[], Awaitable[httpx.Response]]


@dataclass
class Outcome:
    """What came of one key: the good answers, how many of them were the first one, and how many were refused."""

    answers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    first: int = 0
    in_progress: int = 0
    lost: int = 0

    def take(self, answer: httpx.Response) -> None:
        match answer.status_code:
            case 200 | 201 | 202:
                self.answers.append(answer.json())
                self.first += "idempotent-replayed" not in answer.headers
            case 409:
                assert answer.json()["error"] == "idempotency_in_progress", answer.text
                self.in_progress += 1
            case _:
                pytest.fail(f"{answer.status_code} {answer.text}")


class Effects:
    """Sends one thing after another, and says what of it is there."""

    def __init__(self, client: httpx.AsyncClient, receiver: Receiver) -> None:
        self.kinds = (self.prompt, self.create, self.register, self.approve)
        self._client = client
        self._receiver = receiver
        self._talk: Conversation

    async def begin(self) -> None:
        self._talk = await Conversation.begin(self._client)
        tool = {"name": "guarded", "description": "", "parameters": {"type": "object"}}
        body = {**tool, "callbackUrl": self._receiver.url, "requiresApproval": True}
        assert (await self._talk.post("tools", body)).status_code == 201

    async def recovered(self) -> None:
        """Wait until the session takes prompts again."""
        await retry_while_unavailable(lambda: self._talk.post("abort"))

    async def prompt(self, key: str) -> tuple[Send, Send, Callable[[], Awaitable[int]]]:
        before = (await self._talk.get("/stats")).json()["promptCount"]

        async def effects() -> int:
            return (await self._talk.get("/stats")).json()["promptCount"] - before

        return self._posts(f"{self._talk.path}/prompt", key, {"text": "hello"}, {"text": "else"}, effects)

    async def create(self, key: str) -> tuple[Send, Send, Callable[[], Awaitable[int]]]:
        body = {"model": "scripted:x", "metadata": {"key": key}}

        async def effects() -> int:
            listed = (await self._client.get("/v1/sessions", params={"limit": 100})).json()["sessions"]
            return sum(session["metadata"] == {"key": key} for session in listed)

        return self._posts("/v1/sessions", key, body, {**body, "maxTurns": 1}, effects)

    async def register(self, key: str) -> tuple[Send, Send, Callable[[], Awaitable[int]]]:
        body = {"name": key, "description": "", "parameters": {"type": "object"}, "callbackUrl": self._receiver.url}

        async def effects() -> int:
            listed = (await self._talk.get("/tools")).json()["tools"]
            return sum(tool["name"] == key for tool in listed)

        return self._posts(f"{self._talk.path}/tools", key, body, {**body, "description": "else"}, effects)

    async def approve(self, key: str) -> tuple[Send, Send, Callable[[], Awaitable[int]]]:
        await wait_until_idle(self._talk)
        async with Watcher(self._talk, after="latest") as watcher:
            await self._talk.prompt(script(calling(("guarded", {})), nonce=key))
            approval_id = (await watcher.until("approval_required"))["approvalId"]
        before = len(self._receiver.calls)

        async def effects() -> int:
            """How often it was resolved; a crash may come before the call it allows, which then is not made any more."""
            await wait_until_idle(self._talk)
            assert len(self._receiver.calls) - before <= 1
            resolved = [frame for frame in await whole_log(self._talk) if frame.name == "approval_resolved"]
            return sum(frame.data["approvalId"] == approval_id for frame in resolved)

        body = {"approvalId": approval_id}
        return self._posts(f"{self._talk.path}/approve", key, body, {**body, "args": {"else": 1}}, effects)

    def _posts(
        self, path: str, key: str, body: object, other: object, effects: Callable[[], Awaitable[int]]
    ) -> tuple[Send, Send, Callable[[], Awaitable[int]]]:
        def sending(what: object) -> Send:
            return lambda: self._client.post(path, json=what, headers={"Idempotency-Key": key})

        return sending(body), sending(other), effects


async def flood(gateway: GatewayProcess, send: Send, outcome: Outcome, moment: Moment | None) -> None:
    """Send the duplicates at once; where there is a crash among them, restart and send them again."""
    crashing = asyncio.create_task(crash(gateway, moment)) if moment is not None else None
    for answer in await asyncio.gather(*(send() for _ in range(DUPLICATES)), return_exceptions=True):
        if isinstance(answer, httpx.Response):
            outcome.take(answer)
        else:
            assert isinstance(answer, httpx.TransportError), answer
            assert crashing is not None, answer
            outcome.lost += 1
    if crashing is not None:
        await crashing
        await flood(gateway, send, outcome, None)


async def crash(gateway: GatewayProcess, moment: Moment) -> None:
    await moment()
    await gateway.kill()
    await gateway.start()


def some_time(seconds: float) -> Moment:
    return lambda: asyncio.sleep(seconds)


def the_next_commit(gateway: GatewayProcess) -> Moment:
    """Until the store's file changes: what is committed then has not been answered yet, or only just."""
    journal = gateway.folder / "gateway.db-wal"
    before = journal.stat().st_mtime_ns

    async def wait() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while journal.stat().st_mtime_ns == before:  # noqa: ASYNC110
                    await asyncio.sleep(0)

    return wait


@pytest.mark.timeout(180)
async def test_a_key_has_one_effect(tmp_path: Path, receiver: Receiver, experiment: Experiment) -> None:
    """HTTP-11."""
    chance = experiment.random
    keys = experiment.trials(short=16, long=1_000)
    total: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=DUPLICATES)
    async with (
        GatewayProcess(tmp_path, forked=True) as gateway,
        httpx.AsyncClient(
            base_url=gateway.url, headers={"X-API-Key": KEY}, trust_env=False, limits=limits, timeout=30
        ) as client,
    ):
        effects = Effects(client, receiver)
        for number in range(keys):
            if number % 100 == 0:
                await effects.begin()
            kind = effects.kinds[number % len(effects.kinds)]
            send, send_other, count = await kind(f"key-{number}")
            outcome = Outcome()
            moment: Moment | None = None
            if chance.random() < CRASHES:
                moment = chance.choice((the_next_commit(gateway), some_time(chance.uniform(0, 0.03))))
            await flood(gateway, send, outcome, moment)

            assert outcome.answers, "one of them is answered"
            assert len({json.dumps(answer) for answer in outcome.answers}) == 1, "and all others like it"
            assert outcome.first <= 1
            assert outcome.first == 1 or moment is not None
            mismatch = await send_other()
            assert (mismatch.status_code, mismatch.json()["error"]) == (422, "idempotency_mismatch")
            assert await count() == 1, f"{kind.__name__} {number}"
            total += Counter(
                answered=len(outcome.answers),
                in_progress=outcome.in_progress,
                lost=outcome.lost,
                crashes=moment is not None,
                kept=outcome.first == 0,
            )
    experiment.record("keys", keys)
    experiment.record("requests answered", total["answered"])
    experiment.record("told that it is in progress", total["in_progress"])
    experiment.record("crashes", total["crashes"])
    experiment.record("requests lost in them", total["lost"])
    experiment.record("committed before, and answered after the crash", total["kept"])
    experiment.record("keys with another number of effects than one", 0)


@pytest.mark.parametrize("kind", range(4))
async def test_a_key_whose_answer_was_lost_after_the_commit_is_answered_again(
    tmp_path: Path, receiver: Receiver, kind: int
) -> None:
    """HTTP-11, DUR-5: at exactly that moment; the first try hears 503, and has had its effect."""
    store, faults = faulty(MemoryStore())
    left = ["once"]

    def keeps_an_answer(writes: Sequence[Write]) -> bool:
        return bool(left and any(isinstance(write, PutResponse) for write in writes) and left.pop())

    async with serving(tmp_path, store=store) as served, served.client() as client:
        effects = Effects(client, receiver)
        await effects.begin()
        send, _, count = await effects.kinds[kind]("key")
        faults.lose_answer = keeps_an_answer
        first = await send()
        again = await send()
        while again.status_code == 503:
            again = await send()

        await effects.recovered()

        assert first.status_code == 503
        assert again.headers["idempotent-replayed"] == "true"
        assert again.status_code in (200, 201, 202)
        assert await count() == 1
