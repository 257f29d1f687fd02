"""What is judged on every answer and every connection, whatever the check is about.

A monitor's finding belongs to its own requirement, not to the check that was under way.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cmdc_conformance import schemas
from cmdc_conformance.evidence import Redactor

# The requirements that monitors judge. Some of them have a check too, which provokes what they look at.
MONITORED: Final[Mapping[str, str]] = {
    "HTTP-1.json": "the declared type and the form of every answer",
    "HTTP-1.fields": "every answer against the contract",
    "HTTP-2.body": "every error answer",
    "HTTP-2.leak": "every answer and event, for the keys and secrets of the run and for stack traces",
    "EVT-1.grammar": "every run that was read whole",
    "EVT-1.blocks": "every run that was read whole",
    "EVT-2.terminal": "every run that was read whole",
    "EVT-4.pairs": "every run that was read whole",
    "EVT-4.unique": "every session",
    "EVT-9.approvals": "every run that was read whole",
    "EVT-9.calls": "every run that was read whole",
    "EVT-5.schema": "every event against the contract",
    "EVT-5.same": "every event that came over both transports",
    "EVT-5.request-id": "every run that was read whole",
    "EVT-7.gapless": "every connection that was not filtered",
    "EVT-7.identical": "every event that came more than once",
    "SSE-2": "every stream, byte for byte",
    "SSE-3.harmless": "every stream, byte for byte",
    "SSE-9.own": "the first event of every run",
}

Transport = Literal["sse", "ws", "page"]

_STACK_TRACE: Final = re.compile(
    r"Traceback \(most recent call last\)|File \"[^\"]+\", line \d+, in |\n\s+at [\w.$<>]+\([\w/.:]+:\d+\)|goroutine \d+ \["
    r"|panicked at [\w/.]+:\d+|\*\* \(\w+Error\)"
)
_CURSOR: Final = re.compile(r"([0-9a-z]{1,32})\.(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Violation:
    """A requirement that a monitor saw broken, and the check during which it did."""

    requirement: str
    message: str
    check: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came; `raw` is its data byte for byte, where the transport shows it."""

    name: str
    data: Mapping[str, Any]
    id: str | None = None
    raw: str | None = None

    @property
    def seq(self) -> int:
        found = _CURSOR.fullmatch(self.id or "")
        return int(found[2]) if found else 0

    @property
    def is_terminal(self) -> bool:
        return self.name in schemas.TERMINAL

    def __str__(self) -> str:
        return f"{self.id or '-'} {self.name} {json.dumps(self.data, ensure_ascii=False)}"


@dataclass(slots=True)
class SessionNotes:
    """What is known of one session from outside."""

    texts: set[str] = field(default_factory=set[str])
    known: dict[str, tuple[Transport, str | None, str]] = field(
        default_factory=dict[str, "tuple[Transport, str | None, str]"]
    )
    calls: dict[str, str] = field(default_factory=dict[str, str])


Report = Callable[[str, str], None]


