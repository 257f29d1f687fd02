"""Gateways whose runs are told wrongly (EVT)."""

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
from broken_gateways.surgery import change_frames, change_streams, wrap


def _change_outcomes(change: Any) -> None:
    """Change the events of what follows from a signal."""

    def around(original: Any) -> Any:
        def receive(self: Any, signal: Any, now: int) -> Outcome:
            outcome = original(self, signal, now)
            return replace(outcome, events=tuple(change(self, signal, list(outcome.events))))

        return receive

    wrap(Turn, "receive", around)


@breaks("EVT-1.grammar", "EVT-2.terminal")
def start_before_prompt() -> None:
    """Where the answer is to have reasoning, agent_start comes before prompt_received."""

    def change(_: Any, __: Any, events: list[Any]) -> list[Any]:
        begins = bool(events) and isinstance(events[0], PromptReceived)
        return events[::-1] if begins and '"thinking"' in events[0].text else events

    _change_outcomes(change)


@breaks("EVT-1.blocks", "EVT-1.grammar")
def blocks_of_one_piece() -> None:
    """Every piece of text opens a block of its own."""

    def around(original: Any) -> Any:
        def hear(self: Any, piece: Chunk) -> tuple[Event, ...]:
            if isinstance(piece, TextArrived):
                self._block = ""
            return original(self, piece)

        return hear

    wrap(Turn, "receive_chunk", around)


@breaks("EVT-1.unknown-tool", "EVT-1.grammar")
def unknown_tool_begins() -> None:
    """A call of a tool that the session does not have begins and ends like any other, with an error."""

    def around(original: Any) -> Any:
        def open_call(self: Any, call: Any, flaw: str | None, now: int) -> Outcome:
            outcome = original(self, call, flaw, now)
            if flaw is None or "has no tool" not in flaw:
                return outcome
            begins = ToolExecutionStart(tool_name=call.name, call_id=call.id, args=call.args)
            ends = ToolExecutionEnd(tool_name=call.name, call_id=call.id, status="error", result=flaw)
            return replace(outcome, events=(begins, ends))

        return open_call

    wrap(Turn, "_open_call", around)


@breaks("EVT-1.bad-arguments")
def bad_arguments_end_the_run() -> None:
    """A call whose arguments do not fit is passed over: nothing is said of it."""

    def around(original: Any) -> Any:
        def open_call(self: Any, call: Any, flaw: str | None, now: int) -> Outcome:
            outcome = original(self, call, flaw, now)
            return replace(outcome, events=()) if flaw is not None and "do not match" in flaw else outcome

        return open_call

    wrap(Turn, "_open_call", around)


@breaks(
    "EVT-2.terminal",
    "EP-prompt.fifo",
    "EVT-1.grammar",
    "EVT-4.unique",
    "CB-2.validated",
    "MTR-1.counted",
    hidden_from_sdk="whoever reads a run through the client reads to its first terminal event",
)
def two_ends() -> None:
    """A run that has called tools is stopped as well when it is done."""

    def change(turn: Any, _: Any, events: list[Any]) -> list[Any]:
        ends = turn.calls > 0 and events and isinstance(events[-1], AgentEnd)
        return [*events, AgentAbort("aborted")] if ends else events

    _change_outcomes(change)


@breaks("EVT-2.failure", "EVT-1.grammar", "MODEL-retry.final", "MODEL-retry.at-once", "MODEL-retry.cut")
def end_without_a_reason() -> None:
    """A run that fails is stopped without an error."""

    def change(_: Any, signal: Any, events: list[Any]) -> list[Any]:
        failed = type(signal).__name__ == "ModelFailed"
        return [event for event in events if not (failed and isinstance(event, RunError))]

    _change_outcomes(change)


@breaks("EVT-3")
def trimmed_last_message() -> None:
    """The last message that agent_end tells has lost its last character."""

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
    """The end of the third call of a run is told twice."""

    def told(event: Any) -> list[Any]:
        return [event, event] if isinstance(event, ToolExecutionEnd) and event.call_id.endswith("_3") else [event]

    def change(_: Any, __: Any, events: list[Any]) -> list[Any]:
        return [each for event in events for each in told(event)]

    _change_outcomes(change)


@breaks("EVT-4.not-run", "DUR-1.decisions")
def rejected_and_run() -> None:
    """A call that was rejected runs all the same."""
    from cmdc_gateway.kernel.effects import RunTool

    def around(original: Any) -> Any:
        def refused(self: Any, call: Any, status: str, sentence: str) -> Outcome:
            outcome = original(self, call, status, sentence)
            return replace(outcome, effects=(*outcome.effects, RunTool(call))) if status == "rejected" else outcome

        return refused

    wrap(Turn, "_decline", around)


@breaks("EVT-4.unique", shown_by=["EP-messages.tools"])
def callids_of_a_run() -> None:
    """CallIds are counted anew in every run."""

    def around(original: Any) -> Any:
        def numbered(self: Any, request: Any) -> Any:
            return replace(original(self, request), id=f"call_{self.calls}")

        return numbered

    wrap(Turn, "_assign_id", around)


@breaks("EVT-5.schema", hidden_from_sdk="the events of the client have the fields that it knows")
def one_field_too_many() -> None:
    """agent_start has a field that no schema knows."""
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
def dearer_over_a_socket() -> None:
    """Over a WebSocket a run costs a dollar more than over the stream."""

    def change(frame: dict[str, Any]) -> list[dict[str, Any]]:
        if frame.get("event") == "agent_end":
            frame["data"]["costUsd"] += 1
        return [frame]

    change_frames(change)


@breaks("EVT-5.request-id", "EP-session.pending", "EVT-5.schema")
def nameless_events() -> None:
    """Events do not tell which run they are of."""
    _change_data("*", lambda data: data.pop("requestId", None))


@breaks("EVT-6")
def tidied_text() -> None:
    """Carriage returns in text are left out."""

    def around(original: Any) -> Any:
        def hear(self: Any, piece: Chunk) -> tuple[Event, ...]:
            said = piece.text.replace("\r", "") if isinstance(piece, TextArrived) else piece.text
            return original(self, replace(piece, text=said))

        return hear

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
def numbers_left_out() -> None:
    """After a tool_calls a number is left out."""

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
    """An event that is sent again has another order of fields."""

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
    """A run that is stopped leaves its approvals undecided."""

    def change(_: Any, signal: Any, events: list[Any]) -> list[Any]:
        return [event for event in events if not (_stops(signal) and event.name == "approval_resolved")]

    _change_outcomes(change)


def _stops(signal: Any) -> bool:
    return type(signal).__name__ == "Aborted"


@breaks("EVT-9.questions", "EVT-1.grammar", "EVT-9.calls")
def question_left_open() -> None:
    """A run that is stopped leaves its questions open."""

    def change(_: Any, signal: Any, events: list[Any]) -> list[Any]:
        return [
            event
            for event in events
            if not (_stops(signal) and event.name == "tool_execution_end" and event.tool_name == "ask_user")
        ]

    _change_outcomes(change)


@breaks("EVT-9.calls", "DUR-2.interrupted", "DUR-3.left", shown_by=["EP-abort.active"])
def call_left_open() -> None:
    """A run that is stopped leaves the calls that run open."""

    def change(_: Any, signal: Any, events: list[Any]) -> list[Any]:
        return [
            event
            for event in events
            if not (_stops(signal) and event.name == "tool_execution_end" and event.tool_name != "ask_user")
        ]

    _change_outcomes(change)
