"""Checks that a session lost nothing, changed nothing, did nothing twice, and left nothing open.

Pure functions of what clients hold: the events and responses that they received, and the calls that reached their tools.
The order of events within a run, and the events themselves, are judged by the conformance suite's monitors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

from cmdc_conformance.evidence import Redactor
from cmdc_conformance.wire.event import names
from cmdc_conformance.wire.grammar import grammar_errors
from cmdc_conformance.wire.monitors import Monitors

from cmdc_testkit.events import ReceivedEvent

Run = list[ReceivedEvent]


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What clients know about an idle session.

    `log` and `messages` are read last, as a whole; `streams` are the events that earlier readers received. `accepted`
    lists the requestIds of prompts that returned 202, in order. `decisions` maps the approvalIds, and `answers` the refs,
    whose requests returned 200 to what was sent. `registered` maps the tools whose registration returned 201 to their
    latest description; `tools` is the session's list of tools. `executed` has a callId for each call that reached a tool.
    `prompt_count` and `total_tokens` are the session's own counters. `run_is_open` means that the last run waits for a
    user's decision.
    """

    log: Sequence[ReceivedEvent]
    messages: Sequence[Mapping[str, Any]]
    streams: Sequence[Sequence[ReceivedEvent]] = ()
    accepted: Sequence[str] = ()
    decisions: Mapping[str, str] = field(default_factory=dict[str, str])
    answers: Mapping[str, str] = field(default_factory=dict[str, str])
    registered: Mapping[str, str] = field(default_factory=dict[str, str])
    tools: Sequence[Mapping[str, Any]] = ()
    executed: Sequence[str] = ()
    prompt_count: int | None = None
    total_tokens: int | None = None
    run_is_open: bool = False


def audit(record: SessionRecord) -> list[str]:
    """List every broken rule as a sentence that begins with the rule's id."""
    runs = _runs(record)
    return [
        *_monitored(record, runs),
        *audit_so_far(record, run_is_open=record.run_is_open),
        *_prompts(record, runs),
        *_history(record, runs),
        *_counters(record, runs),
    ]


def audit_so_far(record: SessionRecord, *, run_is_open: bool | None = None) -> list[str]:
    """List the broken rules among those that hold at any time, also during a run.

    If `run_is_open` is not given, the last run is open until its terminal event.
    """
    runs = _runs(record)
    if run_is_open is None:
        run_is_open = bool(runs) and not runs[-1][-1].is_terminal
    return [
        *_numbering(record.log),
        *_streams(record),
        *_split_runs(runs),
        *(
            error
            for number, run in enumerate(runs, 1)
            for error in _run_errors(run, is_open=run_is_open and number == len(runs))
        ),
        *_calls(record),
        *_decisions(record),
    ]


def _runs(record: SessionRecord) -> list[Run]:
    return [list(run) for _, run in groupby(record.log, lambda event: event.request_id)]


def _monitored(record: SessionRecord, runs: Sequence[Run]) -> list[str]:
    """What the suite's monitors report about each event, each connection, and each complete run."""
    errors: list[str] = []

    def report(requirement: str, message: str) -> None:
        errors.append(f"{requirement}: {message}")

    monitors = Monitors(Redactor([]), extended=True)
    for stream in (record.log, *record.streams):
        before: str | None = None
        for event in stream:
            monitors.event(report, "session", event, "sse")
            monitors.order(report, before, event)
            before = event.id
    for run in runs:
        if run[-1].is_terminal:
            monitors.run(report, "session", run)
    return errors


def _numbering(log: Sequence[ReceivedEvent]) -> Iterator[str]:
    for expected, event in enumerate(log, start=1):
        if event.seq != expected:
            yield f"EVT-7: event {expected} of the log has the number {event.seq}"
            return
    if len({event.epoch for event in log}) > 1:
        yield "EVT-7: the log has more than one epoch"


def _streams(record: SessionRecord) -> Iterator[str]:
    """Readers received consecutive events, all of which are in the log."""
    logged = {event.id: event for event in record.log}
    for stream in record.streams:
        for before, event in pairwise(stream):
            if event.seq != before.seq + 1:
                yield f"SSE-6: a reader received {event.id} after {before.id}"
        for event in stream:
            if event.id not in logged:
                yield f"DUR-1: a reader received {event.id} {event.name}, which the log does not contain"
            elif (logged[event.id].name, logged[event.id].raw) != (event.name, event.raw):
                yield f"EVT-7: {event.id} was {event.name} {event.raw}, and is now {logged[event.id]}"


def _split_runs(runs: Sequence[Run]) -> Iterator[str]:
    for request_id, parts in Counter(run[0].request_id for run in runs).items():
        if parts > 1:
            yield f"EVT-1: run {request_id} is in the log in {parts} parts"


def _run_errors(run: Run, *, is_open: bool) -> Iterator[str]:
    name = run[0].request_id
    for requirement, message in _open_run_errors(run) if is_open else grammar_errors(run):
        yield f"{requirement}: run {name}: {message}"
    failed = run[-1].name == "agent_abort" and run[-1].data["reason"] in ("interrupted", "error")
    if failed and "error" not in names(run):
        yield f"EVT-2: run {name} failed without an error event"


