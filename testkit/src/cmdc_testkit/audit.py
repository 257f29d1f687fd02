"""Checks the complete history of a session: was anything lost, changed, done twice or left open?

A pure function of what clients observed: the frames and responses they received, and the calls that reached their
tools. It sends no requests and does not depend on the server's internals.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

_TERMINAL = ("agent_end", "agent_abort")


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as received; `data` is its line of JSON, unparsed."""

    id: str
    event: str
    data: str

    @property
    def epoch(self) -> str:
        return self.id.partition(".")[0]

    @property
    def seq(self) -> int:
        return int(self.id.partition(".")[2])

    @property
    def fields(self) -> Mapping[str, Any]:
        return _fields(self.data)


@lru_cache(maxsize=1 << 16)
def _fields(data: str) -> Mapping[str, Any]:
    return json.loads(data)


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that clients know about a session, recorded while it is idle.

    `log` and `messages` are complete and read last; `seen` holds the frames of each earlier reader. `accepted` are the
    requestIds of prompts that got 202, in order; `decisions` maps approvalIds and `answers` maps refs that got 200 to the
    decision or answer. `registered` maps tools whose registration got 201 to their newest description; `tools` is the
    session's tool list. `ran` has a callId for each time a call reached a tool. `prompt_count` and `total_tokens` are the
    session's statistics. `waiting` is True if the last run is still waiting for the user.
    """

    log: Sequence[Frame]
    messages: Sequence[Mapping[str, Any]]
    seen: Sequence[Sequence[Frame]] = ()
    accepted: Sequence[str] = ()
    decisions: Mapping[str, str] = field(default_factory=dict[str, str])
    answers: Mapping[str, str] = field(default_factory=dict[str, str])
    registered: Mapping[str, str] = field(default_factory=dict[str, str])
    tools: Sequence[Mapping[str, Any]] = ()
    ran: Sequence[str] = ()
    prompt_count: int | None = None
    total_tokens: int | None = None
    waiting: bool = False


def audit(record: Record) -> list[str]:
    """Return the violations, each a sentence that starts with the id of the rule."""
    runs = _runs(record)
    return [
        *audit_so_far(record, open_run=record.waiting),
        *_prompts(record, runs),
        *_history(record, runs),
        *_figures(record, runs),
    ]


def audit_so_far(record: Record, *, open_run: bool | None = None) -> list[str]:
    """Return the violations of rules that must hold at any time, including during a run.

    Whether the last run is still open follows from its last event, unless `open_run` is given.
    """
    runs = _runs(record)
    last_is_open = runs[-1][-1].event not in _TERMINAL if open_run is None and runs else open_run is True
    return [
        *_numbering(record.log),
        *_repeats(record),
        *_pieces(runs),
        *(
            violation
            for index, run in enumerate(runs)
            for violation in _run(run, last_is_open and index == len(runs) - 1)
        ),
        *_calls(record),
        *_people(record),
    ]


def _runs(record: Record) -> list[list[Frame]]:
    return [list(run) for _, run in groupby(record.log, lambda frame: frame.fields["requestId"])]


def _numbering(log: Sequence[Frame]) -> Iterator[str]:
    for expected, frame in enumerate(log, start=1):
        if frame.seq != expected:
            yield f"EVT-7: event {expected} of the log is numbered {frame.seq}"
            return
    if len({frame.epoch for frame in log}) > 1:
        yield "EVT-7: the log has more than one epoch"


def _repeats(record: Record) -> Iterator[str]:
    kept = {frame.id: frame for frame in record.log}
    for reading in record.seen:
        for before, after in pairwise(reading):
            if after.seq != before.seq + 1:
                yield f"SSE-6: a reader was sent {after.id} after {before.id}"
        for frame in reading:
            if frame.id not in kept:
                yield f"DUR-1: a reader saw {frame.id} {frame.event}, and the log does not have it"
            elif kept[frame.id] != frame:
                yield f"EVT-7: {frame.id} was {frame.event} {frame.data}, and is now another event"


def _pieces(runs: list[list[Frame]]) -> Iterator[str]:
    for request_id, times in Counter(run[0].fields["requestId"] for run in runs).items():
        if times > 1:
            yield f"EVT-1: run {request_id} is in the log in {times} pieces"


def _prompts(record: Record, runs: list[list[Frame]]) -> Iterator[str]:
    started_ids = [run[0].fields["requestId"] for run in runs]
    for request_id in record.accepted:
        if request_id not in started_ids:
            yield f"DUR-1: prompt {request_id} was accepted and never started"
    in_order = [request_id for request_id in record.accepted if request_id in started_ids]
    if in_order != sorted(in_order, key=started_ids.index):
        yield "DUR-1: prompts were not started in the order they were accepted"


def _run(run: list[Frame], waiting: bool) -> Iterator[str]:
    name = run[0].fields["requestId"]
    if [frame.event for frame in run[:2]] != ["prompt_received", "agent_start"][: len(run)]:
        yield f"EVT-1: run {name} does not start with prompt_received and agent_start"
    if sum(frame.event == "prompt_received" for frame in run) > 1:
        yield f"EVT-1: run {name} starts twice"
    ends = [index for index, frame in enumerate(run) if frame.event in _TERMINAL]
    if ends != ([] if waiting else [len(run) - 1]):
        yield f"EVT-2: run {name} has {len(ends)} terminal events, or something after one"
    failed = run[-1].event == "agent_abort" and run[-1].fields["reason"] in ("interrupted", "error")
    if failed and "error" not in [frame.event for frame in run]:
        yield f"EVT-2: run {name} failed without an error event"
    if waiting:
        return
    for opened, closed, key in (
        ("approval_required", "approval_resolved", "approvalId"),
        ("tool_execution_start", "tool_execution_end", "callId"),
    ):
        left = Counter(_all(run, opened, key)) - Counter(_all(run, closed, key))
        for what in left:
            yield f"EVT-9: {opened} {what} was left open by its run"


def _calls(record: Record) -> Iterator[str]:
    started, ended = (
        _all(record.log, "tool_execution_start", "callId"),
        _all(record.log, "tool_execution_end", "callId"),
    )
    for call_id, times in Counter(started).items():
        if times > 1:
            yield f"EVT-4: call {call_id} was started {times} times"
    for call_id, times in Counter(ended).items():
        if times > 1:
            yield f"EVT-4: call {call_id} ended {times} times"
        if call_id not in started:
            yield f"EVT-4: call {call_id} ended and was never started"
    for call_id, times in Counter(record.ran).items():
        if times > 1:
            yield f"EVT-4: call {call_id} was run {times} times"
        if call_id not in started:
            yield f"EVT-8: call {call_id} was run before, or without, its tool_execution_start"
    required = {
        frame.fields["approvalId"]: frame.fields["callId"] for frame in record.log if frame.event == "approval_required"
    }
    for frame in record.log:
        if frame.event == "approval_resolved" and frame.fields["status"] != "approved":
            call_id = required.get(frame.fields["approvalId"])
            if call_id in started or call_id in record.ran:
                yield f"EVT-4: call {call_id} was {frame.fields['status']}, and ran nevertheless"


def _people(record: Record) -> Iterator[str]:
    resolved = [frame.fields for frame in record.log if frame.event == "approval_resolved"]
    for approval_id, times in Counter(item["approvalId"] for item in resolved).items():
        if times > 1:
            yield f"APP-2: approval {approval_id} was resolved {times} times"
    statuses = {item["approvalId"]: item["status"] for item in resolved}
    for approval_id, decision in record.decisions.items():
        if statuses.get(approval_id) != decision:
            yield f"DUR-1: {approval_id} was {decision}, and the log has {statuses.get(approval_id)}"
    results = {
        frame.fields["callId"]: frame.fields["result"] for frame in record.log if frame.event == "tool_execution_end"
    }
    for ref, response in record.answers.items():
        if results.get(ref.removeprefix("ask_")) != response:
            yield f"DUR-1: the answer to {ref} was accepted, but is not the result of the call"
    listed = {tool["name"]: tool["description"] for tool in record.tools}
    for name, description in record.registered.items():
        if listed.get(name) != description:
            yield f"DUR-1: the tool {name} was registered as {description!r}, and is listed as {listed.get(name)!r}"


def _history(record: Record, runs: list[list[Frame]]) -> Iterator[str]:
    """The history matches the published events (EVT-3, EP-messages)."""
    shown: list[tuple[str, str]] = []
    for run in runs:
        text: list[str] = []
        for frame in run:
            match frame.event:
                case "prompt_received":
                    shown.append(("user", frame.fields["text"]))
                case "message_delta":
                    text.append(frame.fields["delta"])
                case "tool_calls" | "agent_end":
                    shown.append(("assistant", "".join(text)))
                    text.clear()
                case "agent_abort" if text:
                    shown.append(("assistant", "".join(text)))
                case _:
                    pass
    spoken = ("user", "assistant")
    kept = [(message["role"], message["content"]) for message in record.messages if message["role"] in spoken]
    if shown != kept:
        yield f"EVT-3: readers saw {shown}, but the history has {kept}"
    asked = [call["callId"] for message in record.messages for call in message.get("toolCalls", ())]
    answered = [message["callId"] for message in record.messages if message["role"] == "tool_result"]
    if not record.waiting and sorted(asked) != sorted(answered):
        yield "EVT-9: not every call in the history has one result"
    if len(set(asked)) != len(asked):
        yield "EVT-4: a callId is in the history twice"


def _figures(record: Record, runs: list[list[Frame]]) -> Iterator[str]:
    if record.prompt_count not in (None, len(runs)):
        yield f"MTR-1: {len(runs)} prompts were started, but {record.prompt_count} are counted"
    reported = sum(run[-1].fields["tokenUsage"]["totalTokens"] for run in runs if run[-1].event == "agent_end")
    complete = all(run[-1].event == "agent_end" for run in runs)
    total = record.total_tokens
    if total is not None and (total != reported if complete else total < reported):
        yield f"MTR-1: the runs reported {reported} tokens, but {total} are counted"


def _all(frames: Sequence[Frame], event: str, key: str) -> list[str]:
    return [frame.fields[key] for frame in frames if frame.event == event]