class Monitors:
    """Looks at everything that comes. `report` is told the requirement and what was seen."""

    def __init__(self, redactor: Redactor, *, extended: bool) -> None:
        self.extended = extended
        self.observed: Counter[str] = Counter()
        self.coverage: dict[str, Counter[str]] = defaultdict(Counter)
        self._redactor = redactor
        self._sessions: dict[str, SessionNotes] = defaultdict(SessionNotes)

    def session(self, key: str) -> SessionNotes:
        """The notes on a session; `key` tells sessions of the same id of two tenants apart."""
        return self._sessions[key]

    def forget(self, key: str) -> None:
        """The session was deleted: another of its id is another session."""
        self._sessions.pop(key, None)

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(
        self, report: Report, route: str | None, status: int, headers: Mapping[str, str], body: bytes, *, secret: bool
    ) -> None:
        """Judge an answer. `secret` says that it may hold a secret, because it is the one that tells it."""
        text = body.decode("utf-8", "replace")
        if not secret:
            self.leaks(report, text)
        if status >= 400 or (route and not route.endswith((".json", "/docs"))):
            self._json(report, route, status, headers, body)

    def leaks(self, report: Report, text: str) -> None:
        """Judge whether a text holds what it must not."""
        self.observed["HTTP-2.leak"] += 1
        if self._redactor.found_in(text):
            report("HTTP-2.leak", "a secret came out of the server")
        if _STACK_TRACE.search(text):
            report("HTTP-2.leak", "an answer holds a stack trace")

    def _json(self, report: Report, route: str | None, status: int, headers: Mapping[str, str], body: bytes) -> None:
        kind = headers.get("content-type", "")
        if status in (204, 304) or (not body and kind == ""):
            return
        self.observed["HTTP-1.json"] += 1
        if kind.replace(" ", "").lower() not in ("application/json", "application/json;charset=utf-8"):
            report("HTTP-1.json", f"{route or 'an answer'} ({status}) is declared as {kind!r}")
            return
        try:
            value = json.loads(body.decode("utf-8"))
        except ValueError as flaw:
            report("HTTP-1.json", f"{route or 'an answer'} ({status}) is not JSON in UTF-8: {flaw}")
            return
        if not isinstance(value, dict):
            report("HTTP-1.json", f"{route or 'an answer'} ({status}) is not an object")
        elif status >= 400:
            self.error(report, route, status, value)  # pyright: ignore[reportUnknownArgumentType]
        elif route:
            self.fields(report, route, status, value)

    def error(self, report: Report, route: str | None, status: int, body: Mapping[str, Any]) -> None:
        """Judge an error body."""
        self.observed["HTTP-2.body"] += 1
        code, message = body.get("error"), body.get("message")
        if not isinstance(code, str) or not isinstance(message, str) or not message:
            report("HTTP-2.body", f"{route or 'an error'} ({status}) has no `error` and `message`")
        elif schemas.STATUS_OF.get(code) != status:
            report("HTTP-2.body", f"{route or 'an error'}: the code {code!r} came with status {status}")

    def fields(self, report: Report, route: str, status: int, body: Any) -> None:
        """Judge the body of a success against the contract."""
        flaws = schemas.answer_flaws(route, status, extended=self.extended)
        if flaws is None:
            return
        self.observed["HTTP-1.fields"] += 1
        for flaw in flaws(body):
            report("HTTP-1.fields", f"{route} ({status}): {flaw}")

    # -- events --------------------------------------------------------------------------------------------------------

    def event(self, report: Report, key: str, event: Event, transport: Transport, via: str = "raw") -> None:
        """Judge one event of a session."""
        self.coverage[event.name][f"{via}/{transport}"] += 1
        if via == "sdk":
            return
        self.observed["EVT-5.schema"] += 1
        wire = {"event": event.name, "data": event.data, **({"id": event.id} if event.id is not None else {})}
        for flaw in schemas.event_flaws(extended=self.extended)(wire):
            report("EVT-5.schema", f"{event.name}: {flaw}")
        self.leaks(report, event.raw or json.dumps(event.data, ensure_ascii=False))
        notes = self.session(key)
        if event.id is not None:
            self._repeated(report, notes, event, transport)
        if event.name == "prompt_received" and notes.texts:
            self.observed["SSE-9.own"] += 1
            if event.data.get("text") not in notes.texts:
                report("SSE-9.own", f"a reader got a run of another session: {event.data.get('text')!r:.200}")

    def _repeated(self, report: Report, notes: SessionNotes, event: Event, transport: Transport) -> None:
        assert event.id is not None
        said = json.dumps([event.name, event.data], sort_keys=True)
        before = notes.known.setdefault(event.id, (transport, event.raw, said))
        if before == (transport, event.raw, said) and before[0] == transport:
            self.observed["EVT-7.identical"] += 1
            return
        same_kind = before[0] == transport
        if before[2] != said:
            which = "EVT-7.identical" if same_kind else "EVT-5.same"
            report(which, f"{event.id} was {before[2][:300]} on {before[0]}, and is {said[:300]} on {transport}")
        elif same_kind and before[1] is not None and event.raw is not None and before[1] != event.raw:
            report("EVT-7.identical", f"{event.id} was sent as {before[1][:300]}, and then as {event.raw[:300]}")
        self.observed["EVT-7.identical" if same_kind else "EVT-5.same"] += 1

    def order(self, report: Report, before: str | None, event: Event) -> None:
        """Judge the id of an event that comes right after another, on a connection that is not filtered."""
        if not self.extended or before is None:
            return
        self.observed["EVT-7.gapless"] += 1
        old, new = _CURSOR.fullmatch(before), _CURSOR.fullmatch(event.id or "")
        if not new:
            report("EVT-7.gapless", f"{event.name} has the id {event.id!r}")
        elif old and (new[1] != old[1] or int(new[2]) != int(old[2]) + 1):
            report("EVT-7.gapless", f"after {before} came {event.id}")

    def run(self, report: Report, key: str, events: Sequence[Event]) -> None:
        """Judge a run that was read whole."""
        for requirement in ("EVT-1.grammar", "EVT-1.blocks", "EVT-2.terminal"):
            self.observed[requirement] += 1
        if any(event.name == "tool_execution_start" for event in events):
            self.observed["EVT-4.pairs"] += 1
            self.observed["EVT-4.unique"] += 1
        for requirement, message in run_flaws(events):
            report(requirement, message)
        if self.extended:
            self.observed["EVT-5.request-id"] += 1
            of = {event.data.get("requestId") for event in events}
            if len(of) != 1 or not all(isinstance(each, str) and each for each in of):
                report("EVT-5.request-id", f"the events of one run have the requestIds {of}")
        calls = self.session(key).calls
        # A base server names no run; read over both transports, one of the same text is the same.
        run = str(events[0].data.get("requestId") or events[0].id or events[0].data.get("text")) if events else ""
        for event in events:
            if event.name == "tool_execution_start":
                call = str(event.data.get("callId"))
                if calls.setdefault(call, run) != run:
                    report("EVT-4.unique", f"callId {call} is used in two runs")


