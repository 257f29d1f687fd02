"""Reconstructs the state of an unfinished run from what was committed (DUR-2).

No snapshots are needed: the history says which tool calls the model requested, the log which of them had started.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cmdc_gateway.kernel.turn import OpenCall, Stage
from cmdc_gateway.protocol.events import MessageDelta, PromptReceived, ToolCalls, ToolExecutionStart
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import Message, ToolCall


@dataclass(frozen=True, slots=True)
class RecoveredRun:
    """The unfinished part of a run: calls without a result, and answer text that is not in a message yet."""

    open_calls: tuple[OpenCall, ...]
    text: str

    @property
    def blocked_on_user(self) -> bool:
        """Whether every open call waits for the user, so that the run can resume waiting (DUR-2)."""
        stages = {item.stage for item in self.open_calls}
        return bool(stages) and stages <= {"waiting_approval", "waiting_input"}


def recover_run(
    messages: Sequence[Message],
    events: Iterable[LoggedEvent],
    *,
    undecided: AbstractSet[str],
    unanswered: AbstractSet[str],
) -> RecoveredRun:
    """Reconstruct a run from the session's `messages` and the run's `events`, in order.

    `undecided` and `unanswered` are the callIds that have a pending approval or question.
    """
    started: set[str] = set()
    text: list[str] = []
    for event in events:
        match event.name:
            case PromptReceived.name | ToolCalls.name:
                text.clear()
            case MessageDelta.name:
                text.append(json.loads(event.data)["delta"])
            case ToolExecutionStart.name:
                started.add(json.loads(event.data)["callId"])
            case _:
                pass

    def stage(call: ToolCall) -> Stage:
        if call.id in undecided:
            return "waiting_approval"
        if call.id in unanswered:
            return "waiting_input"
        return "running" if call.id in started else "ready"

    return RecoveredRun(tuple(OpenCall(call, stage(call)) for call in _unfinished_calls(messages)), "".join(text))


def _unfinished_calls(messages: Sequence[Message]) -> list[ToolCall]:
    done: set[str] = set()
    for message in reversed(messages):
        if message.role == "tool_result":
            done.add(message.call_id)
        elif message.role == "assistant":
            return [call for call in message.tool_calls if call.id not in done]
        else:
            break
    return []
