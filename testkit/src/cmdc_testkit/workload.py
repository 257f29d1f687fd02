"""Users that act at random, whatever happens to the server, and remember what it accepted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from cmdc_testkit.audit import SessionRecord, audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, record_session

_TIMEOUT_SECONDS = 60


@dataclass
class RandomUser:
    """`run` prompts, decides, answers and registers tools at random until `stopped`; `finish` decides what is left.

    A request without a response, or with 503, is repeated under its Idempotency-Key once `available` is set. The tools are
    `receiver`'s. `unavailable` counts the 503 responses.
    """

    session: Conversation
    receiver: Receiver
    rng: random.Random
    available: asyncio.Event
    max_queued: int = 5
    stopped: bool = False
    sent: int = 0
    unavailable: int = 0
    accepted: list[str] = field(default_factory=list[str])
    decisions: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    registered: dict[str, str] = field(default_factory=dict[str, str])

    async def register_tools(self) -> None:
        """Register the tools that prompts use."""
        await self.register("count")
        await self.register("guarded", requiresApproval=True)

    async def run(self) -> None:
        while not self.stopped:
            await self.prompt()
            for _ in range(self.rng.randrange(4)):
                await self.decide_pending()
                await asyncio.sleep(self.rng.uniform(0, 0.05))

    async def finish(self) -> None:
        """Decide everything that is pending until the session is idle."""
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while (info := await self.info())["state"] != "idle" or info["queue"]:
                await self.decide_pending()
                await asyncio.sleep(0.02)

    async def prompt(self) -> None:
        """Send a prompt, unless enough are queued; sometimes register another tool before."""
        if len((await self.info())["queue"]) > self.max_queued:
            return
        if self.rng.random() < 0.2:
            await self.register(f"spare{self.rng.randrange(3)}")
        replies: list[dict[str, Any]] = [
            {"text": ["some ", "words ", "here"], "delayMs": self.rng.choice((0, 1, 15))},
            calling(("count", {}), ("count", {})),
            calling(("guarded", {}), ("count", {}), text=["first "]),
            calling(("ask_user", {"question": "?"}), ("guarded", {})),
            {"thinking": ["hm"], "text": ["so"]},
        ]
        answer = await self._post("prompt", {"text": script(*self.rng.choices(replies, k=3), nonce=str(self.sent))})
        assert answer.status_code == 202, answer.text
        self.accepted.append(answer.json()["requestId"])

    async def decide_pending(self) -> None:
        """Make every pending decision and answer every pending question."""
        info = await self.info()
        for approval in info["pendingApprovals"]:
            verb, status = self.rng.choice((("approve", "approved"), ("reject", "rejected")))
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
        """The session's info, from whichever server is running."""
        return (await self._retry(self.session.get)).json()

    async def record(self, watcher: Watcher) -> SessionRecord:
        """Read everything about this user's session that can be audited."""
        return await record_session(
            self.session,
            watcher,
            accepted=self.accepted,
            decisions=self.decisions,
            answers=self.answers,
            registered=self.registered,
            tools=(await self._retry(lambda: self.session.get("/tools"))).json()["tools"],
            executed=[call.body["callId"] for call in self.receiver.calls if call.body["sessionId"] == self.session.id],
        )

    async def register(self, name: str, **more: Any) -> None:
        description = f"Version {self.sent}."
        tool = {"name": name, "description": description, "parameters": {"type": "object"}, **more}
        answer = await self._post("tools", {**tool, "callbackUrl": self.receiver.url})
        assert answer.status_code == 201, answer.text
        self.registered[name] = description

    async def _post(self, action: str, body: dict[str, Any]) -> httpx.Response:
        self.sent += 1
        key = f"{self.session.id}-{self.sent}"
        return await self._retry(lambda: self.session.post(action, body, Idempotency_Key=key))

    async def _retry(self, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        while True:
            with suppress(httpx.TransportError):
                await self.available.wait()
                answer = await send()
                if answer.status_code != 503:
                    return answer
                assert answer.headers["retry-after"].isdecimal()
                self.unavailable += 1
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Totals:
    """The number of accepted prompts and decisions, and of logged events."""

    prompts: int = 0
    decisions: int = 0
    events: int = 0


@dataclass
class Workload:
    """`async with Workload(gateway, receiver, rng, size) as workload:` runs `size` users, each with a reader.

    A test that stops the gateway clears `available`, and sets it afterwards. `finish` waits until all sessions are idle;
    `audit` audits them.
    """

    gateway: GatewayProcess
    receiver: Receiver
    rng: random.Random
    size: int
    users: list[RandomUser] = field(default_factory=list[RandomUser])
    watchers: list[Watcher] = field(default_factory=list[Watcher])
    available: asyncio.Event = field(default_factory=asyncio.Event)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _running: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def __aenter__(self) -> Self:
        self.available.set()
        client = await self._stack.enter_async_context(self.gateway.client())
        for _ in range(self.size):
            session = await Conversation.begin(client, tools=["ask_user"])
            user = RandomUser(session, self.receiver, random.Random(self.rng.random()), self.available)  # noqa: S311
            await user.register_tools()
            self.users.append(user)
            self.watchers.append(await self._stack.enter_async_context(Watcher(session)))
        self._running = [asyncio.create_task(user.run()) for user in self.users]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._stack.aclose()

    async def finish(self) -> None:
        """Stop the users and wait until their sessions are idle."""
        for user in self.users:
            user.stopped = True
        await asyncio.gather(*self._running)
        await asyncio.gather(*(user.finish() for user in self.users))

    async def audit(self, totals: Totals) -> None:
        """Audit every session and add it to the totals."""
        for user, watcher in zip(self.users, self.watchers, strict=True):
            record = await user.record(watcher)
            assert audit(record) == []
            assert record.prompt_count == len(user.accepted), "a prompt runs once, however often it is sent"
            totals.prompts += len(user.accepted)
            totals.decisions += len(user.decisions) + len(user.answers) + len(user.registered)
            totals.events += len(record.log)
