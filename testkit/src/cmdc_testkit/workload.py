"""People who use sessions without rest, whatever becomes of the server, and remember what they were promised."""

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

_PATIENCE_SECONDS = 60


@dataclass
class RandomUser:
    """`live` prompts, decides, answers and registers at random until `stopped`; `finish` sees to what is left.

    What got no answer, or 503, is sent again under its Idempotency-Key, once `up` says that there is a server. The tools
    are a `receiver`'s. `refused` counts the 503s.
    """

    session: Conversation
    receiver: Receiver
    chance: random.Random
    available: asyncio.Event
    most_queued: int = 5
    stopped: bool = False
    sent: int = 0
    unavailable: int = 0
    accepted: list[str] = field(default_factory=list[str])
    decisions: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    registered: dict[str, str] = field(default_factory=dict[str, str])

    async def register_tools(self) -> None:
        """Register the tools that the prompts use."""
        await self.register("count")
        await self.register("guarded", requiresApproval=True)

    async def run(self) -> None:
        while not self.stopped:
            await self.prompt()
            for _ in range(self.chance.randrange(4)):
                await self.decide_pending()
                await asyncio.sleep(self.chance.uniform(0, 0.05))

    async def finish(self) -> None:
        """See to what waits until nothing is left to do."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while (info := await self.info())["state"] != "idle" or info["queue"]:
                await self.decide_pending()
                await asyncio.sleep(0.02)

    async def prompt(self) -> None:
        """Say something, unless enough waits already; now and then register a tool that is not there yet."""
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

    async def decide_pending(self) -> None:
        """Decide what waits for a decision, and answer what waits for an answer."""
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
        """The session's state, from whichever server answers."""
        return (await self._answered(self.session.get)).json()

    async def record(self, watcher: Watcher) -> SessionRecord:
        """All there is to audit of this user's session."""
        return await record_session(
            self.session,
            watcher,
            accepted=self.accepted,
            decisions=self.decisions,
            answers=self.answers,
            registered=self.registered,
            tools=(await self._answered(lambda: self.session.get("/tools"))).json()["tools"],
            ran=[call.body["callId"] for call in self.receiver.calls if call.body["sessionId"] == self.session.id],
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
        return await self._answered(lambda: self.session.post(action, body, Idempotency_Key=key))

    async def _answered(self, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        while True:
            with suppress(httpx.TransportError):
                await self.available.wait()
                answer = await ask()
                if answer.status_code != 503:
                    return answer
                assert answer.headers["retry-after"].isdecimal()
                self.unavailable += 1
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Totals:
    """How much was promised, and kept."""

    prompts: int = 0
    decisions: int = 0
    events: int = 0


@dataclass
class Workload:
    """`async with Crowd(gateway, receiver, chance, size) as crowd:` lets so many users live, each with a reader.

    Whoever takes the gateway away clears `up`, and sets it again. `finish` lets them come to an end; `judge` audits what
    they have been through.
    """

    gateway: GatewayProcess
    receiver: Receiver
    chance: random.Random
    size: int
    users: list[RandomUser] = field(default_factory=list[RandomUser])
    watchers: list[Watcher] = field(default_factory=list[Watcher])
    available: asyncio.Event = field(default_factory=asyncio.Event)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _living: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def __aenter__(self) -> Self:
        self.available.set()
        client = await self._stack.enter_async_context(self.gateway.client())
        for _ in range(self.size):
            talk = await Conversation.begin(client, tools=["ask_user"])
            user = RandomUser(talk, self.receiver, random.Random(self.chance.random()), self.available)  # noqa: S311
            await user.register_tools()
            self.users.append(user)
            self.watchers.append(await self._stack.enter_async_context(Watcher(talk)))
        self._living = [asyncio.create_task(user.run()) for user in self.users]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for living in self._living:
            living.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)
        await self._stack.aclose()

    async def finish(self) -> None:
        """Return when nobody has anything left to do."""
        for user in self.users:
            user.stopped = True
        await asyncio.gather(*self._living)
        await asyncio.gather(*(user.finish() for user in self.users))

    async def audit(self, tally: Totals) -> None:
        """Audit every session, and add what it came to."""
        for user, watcher in zip(self.users, self.watchers, strict=True):
            record = await user.record(watcher)
            assert audit(record) == []
            assert record.prompt_count == len(user.accepted), "each prompt has one effect, however often it is sent"
            tally.prompts += len(user.accepted)
            tally.decisions += len(user.decisions) + len(user.answers) + len(user.registered)
            tally.events += len(record.log)
