"""Validation of every response and every connection, independent of the check that is running.

A violation that a monitor sees belongs to the monitor's requirement, not to the check's.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cmdc_conformance import schemas
from cmdc_conformance.evidence import Redactor
from cmdc_conformance.wire.event import CURSOR, Event, Transport
from cmdc_conformance.wire.grammar import grammar_errors

# The requirements that monitors cover, and what they look at. Some also have a check, which provokes the situation.
MONITORED: Final[Mapping[str, str]] = {
    "HTTP-1.json": "the declared type and the encoding of every response",
    "HTTP-1.fields": "every response, against the contract",
    "HTTP-2.body": "every error response",
    "HTTP-2.leak": "every response and event, for keys, secrets and stack traces",
    "EVT-1.grammar": "every run that was read completely",
    "EVT-1.blocks": "every run that was read completely",
    "EVT-2.terminal": "every run that was read completely",
    "EVT-4.pairs": "every run that was read completely",
    "EVT-4.unique": "every session",
    "EVT-9.approvals": "every run that was read completely",
    "EVT-9.calls": "every run that was read completely",
    "EVT-5.schema": "every event, against the contract",
    "EVT-5.same": "every event that was received over both transports",
    "EVT-5.request-id": "every run that was read completely",
    "EVT-7.gapless": "every unfiltered connection",
    "EVT-7.identical": "every event that was received more than once",
    "SSE-2": "every stream, byte for byte",
    "SSE-2.stock": "every stream, read again by a stock parser",
    "SSE-3.harmless": "every stream, byte for byte",
    "SSE-9.own": "the first event of every run",
}

_STACK_TRACE: Final = re.compile(
    r"Traceback \(most recent call last\)|File \"[^\"]+\", line \d+, in |\n\s+at [\w.$<>]+\([\w/.:]+:\d+\)|goroutine \d+ \["
    r"|panicked at [\w/.]+:\d+|\*\* \(\w+Error\)"
)

Report = Callable[[str, str], None]
"""Called with a requirement and a message."""


@dataclass(slots=True)
class SessionRecord:
    """What the monitors remember about one session: prompts sent, events by id, and the run of each call."""

    texts: set[str] = field(default_factory=set[str])
    known: dict[str, tuple[Transport, str | None, str]] = field(
        default_factory=dict[str, "tuple[Transport, str | None, str]"]
    )
    calls: dict[str, str] = field(default_factory=dict[str, str])


class Monitors:
    """The monitors of one suite run. `observed` counts how often each had something to validate."""

    def __init__(self, redactor: Redactor, *, extended: bool) -> None:
        self.extended = extended
        self.observed: Counter[str] = Counter()
        self.coverage: dict[str, Counter[str]] = defaultdict(Counter)
        self._redactor = redactor
        self._sessions: dict[str, SessionRecord] = defaultdict(SessionRecord)

    def session(self, key: str) -> SessionRecord:
        """The record of a session. `key` distinguishes sessions of two tenants with the same id."""
        return self._sessions[key]

    def forget(self, key: str) -> None:
        """Drop the record of a deleted session, because its id may be reused."""
        self._sessions.pop(key, None)

    # -- responses -----------------------------------------------------------------------------------------------------

    def response(
        self, report: Report, route: str | None, status: int, headers: Mapping[str, str], body: bytes, *, secret: bool
    ) -> None:
        """Validate a response. `secret` marks the one response that is meant to contain a secret."""
        text = body.decode("utf-8", "replace")
        if not secret:
            self.leaks(report, text)
        if status >= 400 or (route and not route.endswith((".json", "/docs"))):
            self._json(report, route, status, headers, body)

    def leaks(self, report: Report, text: str) -> None:
        """Validate that a text contains no secret and no stack trace."""
        self.observed["HTTP-2.leak"] += 1
        if self._redactor.found_in(text):
            report("HTTP-2.leak", "the server returned a secret")
        if _STACK_TRACE.search(text):
            report("HTTP-2.leak", "a response contains a stack trace")

    def _json(self, report: Report, route: str | None, status: int, headers: Mapping[str, str], body: bytes) -> None:
        kind = headers.get("content-type", "")
        if status in (204, 304) or (not body and kind == ""):
            return
        self.observed["HTTP-1.json"] += 1
        what = f"{route or 'a response'} ({status})"
        if kind.replace(" ", "").lower() not in ("application/json", "application/json;charset=utf-8"):
            report("HTTP-1.json", f"{what} has Content-Type {kind!r}")
            return
        try:
            value = json.loads(body.decode("utf-8"))
        except ValueError as error:
            report("HTTP-1.json", f"{what} is not JSON in UTF-8: {error}")
            return
        if not isinstance(value, dict):
            report("HTTP-1.json", f"{what} is not an object")
        elif status >= 400:
            self._error(report, route, status, value)  # pyright: ignore[reportUnknownArgumentType]
        elif route:
            self._fields(report, route, status, value)

    def _error(self, report: Report, route: str | None, status: int, body: Mapping[str, Any]) -> None:
        self.observed["HTTP-2.body"] += 1
        code, message = body.get("error"), body.get("message")
        if not isinstance(code, str) or not isinstance(message, str) or not message:
            report("HTTP-2.body", f"{route or 'an error'} ({status}) has no `error` and `message`")
        elif schemas.STATUS_OF.get(code) != status:
            report("HTTP-2.body", f"{route or 'an error'}: code {code!r} was sent with status {status}")

    def _fields(self, report: Report, route: str, status: int, body: Any) -> None:
        validate = schemas.response_errors(route, status, extended=self.extended)
        if validate is None:
            return
        self.observed["HTTP-1.fields"] += 1
        for error in validate(body):
            report("HTTP-1.fields", f"{route} ({status}): {error}")

    # -- events --------------------------------------------------------------------------------------------------------

    def event(self, report: Report, key: str, event: Event, transport: Transport, via: str = "raw") -> None:
        """Validate one event of a session. Events from the Python client only count for the coverage."""
        self.coverage[event.name][f"{via}/{transport}"] += 1
        if via == "sdk":
            return
        self.observed["EVT-5.schema"] += 1
        wire = {"event": event.name, "data": event.data, **({"id": event.id} if event.id is not None else {})}
        for error in schemas.event_errors(extended=self.extended)(wire):
            report("EVT-5.schema", f"{event.name}: {error}")
        self.leaks(report, event.raw or json.dumps(event.data, ensure_ascii=False))
        record = self.session(key)
        if event.id is not None:
            self._repeated(report, record, event, transport)
        if event.name == "prompt_received" and record.texts:
            self.observed["SSE-9.own"] += 1
            if event.data.get("text") not in record.texts:
                report("SSE-9.own", f"a reader received a run of another session: {event.data.get('text')!r:.200}")

    def _repeated(self, report: Report, record: SessionRecord, event: Event, transport: Transport) -> None:
        assert event.id is not None
        content = json.dumps([event.name, event.data], sort_keys=True)
        first_transport, first_raw, first_content = record.known.setdefault(event.id, (transport, event.raw, content))
        same_transport = first_transport == transport
        requirement = "EVT-7.identical" if same_transport else "EVT-5.same"
        self.observed[requirement] += 1
        if first_content != content:
            report(
                requirement,
                f"{event.id} was {first_content[:300]} on {first_transport} and is {content[:300]} on {transport}",
            )
        elif same_transport and first_raw is not None and event.raw is not None and first_raw != event.raw:
            report("EVT-7.identical", f"{event.id} was sent as {first_raw[:300]} and then as {event.raw[:300]}")

    def order(self, report: Report, before: str | None, event: Event) -> None:
        """Validate the id of an event, given the id of the event before it on an unfiltered connection."""
        if not self.extended or before is None:
            return
        self.observed["EVT-7.gapless"] += 1
        old, new = CURSOR.fullmatch(before), CURSOR.fullmatch(event.id or "")
        if not new:
            report("EVT-7.gapless", f"{event.name} has the id {event.id!r}")
        elif old and (new[1] != old[1] or int(new[2]) != int(old[2]) + 1):
            report("EVT-7.gapless", f"{event.id} followed {before}")

    def run(self, report: Report, key: str, events: Sequence[Event]) -> None:
        """Validate a run that was read completely."""
        for requirement in ("EVT-1.grammar", "EVT-1.blocks", "EVT-2.terminal"):
            self.observed[requirement] += 1
        if any(event.name == "tool_execution_start" for event in events):
            self.observed["EVT-4.pairs"] += 1
            self.observed["EVT-4.unique"] += 1
        for requirement, message in grammar_errors(events):
            report(requirement, message)
        if self.extended:
            self.observed["EVT-5.request-id"] += 1
            requests = {event.data.get("requestId") for event in events}
            if len(requests) != 1 or not all(isinstance(each, str) and each for each in requests):
                report("EVT-5.request-id", f"the events of one run have the requestIds {requests}")
        calls = self.session(key).calls
        # A base server does not identify runs. The same run, read over both transports, then has the same prompt.
        run = str(events[0].data.get("requestId") or events[0].id or events[0].data.get("text")) if events else ""
        for event in events:
            if event.name == "tool_execution_start":
                call = str(event.data.get("callId"))
                if calls.setdefault(call, run) != run:
                    report("EVT-4.unique", f"callId {call} occurs in two runs")
