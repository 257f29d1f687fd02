"""Audits a simulated environment after every commit, and everything that a gateway shows to others."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, NoReturn

from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage, ToolCall
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.rows import SessionKey, StoredSession
from cmdc_gateway.store.writes import AppendEvents, DeleteSession, PutSession, Write

from cmdc_testkit.audit import SessionRecord, audit, audit_so_far
from cmdc_testkit.events import ReceivedEvent


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(slots=True)
class SessionPromises:
    """The responses and events that the clients of one session received, and the calls that reached a tool."""

    log: list[ReceivedEvent] = field(default_factory=list[ReceivedEvent])
    accepted: list[str] = field(default_factory=list[str])
    decisions: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    executed: list[str] = field(default_factory=list[str])
    streams: list[list[ReceivedEvent]] = field(default_factory=list[list[ReceivedEvent]])


class Auditor:
    """Compares what was promised with what is stored. Its methods raise Violation.

    A gateway that calls a method may handle the exception as its own failure, so violations are kept as well.
    """

    def __init__(self, disk: MemoryStore) -> None:
        self.violations: list[str] = []
        self.commits = 0
        self.calls = 0
        self.promises: defaultdict[str, SessionPromises] = defaultdict(SessionPromises)
        self.deleted: dict[SessionKey, TokenUsage] = {}
        self._disk = disk
        self._used: dict[SessionKey, TokenUsage] = {}
        self._history = sha256()

    @property
    def digest(self) -> str:
        """A hash of everything that happened. Two equal simulations have the same one."""
        return self._history.hexdigest()

    async def committed(self, writes: Sequence[Write]) -> None:
        """Audit the sessions that a committed transaction has changed."""
        self.commits += 1
        changed: dict[SessionKey, None] = {}
        for write in writes:
            match write:
                case AppendEvents(key, events):
                    self.promises[key.session_id].log += [received(event) for event in events]
                    changed[key] = None
                    self._note(*((event.seq, event.name, event.data) for event in events))
                case PutSession(row):
                    self._used[row.key] = row.usage
                case DeleteSession(key):
                    self.deleted[key] = self._used.get(key, TokenUsage())
                    self._note(key)
                case _:
                    pass
        for key in changed:
            stored = await self._disk.load(key)
            if stored is not None:
                self._require(key, self._errors(key, stored))

    def called(self, session_id: str, call: ToolCall) -> None:
        """A tool executes a call: its start is committed with these arguments, and it executes for the first time."""
        self.calls += 1
        self._note(session_id, call.id)
        if session_id in [key.session_id for key in self.deleted]:
            self.report(f"EP-delete: {call.id} executes, but its session was deleted")
        promised = self.promises[session_id]
        announced = [
            event.data["args"]
            for event in promised.log
            if event.name == "tool_execution_start" and event.data["callId"] == call.id
        ]
        if announced != [call.args]:
            self.report(f"EVT-8: {call.id} executes with {call.args}, and the log has {announced}")
        if call.id in promised.executed:
            self.report(f"EVT-4: {call.id} executes again")
        promised.executed.append(call.id)

    def delivered(self, session_id: str, events: Sequence[LoggedEvent]) -> None:
        """A reader receives events: they are stored."""
        log = self.promises[session_id].log
        for event in events:
            if event.seq > len(log) or not _same(log[event.seq - 1], received(event)):
                self.report(f"EVT-8: a reader received {event}, which is not stored")

    def decided(self, session_id: str, approval_id: str, status: str) -> None:
        """A decision returns 200: no other decision did."""
        before = self.promises[session_id].decisions.setdefault(approval_id, status)
        if before != status:
            self.report(f"APP-2: {approval_id} was {before} for one client and {status} for another")

    async def accepted(self, key: SessionKey, request_id: str, *, replayed: bool) -> None:
        """A prompt returns 202: it is stored."""
        promised = self.promises[key.session_id]
        if key in self.deleted or (replayed and request_id in promised.accepted):
            return
        if await self._disk.request(key, request_id) is None:
            self.report(f"DUR-5: {request_id} was accepted and is not stored")
        promised.accepted.append(request_id)

    async def finished(self, key: SessionKey) -> None:
        """A session has come to rest: audit it as a whole."""
        stored = await self._disk.load(key)
        assert stored is not None, "this session was not deleted"
        promised = self.promises[key.session_id]
        if stored.row.prompts != len(promised.accepted):
            self.report(f"HTTP-11: {len(promised.accepted)} prompts were accepted, and {stored.row.prompts} are stored")
        record = SessionRecord(
            log=promised.log,
            messages=[_message(message) for message in stored.messages],
            streams=promised.streams,
            accepted=promised.accepted,
            decisions=promised.decisions,
            answers=promised.answers,
            executed=promised.executed,
            prompt_count=stored.row.prompts,
            total_tokens=stored.row.usage.total_tokens,
        )
        self._require(key, audit(record))

    async def finished_all(self, tenant: str, keys: Sequence[SessionKey]) -> None:
        """The usage of a tenant is that of its sessions, including deleted ones (MTR-1)."""
        kept = [await self._disk.load(key) for key in keys if key not in self.deleted]
        used = sum(
            (stored.row.usage for stored in kept if stored is not None), sum(self.deleted.values(), TokenUsage())
        )
        charged = sum((row.usage for row in await self._disk.usage(tenant)), TokenUsage())
        if charged != used:
            self.report(f"MTR-1: {tenant} is charged {charged}, and its sessions used {used}")

    def report(self, violation: str) -> NoReturn:
        """Raise Violation."""
        self.violations.append(violation)
        raise Violation(violation)

    def _errors(self, key: SessionKey, stored: StoredSession) -> list[str]:
        promised = self.promises[key.session_id]
        record = SessionRecord(
            log=promised.log,
            messages=(),
            decisions=promised.decisions,
            answers=promised.answers,
            executed=promised.executed,
        )
        return audit_so_far(record) + row_errors(stored, promised.log)

    def _require(self, key: SessionKey, errors: list[str]) -> None:
        if errors:
            self.report(f"{key.session_id}: {'; '.join(errors)}")

    def _note(self, *what: object) -> None:
        self._history.update(repr(what).encode())


def row_errors(stored: StoredSession, log: Sequence[ReceivedEvent]) -> list[str]:
    """List the differences between a session's rows and its log."""
    errors: list[str] = []
    running = bool(log) and not log[-1].is_terminal
    active = [request for request in stored.requests if request.status == "active"]
    if [request.request_id for request in active] != ([log[-1].request_id] if running else []):
        errors.append(f"DUR-1: {len(active)} requests are active, and the log has {int(running)} open runs")
    approvals: dict[str, None] = {}
    questions: dict[str, None] = {}
    for event in log:
        match event.name:
            case "approval_required":
                approvals[event.data["approvalId"]] = None
            case "approval_resolved":
                approvals.pop(event.data["approvalId"], None)
            case "ask_user":
                questions[event.data["ref"]] = None
            case "tool_execution_end":
                questions.pop(f"ask_{event.data['callId']}", None)
            case _:
                pass
    if {row.approval_id for row in stored.approvals} != set(approvals):
        errors.append(f"APP-4: the log waits for {list(approvals)}, the rows for {stored.approvals}")
    if {row.ref for row in stored.questions} != set(questions):
        errors.append(f"ASK-1: the log waits for {list(questions)}, the rows for {stored.questions}")
    row = stored.row
    if (row.state == "idle") == running:
        errors.append(f"EP-session: the state is {row.state}, and the log has {int(running)} open runs")
    if row.prompts != stored.last_position:
        errors.append(f"MTR-1: {stored.last_position} prompts were accepted, and {row.prompts} counted")
    started = sum(event.name == "tool_execution_start" for event in log)
    if row.tool_calls != started:
        errors.append(f"EP-session: {started} calls started, and {row.tool_calls} are counted")
    return errors


def received(event: LoggedEvent) -> ReceivedEvent:
    """A logged event as clients receive it."""
    return _received(str(event.cursor), event.name, event.data.decode())


@lru_cache(maxsize=1 << 16)
def _received(event_id: str, name: str, raw: str) -> ReceivedEvent:
    return ReceivedEvent(name, json.loads(raw), event_id, raw)


def _same(one: ReceivedEvent, other: ReceivedEvent) -> bool:
    return (one.id, one.name, one.raw) == (other.id, other.name, other.raw)


def _message(message: Any) -> dict[str, Any]:
    return {
        "role": message.role,
        "content": message.content,
        **({"callId": message.call_id} if message.call_id else {}),
        "toolCalls": [{"callId": call.id} for call in message.tool_calls],
    }