def _open_run_errors(run: Run) -> list[tuple[str, str]]:
    """The errors that no further event can mend."""
    order = names(run)
    if len(run) == 1:
        return [] if order == ["prompt_received"] else [("EVT-1.grammar", f"the run begins with {order[0]}")]
    # A block that has just begun is empty until its first delta.
    known = run[:-1] if order[-1] in ("thinking_start", "message_start") else run
    ended = any(event.is_terminal for event in run)
    return [error for error in grammar_errors(known) if ended or error[0] != "EVT-2.terminal"]


def _calls(record: SessionRecord) -> Iterator[str]:
    """Each call starts, ends and is executed once, and not at all if it was rejected."""
    started = _values(record.log, "tool_execution_start", "callId")
    ended = _values(record.log, "tool_execution_end", "callId")
    for what, calls in (("started", started), ("ended", ended), ("was executed", record.executed)):
        for call_id, times in Counter(calls).items():
            if times > 1:
                yield f"EVT-4: call {call_id} {what} {times} times"
    for call_id in dict.fromkeys(ended):
        if call_id not in started:
            yield f"EVT-4: call {call_id} ended without having started"
    for call_id in dict.fromkeys(record.executed):
        if call_id not in started:
            yield f"EVT-8: call {call_id} was executed without, or before, its tool_execution_start"
    call_of = {
        event.data["approvalId"]: event.data["callId"] for event in record.log if event.name == "approval_required"
    }
    for event in record.log:
        if event.name == "approval_resolved" and event.data["status"] != "approved":
            call_id = call_of.get(event.data["approvalId"])
            if call_id in started or call_id in record.executed:
                yield f"EVT-4: call {call_id} was {event.data['status']} and executed nevertheless"


def _decisions(record: SessionRecord) -> Iterator[str]:
    """Accepted decisions, answers and registrations had their effect."""
    resolved = [event.data for event in record.log if event.name == "approval_resolved"]
    for approval_id, times in Counter(data["approvalId"] for data in resolved).items():
        if times > 1:
            yield f"APP-2: approval {approval_id} was resolved {times} times"
    statuses = {data["approvalId"]: data["status"] for data in resolved}
    for approval_id, decision in record.decisions.items():
        if statuses.get(approval_id) != decision:
            yield f"DUR-1: {approval_id} was {decision}, and the log has {statuses.get(approval_id)}"
    results = {event.data["callId"]: event.data["result"] for event in record.log if event.name == "tool_execution_end"}
    for ref, response in record.answers.items():
        if results.get(ref.removeprefix("ask_")) != response:
            yield f"DUR-1: the answer to {ref} was accepted, but is not the result of its call"
    descriptions = {tool["name"]: tool["description"] for tool in record.tools}
    for name, description in record.registered.items():
        if descriptions.get(name) != description:
            yield f"DUR-1: tool {name} was registered as {description!r} and is listed as {descriptions.get(name)!r}"


def _prompts(record: SessionRecord, runs: Sequence[Run]) -> Iterator[str]:
    order = [run[0].request_id for run in runs]
    for request_id in record.accepted:
        if request_id not in order:
            yield f"DUR-1: prompt {request_id} was accepted and never run"
    run = [request_id for request_id in record.accepted if request_id in order]
    if run != sorted(run, key=order.index):
        yield "DUR-1: prompts did not run in the order in which they were accepted"


def _history(record: SessionRecord, runs: Sequence[Run]) -> Iterator[str]:
    """The history has the text that readers received, and one result for each call."""
    received: list[tuple[str, str]] = []
    for run in runs:
        deltas: list[str] = []
        for event in run:
            match event.name:
                case "prompt_received":
                    received.append(("user", event.data["text"]))
                case "message_delta":
                    deltas.append(event.data["delta"])
                case "tool_calls" | "agent_end":
                    received.append(("assistant", "".join(deltas)))
                    deltas.clear()
                case "agent_abort" if deltas:
                    received.append(("assistant", "".join(deltas)))
                case _:
                    pass
    stored = [(message["role"], message["content"]) for message in record.messages]
    stored = [(role, content) for role, content in stored if role in ("user", "assistant")]
    if received != stored:
        yield f"EVT-3: readers received {received}, and the history has {stored}"
    calls = [call["callId"] for message in record.messages for call in message.get("toolCalls", ())]
    results = [message["callId"] for message in record.messages if message["role"] == "tool_result"]
    if not record.run_is_open and sorted(calls) != sorted(results):
        yield "EVT-9: a call in the history does not have exactly one result"
    if len(set(calls)) != len(calls):
        yield "EVT-4: a callId is in the history twice"


def _counters(record: SessionRecord, runs: Sequence[Run]) -> Iterator[str]:
    if record.prompt_count not in (None, len(runs)):
        yield f"MTR-1: {len(runs)} prompts ran, and {record.prompt_count} were counted"
    reported = sum(run[-1].data["tokenUsage"]["totalTokens"] for run in runs if run[-1].name == "agent_end")
    # Only agent_end reports usage, so an aborted run may have used more than the log shows.
    all_reported = all(run[-1].name == "agent_end" for run in runs)
    total = record.total_tokens
    if total is not None and (total != reported if all_reported else total < reported):
        yield f"MTR-1: the runs reported {reported} tokens, and {total} were counted"


def _values(events: Sequence[ReceivedEvent], name: str, member: str) -> list[str]:
    return [event.data[member] for event in events if event.name == name]
