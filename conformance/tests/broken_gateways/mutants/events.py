"""Mutants that emit wrong events (EVT)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from cmdc_gateway.kernel.effects import Outcome
from cmdc_gateway.kernel.signals import Chunk, TextArrived
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol import encoding, frames
from cmdc_gateway.protocol.events import (
    AgentAbort,
    AgentEnd,
    Event,
    LastMessage,
    PromptReceived,
    RunError,
    ToolExecutionEnd,
    ToolExecutionStart,
)
from cmdc_gateway.sessions import log

from broken_gateways.mutant import breaks
from broken_gateways.patching import change_frames, change_streams, wrap


def _change_outcomes(change: Any) -> None:
    """Change the events that follow from a signal."""

    def around(original: Any) -> Any:
        def receive(self: Any, signal: Any, now: int) -> Outcome:
            outcome = original(self, signal, now)
            return replace(outcome, events=tuple(change(self, signal, list(outcome.events))))

        return receive

    wrap(Turn, "receive", around)


@breaks("EVT-1.grammar", "EVT-2.terminal")
def start_before_prompt() -> None:
    """With reasoning, agent_start precedes prompt_received."""

    def change(_: Any, __: Any, events: list[Any]) -> list[Any]:
        begins = bool(events) and isinstance(events[0], PromptReceived)
        return events[::-1] if begins and '"thinking"' in events[0].text else events

    _change_outcomes(change)


@breaks("EVT-1.blocks", "EVT-1.grammar")
def one_block_per_delta() -> None:
    """Every delta starts a new block."""

    def around(original: Any) -> Any:
        def receive_chunk(self: Any, piece: Chunk) -> tuple[Event, ...]:
            if isinstance(piece, TextArrived):
                self._block = ""
            return original(self, piece)

        return receive_chunk

    wrap(Turn, "receive_chunk", around)


@breaks("EVT-1.unknown-tool", "EVT-1.grammar")
def unknown_tool_starts() -> None:
    """A call of an unknown tool starts and ends like any other."""

    def around(original: Any) -> Any:
        def open_call(self: Any, call: Any, error: str | None, now: int) -> Outcome:
            outcome = original(self, call, error, now)
            if error is None or "has no tool" not in error:
                return outcome
            begins = ToolExecutionStart(tool_name=call.name, call_id=call.id, args=call.args)
            ends = ToolExecutionEnd(tool_name=call.name, call_id=call.id, status="error", result=error)
            return replace(outcome, events=(begins, ends))

        return open_call

    wrap(Turn, "_open_call", around)


@breaks("EVT-1.bad-arguments")
def bad_arguments_emit_nothing() -> None:
    """A call with invalid arguments emits no event."""

    def around(original: Any) -> Any:
        def open_call(self: Any, call: Any, error: str | None, now: int) -> Outcome:
            outcome = original(self, call, error, now)
            return replace(outcome, events=()) if error is not None and "do not match" in error else outcome

        return open_call

    wrap(Turn, "_open_call", around)


@breaks(
    "EVT-2.terminal",
    "EP-prompt.fifo",
    "EVT-1.grammar",
    "EVT-4.unique",
    "CB-2.validated",
    "MTR-1.counted",
    hidden_from_sdk="the client reads a run only to its first terminal event",
)
def two_ends() -> None:
    """A run with tool calls has two terminal events."""

    def change(turn: Any, _: Any, events: list[Any]) -> list[Any]:
        ends = turn.calls > 0 and events and isinstance(events[-1], AgentEnd)
        return [*events, AgentAbort("aborted")] if ends else events

    _change_outcomes(change)


@breaks("EVT-2.failure", "EVT-1.grammar", "MODEL-retry.final", "MODEL-retry.at-once", "MODEL-retry.cut")
def failure_without_error() -> None:
    """A run that fails ends without error."""

    def change(_: Any, signal: Any, events: list[Any]) -> list[Any]:
        failed = type(signal).__name__ == "ModelFailed"
        return [event for event in events if not (failed and isinstance(event, RunError))]

    _change_outcomes(change)


@breaks("EVT-3")
def trimmed_last_message() -> None:
    """The lastMessage of agent_end lacks its last character."""

    def change(_: Any, __: Any, events: list[Any]) -> list[Any]:
        return [
            replace(event, last_message=LastMessage("assistant", event.last_message.content[:-1]))
            if isinstance(event, AgentEnd) and event.last_message
            else event
            for event in events
        ]

    _change_outcomes(change)


@breaks("EVT-4.pairs")
def ended_twice() -> None:
    """The third call of a run has two ends."""

    def with_gap(event: Any) -> list[Any]:
        return [event, event] if isinstance(event, ToolExecutionEnd) and event.call_id.endswith("_3") else [event]

    def change(_: Any, __: Any, events: list[Any]) -> list[Any]:
        return [each for event in events for each in with_gap(event)]

    _change_outcomes(change)


@breaks("EVT-4.not-run", "DUR-1.decisions")
def rejected_call_runs() -> None:
    """A rejected call runs."""
    from cmdc_gateway.kernel.effects import RunTool

    def around(original: Any) -> Any:
        def refused(self: Any, call: Any, status: str, sentence: str) -> Outcome:
            outcome = original(self, call, status, sentence)
            return replace(outcome, effects=(*outcome.effects, RunTool(call))) if status == "rejected" else outcome

        return refused

    wrap(Turn, "_decline", around)


@breaks("EVT-4.unique", shown_by=["EP-messages.tools"])
def call_ids_per_run() -> None:
    """The callIds are only unique within a run."""

    def around(original: Any) -> Any:
        def numbered(self: Any, request: Any) -> Any:
            return replace(original(self, request), id=f"call_{self.calls}")

        return numbered

    wrap(Turn, "_assign_id", around)


@breaks("EVT-5.schema", hidden_from_sdk="the client drops unknown fields of events")
def one_field_too_many() -> None:
    """agent_start has a field that is not in the schema."""
    _change_data("agent_start", lambda data: data.update(startedBy="nobody"))


def _change_data(name: str, change: Any) -> None:
    """Change the data of an event when it is encoded."""

    def around(original: Any) -> Any:
        def encode_data(event: Any, request_id: str) -> bytes:
            raw = original(event, request_id)
            if name not in ("*", event.name):
                return raw
            data = json.loads(raw)
            change(data)
            return encoding.dumps(data)

        return encode_data

    wrap(log, "encode_data", around)


@breaks("EVT-5.same", shown_by=["WS-2.events"])
def different_cost_over_websocket() -> None:
    """Over a WebSocket, the cost of a run is a dollar higher."""

    def change(frame: dict[str, Any]) -> list[dict[str, Any]]:
        if frame.get("event") == "agent_end":
            frame["data"]["costUsd"] += 1
        return [frame]

    change_frames(change)


@breaks("EVT-5.request-id", "EP-session.pending", "EVT-5.schema")
def events_without_request_id() -> None:
    """Events have no requestId."""
    _change_data("*", lambda data: data.pop("requestId", None))


@breaks("EVT-6")
def carriage_returns_removed() -> None:
    """Carriage returns are removed from text."""

    def around(original: Any) -> Any:
        def receive_chunk(self: Any, piece: Chunk) -> tuple[Event, ...]:
            text = piece.text.replace("\r", "") if isinstance(piece, TextArrived) else piece.text
            return original(self, replace(piece, text=text))

        return receive_chunk

    wrap(Turn, "receive_chunk", around)


@breaks(
    *(
        "EVT-7.gapless",
        "SSE-6.live",
        "EP-session.cursor",
        "EVT-5.same",
        "SSE-6.header",
        "SSE-6.after",
        "SSE-6.precedence",
    ),
    *("SSE-7.foreign", "SSE-7.trimmed", "SSE-11.page", "SSE-11.paging"),
)
def gap_after_tool_calls() -> None:
    """A sequence number is skipped after tool_calls."""

    def change(chunk: bytes) -> bytes:
        def later(found: re.Match[bytes]) -> bytes:
            number = int(found[1])
            return b".%d\nevent" % (number + (number > 2))

        return re.sub(rb"\.(\d+)\nevent", later, chunk)

    change_streams(change)


@breaks(
    "EVT-7.identical",
    "SSE-6.after",
    "SSE-5.active",
    "SSE-6.header",
    "SSE-8.types",
    "SSE-9.readers",
    shown_by=["SSE-6.after", "SSE-6.start"],
)
def different_each_time() -> None:
    """A repeated event has its fields in another order."""

    def around(original: Any) -> Any:
        sent: set[tuple[str, int]] = set()

        def sse(self: Any) -> bytes:
            raw = original.fget(self)
            if (self.epoch, self.seq) in sent:
                head, _, data = raw.partition(b"data: ")
                members = json.loads(data)
                raw = head + b"data: " + encoding.dumps(dict(reversed(members.items()))) + b" \n\n"
            sent.add((self.epoch, self.seq))
            return raw

        return property(sse)

    wrap(frames.LoggedEvent, "sse", around)


@breaks("EVT-9.approvals", "APP-2.cancelled", shown_by=["APP-2.cancelled"])
def approval_left_open() -> None:
    """A run that is aborted leaves its approvals pending."""

    def change(_: Any, signal: Any, events: list[Any]) -> list[Any]:
        return [event for event in events if not (_stops(signal) and event.name == "approval_resolved")]

    _change_outcomes(change)


def _stops(signal: Any) -> bool:
    return type(signal).__name__ == "Aborted"


@breaks("EVT-9.questions", "EVT-1.grammar", "EVT-9.calls")
def question_left_open() -> None:
    """A run that is aborted leaves its questions open."""

    def change(_: Any, signal: Any, events: list[Any]) -> list[Any]:
        return [
            event
            for event in events
            if not (_stops(signal) and event.name == "tool_execution_end" and event.tool_name == "ask_user")
        ]

    _change_outcomes(change)


@breaks("EVT-9.calls", "DUR-2.interrupted", "DUR-3.left", shown_by=["EP-abort.active"])
def call_left_open() -> None:
    """A run that is aborted leaves its active calls open."""

    def change(_: Any, signal: Any, events: list[Any]) -> list[Any]:
        return [
            event
            for event in events
            if not (_stops(signal) and event.name == "tool_execution_end" and event.tool_name != "ask_user")
        ]

    _change_outcomes(change)