def run_flaws(events: Sequence[Event]) -> list[tuple[str, str]]:
    """What is wrong with the order of a whole run's events, and by which requirement."""
    names = [event.name for event in events]
    flaws: list[tuple[str, str]] = []
    if names[:2] != ["prompt_received", "agent_start"]:
        flaws.append(("EVT-1.grammar", f"a run begins with {', '.join(names[:2]) or 'nothing'}"))
    if names.count("prompt_received") > 1 or names.count("agent_start") > 1:
        flaws.append(("EVT-1.grammar", "a run begins twice"))
    ends = [index for index, event in enumerate(events) if event.is_terminal]
    if ends != [len(events) - 1]:
        flaws.append(
            ("EVT-2.terminal", f"a run has {len(ends)} terminal events, and {names[-1:] or 'nothing'} is last")
        )
    return [*flaws, *_blocks(names), *_calls(events)]


def _blocks(names: Sequence[str]) -> list[tuple[str, str]]:
    flaws: list[tuple[str, str]] = []
    block, pieces, asked = "", 1, False
    for name in names:
        kind, _, part = name.partition("_")
        if kind in ("thinking", "message") and part == "start":
            if block == kind and not asked:
                flaws.append(("EVT-1.blocks", f"two blocks of {kind} follow each other"))
            if not pieces:
                flaws.append(("EVT-1.blocks", f"a block of {block} is empty"))
            block, pieces, asked = kind, 0, False
        elif kind in ("thinking", "message") and part == "delta":
            if block != kind or asked:
                flaws.append(("EVT-1.blocks", f"{name} stands in no block of its kind"))
                block, asked = kind, False
            pieces += 1
        elif name == "tool_calls":
            asked = True
    if not pieces:
        flaws.append(("EVT-1.blocks", f"a block of {block} is empty"))
    return flaws


@dataclass(slots=True)
class _Step:
    """The calls of one step, by what has happened to them so far."""

    asked: int = 0
    approvals: dict[str, str] = field(default_factory=dict[str, str])
    open: set[str] = field(default_factory=set[str])
    seen: int = 0
    refused: int = 0


def _calls(events: Sequence[Event]) -> list[tuple[str, str]]:
    flaws: list[tuple[str, str]] = []
    step = _Step()
    started: set[str] = set()

    def wrong(requirement: str, message: str) -> None:
        flaws.append((requirement, message))

    for event in events:
        data = event.data
        match event.name:
            case "tool_calls":
                _close(step, wrong, "the next step")
                step = _Step(asked=data.get("count", 0))
            case "approval_required":
                step.approvals[str(data.get("approvalId"))] = "open"
                step.seen += 1
            case "approval_resolved":
                if step.approvals.get(str(data.get("approvalId"))) != "open":
                    wrong("EVT-1.grammar", f"approval_resolved for {data.get('approvalId')}, which does not wait")
                step.approvals[str(data.get("approvalId"))] = str(data.get("status"))
                if data.get("status") == "approved":
                    step.seen -= 1  # its start counts
            case "tool_execution_start":
                call = str(data.get("callId"))
                if call in started:
                    wrong("EVT-4.unique", f"call {call} has started twice")
                started.add(call)
                step.open.add(call)
                step.seen += 1
            case "tool_execution_end":
                if data.get("callId") not in step.open:
                    wrong("EVT-4.pairs", f"call {data.get('callId')} has ended, and was not running")
                step.open.discard(str(data.get("callId")))
            case "ask_user" if not step.open:
                wrong("EVT-1.grammar", "ask_user stands in no running call")
            case "thinking_start" | "message_start" | "agent_end" | "agent_abort":
                _close(step, wrong, event.name)
            case _:
                pass
        if step.seen > step.asked and event.name in ("approval_required", "tool_execution_start"):
            wrong("EVT-1.grammar", f"more calls than tool_calls counted ({step.asked})")
    return flaws


def _close(step: _Step, wrong: Callable[[str, str], None], before: str) -> None:
    stopped = before == "agent_abort"
    for call in step.open:
        wrong("EVT-9.calls" if stopped else "EVT-4.pairs", f"call {call} has started, and did not end before {before}")
    for approval, status in step.approvals.items():
        if status == "open":
            which = "EVT-9.approvals" if stopped else "EVT-1.grammar"
            wrong(which, f"approval {approval} was not resolved before {before}")
    step.open.clear()
    step.approvals.clear()
