"""Somebody who uses a session without rest, whatever becomes of the server, and remembers what was promised."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import httpx

from cmdc_gateway.testing.audit import Record
from cmdc_gateway.testing.conversations import Conversation, calling, script
from cmdc_gateway.testing.receivers import Receiver
from cmdc_gateway.testing.watching import Watcher, record_of

_PATIENCE_SECONDS = 60


@dataclass
class User:
    """`live` prompts, decides, answers and registers at random until `stopped`; `finish` sees to what is left.

    What got no answer is sent again under its Idempotency-Key, once `up` says that there is a server. The tools are a
    `receiver`'s.
    """

    talk: Conversation
    receiver: Receiver
    chance: random.Random
    up: asyncio.Event
    most_queued: int = 5
    stopped: bool = False
    sent: int = 0
    accepted: list[str] = field(default_factory=list[str])
    decisions: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    registered: dict[str, str] = field(default_factory=dict[str, str])

    async def settle_in(self) -> None:
        """Register the tools that the prompts use."""
        await self._register("count")
        await self._register("guarded", requiresApproval=True)

    async def live(self) -> None:
        while not self.stopped:
            await self.prompt()
            for _ in range(self.chance.randrange(4)):
                await self.see_to_what_waits()
                await asyncio.sleep(self.chance.uniform(0, 0.05))

    async def finish(self) -> None:
        """See to what waits until nothing is left to do."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while (info := await self.info())["state"] != "idle" or info["queue"]:
                await self.see_to_what_waits()
                await asyncio.sleep(0.02)

    async def prompt(self) -> None:
        """Say something, unless enough waits already; now and then register a tool that is not there yet."""
        if len((await self.info())["queue"]) > self.most_queued:
            return
        if self.chance.random() < 0.2:
            await self._register(f"spare{self.chance.randrange(3)}")
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
        while True:
            try:
                await self.up.wait()
                return await self.talk.info()
            except httpx.TransportError:
                await asyncio.sleep(0.01)

    async def record(self, watcher: Watcher) -> Record:
        """All there is to audit of this user's session."""
        return await record_of(
            self.talk,
            watcher,
            accepted=self.accepted,
            decisions=self.decisions,
            answers=self.answers,
            registered=self.registered,
            tools=(await self.talk.get("/tools")).json()["tools"],
            ran=[call.body["callId"] for call in self.receiver.calls if call.body["sessionId"] == self.talk.id],
        )

    async def _register(self, name: str, **more: Any) -> None:
        description = f"Version {self.sent}."
        tool = {"name": name, "description": description, "parameters": {"type": "object"}, **more}
        answer = await self._post("tools", {**tool, "callbackUrl": self.receiver.url})
        assert answer.status_code == 201, answer.text
        self.registered[name] = description

    async def _post(self, action: str, body: dict[str, Any]) -> httpx.Response:
        self.sent += 1
        key = f"{self.talk.id}-{self.sent}"
        while True:
            try:
                await self.up.wait()
                return await self.talk.post(action, body, Idempotency_Key=key)
            except httpx.TransportError:
                await asyncio.sleep(0.01)
