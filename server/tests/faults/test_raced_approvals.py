"""Experiment 10: four clients race for an approval: approve, edit, reject, abort, replace the tool; or it expires."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_testkit.audit import audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, record_session, wait_until_idle

CLIENTS = 4
CRASH_RATIO = 0.04
RACES_PER_SESSION = 30
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
DECISION = {"approve": "approved", "edit": "approved", "reject": "rejected"}


@dataclass
class Race:
    """One approval, the clients' requests, and their responses."""

    talk: Conversation
    receiver: Receiver
    number: int
    approval: dict[str, Any] = field(default_factory=dict[str, Any])
    won: Counter[str] = field(default_factory=Counter[str])
    edits: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    lost: Counter[str] = field(default_factory=Counter[str])

    @property
    def approval_id(self) -> str:
        return self.approval["approvalId"]

    async def run(self, up: asyncio.Event, who: int, what: str, after: float) -> None:
        """Send one client's request, and repeat it under its key if a crash prevented the response."""
        await asyncio.sleep(after)
        key = f"{self.talk.id}-{self.number}-{who}"
        act = {"approve": self.approve, "edit": self.edit, "reject": self.reject}.get(what)
        while True:
            with suppress(httpx.TransportError):
                await up.wait()
                if what == "abort":
                    answer = await self.talk.post("abort", Idempotency_Key=key)
                elif what == "register":
                    answer = await register(self.talk, self.receiver, key=key)
                else:
                    assert act is not None, "it is a decision"
                    answer = await act(key, who)
                if answer.status_code != 503:
                    break
            await asyncio.sleep(0.01)
        self.add_response(what, who, answer)

    def add_response(self, what: str, who: int, answer: httpx.Response) -> None:
        if what not in DECISION:
            assert answer.status_code in (200, 201, 202), answer.text
        elif answer.status_code == 200:
            self.won[DECISION[what]] += 1
            if what == "edit":
                self.edits.append(self.edited(who))
        else:
            assert (answer.status_code, answer.json()["error"]) == (409, "already_resolved"), answer.text
            self.lost[answer.json()["status"]] += 1

    def edited(self, who: int) -> dict[str, Any]:
        return {"n": 1000 + who % 2}  # two of the clients send the same edit

    async def approve(self, key: str, _: int) -> httpx.Response:
        body = {"approvalId": self.approval_id, "digest": self.approval["digest"]}
        return await self.talk.post("approve", body, Idempotency_Key=key)

    async def edit(self, key: str, who: int) -> httpx.Response:
        body = {"approvalId": self.approval_id, "args": self.edited(who)}
        return await self.talk.post("approve", body, Idempotency_Key=key)

    async def reject(self, key: str, _: int) -> httpx.Response:
        return await self.talk.post("reject", {"approvalId": self.approval_id}, Idempotency_Key=key)

    def check(self, watcher: Watcher, calls: list[dict[str, Any]]) -> str:
        """Compare the responses, the log and the tool's calls; return the approval's status."""
        call_id = self.approval["callId"]
        seen = [frame for frame in watcher.events if call_id in frame.raw]
        statuses = [frame.data["status"] for frame in seen if frame.name == "approval_resolved"]
        started = [frame.data["args"] for frame in seen if frame.name == "tool_execution_start"]
        executed = [call["args"] for call in calls if call["callId"] == call_id]
        assert len(statuses) == 1, f"{self.approval_id} was resolved {statuses}"
        assert set(self.won) <= set(statuses), f"one winner: {self.won}, and the log says {statuses}"
        assert set(self.lost) <= set(statuses), f"the losers received {self.lost}, and the log says {statuses}"
        assert len(executed) <= 1, f"{call_id} was executed {len(executed)} times"
        assert executed in ([], started), f"executed {executed}, and shown {started}"
        if statuses != ["approved"]:
            assert started == [], f"{call_id} was {statuses[0]} and started"
        # A crash or an abort may prevent an approved call from starting.
        if started and self.edits:
            assert all(edit == started[0] for edit in self.edits), f"approved {self.edits}, executed {started}"
        elif started:
            assert started == [self.approval["args"]], f"approved {self.approval['args']}, executed {started}"
        return statuses[0]


