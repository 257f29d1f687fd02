"""The order of events within one run, as a pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cmdc_conformance.wire.event import Event, names

Violations = list[tuple[str, str]]


def grammar_errors(events: Sequence[Event]) -> Violations:
    """Return (requirement, message) for each violation in the order of a complete run's events."""
    order = names(events)
    errors: Violations = []
    if order[:2] != ["prompt_received", "agent_start"]:
        errors.append(("EVT-1.grammar", f"a run begins with {', '.join(order[:2]) or 'nothing'}"))
    if order.count("prompt_received") > 1 or order.count("agent_start") > 1:
        errors.append(("EVT-1.grammar", "a run begins twice"))
    ends = [index for index, event in enumerate(events) if event.is_terminal]
    if ends != [len(events) - 1]:
        last = order[-1] if order else "nothing"
        errors.append(("EVT-2.terminal", f"a run has {len(ends)} terminal events, and its last event is {last}"))
    return [*errors, *_block_errors(order), *_call_errors(events)]


def _block_errors(order: Sequence[str]) -> Violations:
    errors: Violations = []
    block, chunks, calls_requested = "", 1, False
    for name in order:
        kind, _, part = name.partition("_")
        if kind in ("thinking", "message") and part == "start":
            if block == kind and not calls_requested:
                errors.append(("EVT-1.blocks", f"two {kind} blocks follow each other"))
            if not chunks:
                errors.append(("EVT-1.blocks", f"a {block} block is empty"))
            block, chunks, calls_requested = kind, 0, False
        elif kind in ("thinking", "message") and part == "delta":
            if block != kind or calls_requested:
                errors.append(("EVT-1.blocks", f"{name} is outside of a {kind} block"))
                block, calls_requested = kind, False
            chunks += 1
        elif name == "tool_calls":
            calls_requested = True
    if not chunks:
        errors.append(("EVT-1.blocks", f"a {block} block is empty"))
    return errors


@dataclass(slots=True)
class _Step:
    """The tool calls of one step. `seen` counts those that were started or are subject to approval."""

    requested: int = 0
    approvals: dict[str, str] = field(default_factory=dict[str, str])
    open: set[str] = field(default_factory=set[str])
    seen: int = 0


def _call_errors(events: Sequence[Event]) -> Violations:
    errors: Violations = []
    step = _Step()
    started: set[str] = set()

    def report(requirement: str, message: str) -> None:
        errors.append((requirement, message))

    for event in events:
        data = event.data
        match event.name:
            case "tool_calls":
                _close(step, report, "the next step")
                step = _Step(requested=data.get("count", 0))
            case "approval_required":
                step.approvals[str(data.get("approvalId"))] = "open"
                step.seen += 1
            case "approval_resolved":
                if step.approvals.get(str(data.get("approvalId"))) != "open":
                    report("EVT-1.grammar", f"approval_resolved for {data.get('approvalId')}, which is not pending")
                step.approvals[str(data.get("approvalId"))] = str(data.get("status"))
                if data.get("status") == "approved":
                    step.seen -= 1  # its tool_execution_start counts instead
            case "tool_execution_start":
                call = str(data.get("callId"))
                if call in started:
                    report("EVT-4.unique", f"call {call} started twice")
                started.add(call)
                step.open.add(call)
                step.seen += 1
            case "tool_execution_end":
                if data.get("callId") not in step.open:
                    report("EVT-4.pairs", f"call {data.get('callId')} ended without being active")
                step.open.discard(str(data.get("callId")))
            case "ask_user" if not step.open:
                report("EVT-1.grammar", "ask_user occurs outside of an active call")
            case "thinking_start" | "message_start" | "agent_end" | "agent_abort":
                _close(step, report, event.name)
            case _:
                pass
        if step.seen > step.requested and event.name in ("approval_required", "tool_execution_start"):
            report("EVT-1.grammar", f"there are more calls than the {step.requested} that tool_calls counted")
    return errors


def _close(step: _Step, report: Callable[[str, str], None], before: str) -> None:
    """Report the calls and approvals of a step that are still open before the next step or the end of the run."""
    aborted = before == "agent_abort"
    for call in step.open:
        report("EVT-9.calls" if aborted else "EVT-4.pairs", f"call {call} started but did not end before {before}")
    for approval, status in step.approvals.items():
        if status == "open":
            requirement = "EVT-9.approvals" if aborted else "EVT-1.grammar"
            report(requirement, f"approval {approval} was not resolved before {before}")
    step.open.clear()
    step.approvals.clear()
