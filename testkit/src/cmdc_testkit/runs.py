"""The rules that every finished run of the kernel keeps (EVT-1 … EVT-4, EVT-9), as a pure function of its outcome.

The order of events is judged by the conformance suite; history, effects and usage are compared here.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from cmdc_conformance.wire.event import Event as WireEvent
from cmdc_conformance.wire.grammar import grammar_errors
from cmdc_gateway.kernel.effects import AskModel, Outcome, RunTool
from cmdc_gateway.kernel.turn import ASK_USER
from cmdc_gateway.protocol.events import (
    AgentAbort,
    AgentEnd,
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    Event,
    LastMessage,
    MessageDelta,
    RunError,
    ToolCalls,
    ToolExecutionEnd,
    ToolExecutionStart,
    encode_data,
)
from cmdc_gateway.protocol.history import Message

# The events of one call: Required, then Approved or x for any other resolution; start and end of a tool; the start of a
# qUestion, the question, and its end.
_CALL = re.compile("Rx|(RA)?(se)?|uqe")

_FAILURES = ("error", "interrupted", "budget_exceeded")


def broken_rules(run: Outcome, *, before: int = 0, parallel: int = 8, max_steps: int = 100) -> set[str]:
    """Return the ids of the rules that a finished run breaks.

    `run` is the sum of all its outcomes, `before` the length of the history when it began. `parallel` and `max_steps` are
    the session's limits.
    """
    return {
        *_grammar(run.events),
        *_call_order(run.events),
        *_calls(run),
        *_history(run.messages),
        *_texts(run),
        *_end(run, before),
        *(("parallel",) if _max_parallel(run.events) > parallel else ()),
        *(("maxTurns",) if run.effects.count(AskModel()) > max_steps else ()),
    }


def _grammar(events: Sequence[Event]) -> Iterable[str]:
    """The rules that the conformance suite finds broken."""
    received = [WireEvent(event.name, json.loads(encode_data(event, "r"))) for event in events]
    return (requirement.partition(".")[0] for requirement, _ in grammar_errors(received))


def _call_order(events: Sequence[Event]) -> Iterable[str]:
    """Within each call, every event has its place."""
    for _, calls in _calls_by_step(events):
        if not all(_CALL.fullmatch(letters) for letters in calls.values()):
            yield "EVT-1"


def _calls_by_step(events: Sequence[Event]) -> list[tuple[int, dict[str, str]]]:
    """For each step, the number of calls it requested, and the events of each call as letters, by callId."""
    steps: list[tuple[int, dict[str, str]]] = [(0, defaultdict(str))]
    for event in events:
        calls = steps[-1][1]
        match event:
            case ToolCalls(count):
                steps.append((count, defaultdict(str)))
            case ApprovalRequired(call_id=call_id):
                calls[call_id] += "R"
            case ApprovalResolved(approval_id, status):
                calls[approval_id.removeprefix("apr_")] += "A" if status == "approved" else "x"
            case ToolExecutionStart(tool_name, call_id):
                calls[call_id] += "u" if tool_name == ASK_USER else "s"
            case AskUser(ref):
                calls[ref.removeprefix("ask_")] += "q"
            case ToolExecutionEnd(call_id=call_id):
                calls[call_id] += "e"
            case _:
                pass
    return steps


def _calls(run: Outcome) -> Iterable[str]:
    starts = Counter(event.call_id for event in run.events if isinstance(event, ToolExecutionStart))
    ends = Counter(event.call_id for event in run.events if isinstance(event, ToolExecutionEnd))
    required = Counter(event.approval_id for event in run.events if isinstance(event, ApprovalRequired))
    resolved = Counter(event.approval_id for event in run.events if isinstance(event, ApprovalResolved))
    if starts - ends or required - resolved:
        yield "EVT-9"
    if starts != ends or any(times > 1 for times in starts.values()):
        yield "EVT-4"
    if required != resolved or any(times > 1 for times in required.values()):
        yield "APP-2"
    announced = [
        (event.call_id, event.tool_name, event.args)
        for event in run.events
        if isinstance(event, ToolExecutionStart) and event.tool_name != ASK_USER
    ]
    executed = [effect.call for effect in run.effects if isinstance(effect, RunTool)]
    if [(call.id, call.name, call.args) for call in executed] != announced:
        yield "EVT-4"


def _history(messages: Sequence[Message]) -> Iterable[str]:
    """Each call gets one result, before the next message."""
    open_calls: list[str] = []
    for message in messages:
        if message.role == "tool_result":
            if message.call_id not in open_calls:
                yield "EP-messages"
            else:
                open_calls.remove(message.call_id)
        elif open_calls:
            yield "EP-messages"
        open_calls += [call.id for call in message.tool_calls]
    if open_calls or [n for n, message in enumerate(messages) if message.role == "user"] != [0]:
        yield "EP-messages"


def _texts(run: Outcome) -> Iterable[str]:
    """The text of the events is the text of the history."""
    texts = [""]
    for event in run.events:
        if isinstance(event, MessageDelta):
            texts[-1] += event.delta
        elif isinstance(event, ToolCalls):
            texts.append("")
    if isinstance(run.events[-1], AgentAbort) and not texts[-1]:
        texts.pop()  # a step that was aborted before its first text
    answers = [message for message in run.messages if message.role == "assistant"]
    if [message.content for message in answers] != texts:
        yield "EVT-3"
    counts = [event.count for event in run.events if isinstance(event, ToolCalls)]
    if [len(message.tool_calls) for message in answers if message.tool_calls] != counts:
        yield "EVT-1"
    results = {message.call_id: (message.content, message.is_error) for message in run.messages if message.call_id}
    for event in run.events:
        match event:
            case ToolExecutionEnd(_, call_id, status, result) if results.get(call_id) != (result, status == "error"):
                yield "EP-messages"
            case _:
                pass


def _end(run: Outcome, before: int) -> Iterable[str]:
    match run.events[-1]:
        case AgentEnd(message_count, last_message, token_usage, cost_usd):
            if last_message != LastMessage("assistant", run.messages[-1].content):
                yield "EVT-3"
            if message_count != before + len(run.messages):
                yield "messageCount"
            if (token_usage, cost_usd) != (run.usage, run.cost_usd):
                yield "MTR-1"
        case AgentAbort(reason) if reason in _FAILURES and not isinstance(run.events[-2], RunError):
            yield "EVT-2"
        case _:
            pass


def _max_parallel(events: Sequence[Event]) -> int:
    """The largest number of tools that ran at the same time."""
    running, maximum = 0, 0
    for event in events:
        match event:
            case ToolExecutionStart(tool_name) if tool_name != ASK_USER:
                running += 1
            case ToolExecutionEnd(tool_name) if tool_name != ASK_USER:
                running -= 1
            case _:
                pass
        maximum = max(maximum, running)
    return maximum