async def register(talk: Conversation, receiver: Receiver, key: str = "first") -> httpx.Response:
    tool = {"name": "guarded", "description": "", "parameters": PARAMETERS, "callbackUrl": receiver.url}
    return await talk.post("tools", {**tool, "requiresApproval": True}, Idempotency_Key=key)


class Races:
    """Consecutive races on one gateway."""

    def __init__(self, gateway: GatewayProcess, client: httpx.AsyncClient, receiver: Receiver, rng: random.Random):
        self.outcomes: Counter[str] = Counter()
        self.crashes = 0
        self.late = 0
        self._gateway = gateway
        self._client = client
        self._receiver = receiver
        self._rng = rng
        self._up = asyncio.Event()
        self._up.set()

    async def run(self, races: int) -> None:
        """Run races on one session and audit it."""
        timeout_ms = self._rng.choice((0, 8, 15, 30))
        talk = await Conversation.begin(self._client, approval={"tools": [], "timeoutMs": timeout_ms})
        assert (await register(talk, self._receiver)).status_code == 201
        decisions: dict[str, str] = {}
        async with Watcher(talk) as watcher:
            for number in range(1, races + 1):
                race = Race(talk, self._receiver, number)
                await self._race(race, watcher)
                status = race.check(watcher, [call.body for call in self._receiver.calls])
                self.outcomes[status] += 1
                self.late += race.lost.total()
                if race.won:
                    decisions[race.approval_id] = status
            ran = [call.body["callId"] for call in self._receiver.calls]
            record = await record_session(talk, watcher, decisions=decisions, executed=ran)
        assert audit(record) == []
        self._receiver.calls.clear()

    async def _race(self, race: Race, watcher: Watcher) -> None:
        await race.talk.prompt(script(calling(("guarded", {"n": race.number}))))
        race.approval = dict(await watcher.until("approval_required", race.number))
        actions = self._rng.choices(("approve", "edit", "reject", "abort", "register"), (4, 4, 4, 1, 2), k=CLIENTS)
        spread = self._rng.choice((0, 0.002, 0.02))
        crash = self._crash(self._rng.uniform(0, 0.01)) if self._rng.random() < CRASH_RATIO else None
        parts: list[Awaitable[None]] = [
            race.run(self._up, who, what, self._rng.uniform(0, spread)) for who, what in enumerate(actions)
        ]
        await asyncio.gather(*parts, *([crash] if crash else []))
        if crash:
            await watcher.wait_until_disconnected()
            await watcher.resume()
        await self._finish(race)
        await watcher.until("approval_resolved", race.number)
        await wait_until_idle(race.talk)

    async def _crash(self, after: float) -> None:
        self.crashes += 1
        await asyncio.sleep(after)
        self._up.clear()
        await self._gateway.kill()
        await self._gateway.start()
        self._up.set()

    async def _finish(self, race: Race) -> None:
        """Reject the approval if it is still pending."""
        for pending in (await race.talk.info())["pendingApprovals"]:
            answer = await race.talk.post("reject", {"approvalId": pending["approvalId"]})
            assert answer.status_code in (200, 409), answer.text


@pytest.mark.timeout(180)
async def test_one_decision_wins_and_an_approved_call_executes_once(
    tmp_path: Path, receiver: Receiver, experiment: Experiment
) -> None:
    """APP-1 … APP-4, EVT-4, EVT-9, DUR-1."""
    races = experiment.trials(short=60, long=2_000)
    async with GatewayProcess(tmp_path, forked=True) as gateway, gateway.client() as client:
        course = Races(gateway, client, receiver, experiment.random)
        for begun in range(0, races, RACES_PER_SESSION):
            await course.run(min(RACES_PER_SESSION, races - begun))
    experiment.record("races", races)
    experiment.record("statuses", ", ".join(f"{status} {count}" for status, count in course.outcomes.most_common()))
    experiment.record("late decisions", course.late)
    experiment.record("crashes", course.crashes)
    experiment.record("executed twice, without approval, or with other arguments", 0)
