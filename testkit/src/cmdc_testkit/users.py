"""Simulated users who keep using sessions while the server fails, and record what they were promised."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from cmdc_testkit.audit import Record, audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watching import Watcher, record_of

_TIMEOUT_SECONDS = 60


@dataclass
class User:
    """`live` prompts, decides, answers and registers tools at random until `stopped`; `finish` resolves what is pending.

    Requests without a response, or with 503, are retried under their Idempotency-Key once `up` is set. The tools belong
    to `receiver`. `refused` counts the 503s.
    """

    talk: Conversation
    receiver: Receiver
    chance: random.Random
    up: asyncio.Event
    most_queued: int = 5
    stopped: bool = False
    sent: int = 0
    refused: int = 0
    accepted: list[str] = field(default_factory=list[str])
    decisions: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    registered: dict[str, str] = field(default_factory=dict[str, str])

    async def settle_in(self) -> None:
        """Register the tools that the prompts use."""
        await self.register("count")
        await self.register("guarded", requiresApproval=True)

    async def live(self) -> None:
        while not self.stopped:
            await self.prompt()
            for _ in range(self.chance.randrange(4)):
                await self.see_to_what_waits()
                await asyncio.sleep(self.chance.uniform(0, 0.05))

    async def finish(self) -> None:
        """Resolve what is pending until the session is idle."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while (info := await self.info())["state"] != "idle" or info["queue"]:
                await self.see_to_what_waits()
                await asyncio.sleep(0.02)

    async def prompt(self) -> None:
        """Send a prompt, unless the queue is long enough; sometimes register another tool."""
        if len((await self.info())["queue"]) > self.most_queued:
            return
        if self.chance.random() < 0.2:
            await self.register(f"spare{self.chance.randrange(3)}")
        replies: list[dict[str, Any]] = [
            {"text": ["some ", "words ", "here"], "delayMs": self.chance.choice((0, 1, 15))},
            calling(("count", {}), ("count", {})),
            calling(("guarded", {}), ("count", {}), text=["first "]),
            calling(("ask_user", {"question": "?"}), ("guarded", {})),
            {"thinking": ["hm"], "text": ["so"]},
        ]
        answer = await self._post("prompt", {"text": script(*self.chance.choices(replies, k=3), nonce=str(self.sent))})
        assert answer.status_code == 202, answer.text
        self.accepted.append(answer.json()["requestId"])

    async def see_to_what_waits(self) -> None:
        """Decide every pending approval, and answer every pending question."""
        info = await self.info()
        for approval in info["pendingApprovals"]:
            verb, status = self.chance.choice((("approve", "approved"), ("reject", "rejected")))
            answer = await self._post(verb, {"approvalId": approval["approvalId"]})
            assert answer.status_code in (200, 409), answer.text
            if answer.status_code == 200:
                self.decisions[approval["approvalId"]] = status
        for question in info["pendingQuestions"]:
            answer = await self._post("respond", {"ref": question["ref"], "response": "because"})
            assert answer.status_code in (200, 409), answer.text
            if answer.status_code == 200:
                self.answers[question["ref"]] = "because"

    async def info(self) -> dict[str, Any]:
        """The session's state, retried until a server responds."""
        return (await self._answered(self.talk.get)).json()

    async def record(self, watcher: Watcher) -> Record:
        """The record of this user's session, for `audit`."""
        return await record_of(
            self.talk,
            watcher,
            accepted=self.accepted,
            decisions=self.decisions,
            answers=self.answers,
            registered=self.registered,
            tools=(await self._answered(lambda: self.talk.get("/tools"))).json()["tools"],
            ran=[call.body["callId"] for call in self.receiver.calls if call.body["sessionId"] == self.talk.id],
        )

    async def register(self, name: str, **more: Any) -> None:
        description = f"Version {self.sent}."
        tool = {"name": name, "description": description, "parameters": {"type": "object"}, **more}
        answer = await self._post("tools", {**tool, "callbackUrl": self.receiver.url})
        assert answer.status_code == 201, answer.text
        self.registered[name] = description

    async def _post(self, action: str, body: dict[str, Any]) -> httpx.Response:
        self.sent += 1
        key = f"{self.talk.id}-{self.sent}"
        return await self._answered(lambda: self.talk.post(action, body, Idempotency_Key=key))

    async def _answered(self, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        while True:
            with suppress(httpx.TransportError):
                await self.up.wait()
                answer = await ask()
                if answer.status_code != 503:
                    return answer
                assert answer.headers["retry-after"].isdecimal()
                self.refused += 1
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Tally:
    """Totals of promises that were kept."""

    prompts: int = 0
    decisions: int = 0
    events: int = 0


@dataclass
class Crowd:
    """`async with Crowd(gateway, receiver, chance, size) as crowd:` runs `size` users, each with a reader.

    A test that stops the gateway must clear `up` and set it again afterwards. `finish` lets the users finish; `judge`
    audits their sessions.
    """

    gateway: GatewayProcess
    receiver: Receiver
    chance: random.Random
    size: int
    users: list[User] = field(default_factory=list[User])
    watchers: list[Watcher] = field(default_factory=list[Watcher])
    up: asyncio.Event = field(default_factory=asyncio.Event)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _living: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def __aenter__(self) -> Self:
        self.up.set()
        client = await self._stack.enter_async_context(self.gateway.client())
        for _ in range(self.size):
            talk = await Conversation.begin(client, tools=["ask_user"])
            user = User(talk, self.receiver, random.Random(self.chance.random()), self.up)  # noqa: S311
            await user.settle_in()
            self.users.append(user)
            self.watchers.append(await self._stack.enter_async_context(Watcher(talk)))
        self._living = [asyncio.create_task(user.live()) for user in self.users]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for living in self._living:
            living.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)
        await self._stack.aclose()

    async def finish(self) -> None:
        """Wait until every user has finished."""
        for user in self.users:
            user.stopped = True
        await asyncio.gather(*self._living)
        await asyncio.gather(*(user.finish() for user in self.users))

    async def judge(self, tally: Tally) -> None:
        """Audit every session and add its totals to `tally`."""
        for user, watcher in zip(self.users, self.watchers, strict=True):
            record = await user.record(watcher)
            assert audit(record) == []
            assert record.prompt_count == len(user.accepted), "each prompt has one effect, however often it was sent"
            tally.prompts += len(user.accepted)
            tally.decisions += len(user.decisions) + len(user.answers) + len(user.registered)
            tally.events += len(record.log)
