"""Experiment 11: fifty concurrent duplicates of a request under one Idempotency-Key, and crashes before the response."""

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
from cmdc_testkit.gateways import KEY, GatewayProcess, in_process_gateway
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, retry_while_unavailable, wait_until_idle, whole_log

DUPLICATES = 50
CRASH_RATIO = 0.25

CrashTime = Callable[[], Awaitable[None]]
Send = Callable[[], Awaitable[httpx.Response]]


@dataclass
class Outcome:
    """The successful responses under one key, how many were not replayed, and how many requests failed."""

    responses: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    originals: int = 0
    in_progress: int = 0
    lost: int = 0

    def add(self, answer: httpx.Response) -> None:
        match answer.status_code:
            case 200 | 201 | 202:
                self.responses.append(answer.json())
                self.originals += "idempotent-replayed" not in answer.headers
            case 409:
                assert answer.json()["error"] == "idempotency_in_progress", answer.text
                self.in_progress += 1
            case _:
                pytest.fail(f"{answer.status_code} {answer.text}")


class Requests:
    """Requests under an Idempotency-Key: each method returns the request, a different one, and a count of its effects."""

    def __init__(self, client: httpx.AsyncClient, receiver: Receiver) -> None:
        self.kinds = (self.prompt, self.create, self.register, self.approve)
        self._client = client
        self._receiver = receiver
        self._talk: Conversation

    async def create_session(self) -> None:
        self._talk = await Conversation.begin(self._client)
        tool = {"name": "guarded", "description": "", "parameters": {"type": "object"}}
        body = {**tool, "callbackUrl": self._receiver.url, "requiresApproval": True}
        assert (await self._talk.post("tools", body)).status_code == 201

    async def wait_until_available(self) -> None:
        """Wait until the session accepts requests again."""
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
            """Count resolutions: a crash may prevent the approved call."""
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


async def send_duplicates(gateway: GatewayProcess, send: Send, outcome: Outcome, crash_time: CrashTime | None) -> None:
    """Send the duplicates concurrently. If the server crashes meanwhile, send them again after the restart."""
    crashing = asyncio.create_task(crash(gateway, crash_time)) if crash_time is not None else None
    for answer in await asyncio.gather(*(send() for _ in range(DUPLICATES)), return_exceptions=True):
        if isinstance(answer, httpx.Response):
            outcome.add(answer)
        else:
            assert isinstance(answer, httpx.TransportError), answer
            assert crashing is not None, answer
            outcome.lost += 1
    if crashing is not None:
        await crashing
        await send_duplicates(gateway, send, outcome, None)


async def crash(gateway: GatewayProcess, crash_time: CrashTime) -> None:
    await crash_time()
    await gateway.kill()
    await gateway.start()


def after(seconds: float) -> CrashTime:
    return lambda: asyncio.sleep(seconds)


def at_next_commit(gateway: GatewayProcess) -> CrashTime:
    """Wait until the store's file changes: a commit then has no response yet, or has just got it."""
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
    rng = experiment.random
    keys = experiment.trials(short=8, long=1_000)
    total: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=DUPLICATES)
    async with (
        GatewayProcess(tmp_path, forked=True) as gateway,
        httpx.AsyncClient(
            base_url=gateway.url, headers={"X-API-Key": KEY}, trust_env=False, limits=limits, timeout=30
        ) as client,
    ):
        effects = Requests(client, receiver)
        for number in range(keys):
            if number % 100 == 0:
                await effects.create_session()
            kind = effects.kinds[number % len(effects.kinds)]
            send, send_other, count = await kind(f"key-{number}")
            outcome = Outcome()
            crash_time: CrashTime | None = None
            if rng.random() < CRASH_RATIO:
                crash_time = rng.choice((at_next_commit(gateway), after(rng.uniform(0, 0.03))))
            await send_duplicates(gateway, send, outcome, crash_time)

            assert outcome.responses, "one request succeeds"
            assert len({json.dumps(answer) for answer in outcome.responses}) == 1, "all responses are equal"
            assert outcome.originals <= 1
            assert outcome.originals == 1 or crash_time is not None
            mismatch = await send_other()
            assert (mismatch.status_code, mismatch.json()["error"]) == (422, "idempotency_mismatch")
            assert await count() == 1, f"{kind.__name__} {number}"
            total += Counter(
                answered=len(outcome.responses),
                in_progress=outcome.in_progress,
                lost=outcome.lost,
                crashes=crash_time is not None,
                kept=outcome.originals == 0,
            )
    experiment.record("keys", keys)
    experiment.record("successful requests", total["answered"])
    experiment.record("responses with idempotency_in_progress", total["in_progress"])
    experiment.record("crashes", total["crashes"])
    experiment.record("requests lost in crashes", total["lost"])
    experiment.record("committed before a crash and replayed after it", total["kept"])
    experiment.record("keys without exactly one effect", 0)


@pytest.mark.parametrize("kind", range(4))
async def test_a_response_that_was_lost_after_the_commit_is_replayed(
    tmp_path: Path, receiver: Receiver, kind: int
) -> None:
    """HTTP-11, DUR-5: the first request returns 503, although it had its effect."""
    store, faults = faulty(MemoryStore())
    left = ["once"]

    def stores_a_response(writes: Sequence[Write]) -> bool:
        return bool(left and any(isinstance(write, PutResponse) for write in writes) and left.pop())

    async with in_process_gateway(tmp_path, store=store) as served, served.client() as client:
        effects = Requests(client, receiver)
        await effects.create_session()
        send, _, count = await effects.kinds[kind]("key")
        faults.lose_answer = stores_a_response
        first = await send()
        again = await send()
        while again.status_code == 503:
            again = await send()

        await effects.wait_until_available()

        assert first.status_code == 503
        assert again.headers["idempotent-replayed"] == "true"
        assert again.status_code in (200, 201, 202)
        assert await count() == 1
