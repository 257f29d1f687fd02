"""The oracle of a simulation: checks the state after every commit, and everything that clients and tools observe."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NoReturn

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage, ToolCall
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import AppendEvents, DeleteSession, PutSession, SessionKey, StoredSession, Write

from cmdc_testkit.audit import Frame, Record, audit, audit_so_far


class Violation(AssertionError):
    """A rule was violated."""


@dataclass(slots=True)
class Promises:
    """What the clients of a session were told, and the calls its tools received."""

    frames: list[Frame] = field(default_factory=list[Frame])
    accepted: list[str] = field(default_factory=list[str])
    decisions: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    ran: list[str] = field(default_factory=list[str])
    seen: list[list[Frame]] = field(default_factory=list[list[Frame]])


class Judge:
    """Compares promises with the stored state. Its methods raise Violation.

    A gateway may catch that exception as a failure of its own, so violations are also collected in `broken`.
    """

    def __init__(self, disk: MemoryStore) -> None:
        self.broken: list[str] = []
        self.commits = 0
        self.calls = 0
        self.promises: defaultdict[str, Promises] = defaultdict(Promises)
        self.deleted: dict[SessionKey, TokenUsage] = {}
        self._disk = disk
        self._used: dict[SessionKey, TokenUsage] = {}
        self._digest = sha256()

    @property
    def story(self) -> str:
        """A digest of the whole simulation; equal for equal replays."""
        return self._digest.hexdigest()

    async def committed(self, writes: Sequence[Write]) -> None:
        """Check the consistency of the stored state after a commit."""
        self.commits += 1
        touched: dict[SessionKey, None] = {}
        for write in writes:
            match write:
                case AppendEvents(key, events):
                    self.promises[key.session_id].frames += [_frame(event) for event in events]
                    touched[key] = None
                    self._record(*((event.seq, event.name, event.data) for event in events))
                case PutSession(row):
                    self._used[row.key] = row.usage
                case DeleteSession(key):
                    self.deleted[key] = self._used.get(key, TokenUsage())
                    self._record(key)
                case _:
                    pass
        for key in touched:
            stored = await self._disk.load(key)
            if stored is not None:
                self._hold(key, await self._violations(key, stored))

    def called(self, session_id: str, call: ToolCall) -> None:
        """Check that a tool call was committed with these arguments and runs for the first time."""
        self.calls += 1
        self._record(session_id, call.id)
        if session_id in [key.session_id for key in self.deleted]:
            self.found(f"EP-delete: {call.id} runs although its session was deleted")
        promised = self.promises[session_id]
        shown = [
            frame.fields["args"]
            for frame in promised.frames
            if frame.event == "tool_execution_start" and frame.fields["callId"] == call.id
        ]
        if shown != [call.args]:
            self.found(f"EVT-8: {call.id} runs with {call.args}, but the log has {shown}")
        if call.id in promised.ran:
            self.found(f"EVT-4: {call.id} runs again")
        promised.ran.append(call.id)

    def shown(self, session_id: str, events: Sequence[LoggedEvent]) -> None:
        """Check events that a reader received."""
        log = self.promises[session_id].frames
        for event in events:
            if event.seq > len(log) or log[event.seq - 1] != _frame(event):
                self.found(f"EVT-8: a reader was shown {event}, which the disk does not have")

    def decided(self, session_id: str, approval_id: str, status: str) -> None:
        """Record a decision that a client was told succeeded."""
        before = self.promises[session_id].decisions.setdefault(approval_id, status)
        if before != status:
            self.found(f"APP-2: {approval_id} was {before} for one client and {status} for another")

    async def accepted(self, key: SessionKey, request_id: str, *, again: bool) -> None:
        """Record a prompt that a client was told was accepted."""
        promised = self.promises[key.session_id]
        if key in self.deleted or (again and request_id in promised.accepted):
            return
        if await self._disk.request(key, request_id) is None:
            self.found(f"DUR-5: {request_id} was accepted, and the disk does not have it")
        promised.accepted.append(request_id)

    async def at_rest(self, key: SessionKey) -> None:
        """Audit a session at the end of the simulation."""
        stored = await self._disk.load(key)
        assert stored is not None, "only sessions that were not deleted are audited"
        promised = self.promises[key.session_id]
        if stored.row.prompts != len(promised.accepted):
            sent = len(promised.accepted)
            self.found(
                f"HTTP-11: {sent} prompts were sent until they were accepted, and {stored.row.prompts} are there"
            )
        record = Record(
            log=promised.frames,
            messages=[_message(message) for message in stored.messages],
            seen=promised.seen,
            accepted=promised.accepted,
            decisions=promised.decisions,
            answers=promised.answers,
            ran=promised.ran,
            prompt_count=stored.row.prompts,
            total_tokens=stored.row.usage.total_tokens,
        )
        self._hold(key, audit(record))

    async def all_counted(self, tenant: str, keys: Sequence[SessionKey]) -> None:
        """Check that the tenant is charged for exactly the usage of its sessions, including deleted ones (MTR-1)."""
        rows = [await self._disk.session(key) for key in keys if key not in self.deleted]
        own = sum((row.usage for row in rows if row is not None), sum(self.deleted.values(), TokenUsage()))
        charged = sum((row.usage for row in await self._disk.usage(tenant)), TokenUsage())
        if charged != own:
            self.found(f"MTR-1: {tenant} is charged {charged}, its sessions {own}")

    async def _violations(self, key: SessionKey, stored: StoredSession) -> list[str]:
        promised = self.promises[key.session_id]
        record = Record(
            log=promised.frames,
            messages=(),
            decisions=promised.decisions,
            answers=promised.answers,
            ran=promised.ran,
        )
        return audit_so_far(record) + rows(stored, promised.frames)

    def _hold(self, key: SessionKey, violations: list[str]) -> None:
        if violations:
            self.found(f"{key.session_id}: {'; '.join(violations)}")

    def found(self, violation: str) -> NoReturn:
        """Raise Violation."""
        self.broken.append(violation)
        raise Violation(violation)

    def _record(self, *what: object) -> None:
        self._digest.update(repr(what).encode())


def rows(stored: StoredSession, frames: Sequence[Frame]) -> list[str]:
    """Return the contradictions between a session's rows and its log."""
    violations: list[str] = []
    running = bool(frames) and frames[-1].event not in ("agent_end", "agent_abort")
    active = [request for request in stored.requests if request.status == "active"]
    if [request.request_id for request in active] != ([frames[-1].fields["requestId"]] if running else []):
        violations.append(
            f"DUR-1: {len(active)} active requests, and the log {'has' if running else 'has no'} open run"
        )
    asked: dict[str, None] = {}
    questions: dict[str, None] = {}
    for frame in frames:
        match frame.event:
            case "approval_required":
                asked[frame.fields["approvalId"]] = None
            case "approval_resolved":
                asked.pop(frame.fields["approvalId"], None)
            case "ask_user":
                questions[frame.fields["ref"]] = None
            case "tool_execution_end":
                questions.pop(f"ask_{frame.fields['callId']}", None)
            case _:
                pass
    if {row.approval_id for row in stored.approvals} != set(asked):
        violations.append(f"APP-4: the log waits for {list(asked)}, the rows for {stored.approvals}")
    if {row.ref for row in stored.questions} != set(questions):
        violations.append(f"ASK-1: the log waits for {list(questions)}, the rows for {stored.questions}")
    row = stored.row
    if (row.state == "idle") == running:
        violations.append(f"EP-session: the state is {row.state}, and a run is {'open' if running else 'not open'}")
    if row.prompts != stored.last_position:
        violations.append(f"MTR-1: {stored.last_position} prompts were accepted, but {row.prompts} are counted")
    started = sum(frame.event == "tool_execution_start" for frame in frames)
    if row.tool_calls != started:
        violations.append(f"EP-session: {started} calls ran, but {row.tool_calls} are counted")
    return violations


def _frame(event: LoggedEvent) -> Frame:
    return Frame(str(event.cursor), event.name, event.data.decode())


def _message(message: Any) -> dict[str, Any]:
    return {
        "role": message.role,
        "content": message.content,
        **({"callId": message.call_id} if message.call_id else {}),
        "toolCalls": [{"callId": call.id} for call in message.tool_calls],
    }


def body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a response."""
    return json.loads(raw)
