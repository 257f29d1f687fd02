"""Where a run stood when its process ended, read from what was committed.

Nothing is kept for this alone: the history says which calls were asked for, the log says which of them had begun.
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
    """What a run left: calls without a result, and answer text that is in no message yet."""

    open_calls: tuple[OpenCall, ...]
    text: str

    @property
    def blocked_on_user(self) -> bool:
        """True if every open call waits for a person: such a run simply goes on waiting (DUR-2)."""
        stages = {item.stage for item in self.open_calls}
        return bool(stages) and stages <= {"waiting_approval", "waiting_input"}


def recover_run(
    messages: Sequence[Message],
    events: Iterable[LoggedEvent],
    *,
    undecided: AbstractSet[str],
    unanswered: AbstractSet[str],
) -> RecoveredRun:
    """Work out what is left of a run.

    `events` are the run's, in order; `undecided` and `unanswered` the callIds with a pending approval or question.
    """
    begun: set[str] = set()
    said: list[str] = []
    for event in events:
        match event.name:
            case PromptReceived.name | ToolCalls.name:
                said.clear()
            case MessageDelta.name:
                said.append(json.loads(event.data)["delta"])
            case ToolExecutionStart.name:
                begun.add(json.loads(event.data)["callId"])
            case _:
                pass

    def stage(call: ToolCall) -> Stage:
        if call.id in undecided:
            return "waiting_approval"
        if call.id in unanswered:
            return "waiting_input"
        return "running" if call.id in begun else "ready"

    return RecoveredRun(tuple(OpenCall(call, stage(call)) for call in _unfinished_calls(messages)), "".join(said))


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
