"""A pure model of a session: which events and messages follow from prompts, decisions and aborts.

It knows nothing about a server. The deltas of one block are joined, because a server may split text anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cmdc_conformance.drivers.script import Reply, reply
from cmdc_conformance.wire.event import Event

Kind = Literal["plain", "thinking", "free", "guarded", "question", "unknown", "failing"]
KINDS: Final[tuple[Kind, ...]] = ("plain", "thinking", "free", "guarded", "question", "unknown", "failing")

OPTIONS: Final = ("red", "blue")
_ARGS: Final[Mapping[str, Any]] = {"city": "Oslo"}

LogEntry = tuple[str, str]
"""The name of an event and the one field of its data that the model predicts."""


def replies(kind: Kind) -> Sequence[Reply]:
    """The replies of the scripted model to a prompt of this kind."""
    match kind:
        case "plain":
            return [reply("Hel", "lo.", usage=(3, 2))]
        case "thinking":
            return [reply("It ", "is.", thinking=["Hm, ", "well."], usage=(4, 3))]
        case "free" | "guarded":
            return [reply(calls=[(kind, _ARGS)], usage=(5, 1)), reply("Done.", usage=(6, 1))]
        case "question":
            call = ("ask_user", {"question": "Which?", "options": [*OPTIONS]})
            return [reply(calls=[call], usage=(5, 1)), reply("Done.", usage=(6, 1))]
        case "unknown":
            return [reply(calls=[("no_such_tool", _ARGS)], usage=(5, 1)), reply("Done.", usage=(6, 1))]
        case "failing":
            return [reply(fail=(400, 0))]


@dataclass(slots=True)
class ReferenceSession:
    """The expected state of a session. `waiting_for` is what its active run waits for."""

    log: list[LogEntry] = field(default_factory=list[LogEntry])
    messages: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    queue: list[tuple[str, Kind]] = field(default_factory=list[tuple[str, Kind]])
    waiting_for: Literal["approval", "question"] | None = None
    prompts: int = 0
    tokens: int = 0
    decided: str | None = None
    answered: str | None = None

    @property
    def state(self) -> str:
        """The state that GET /v1/sessions/{id} should return once the session is at rest."""
        return {None: "idle", "approval": "waiting_approval", "question": "waiting_input"}[self.waiting_for]

    def prompt(self, text: str, kind: Kind) -> bool:
        """Accept a prompt; return whether it is queued."""
        self.prompts += 1
        queued = self.waiting_for is not None
        self.queue.append((text, kind))
        self._start_next()
        return queued

    def decide(self, status: Literal["approved", "rejected", "cancelled"]) -> None:
        """Resolve the pending approval. It is cancelled if its tool is registered again."""
        self.waiting_for, self.decided = None, status
        self.log.append(("approval_resolved", status))
        if status == "approved":
            self.log += [("tool_execution_start", "guarded"), ("tool_execution_end", "ok")]
        self._finish_after_call()

    def respond(self, answer: str) -> None:
        """Answer the pending question."""
        self.waiting_for, self.answered = None, answer
        self.log.append(("tool_execution_end", "ok"))
        self._finish_after_call()

    def abort(self) -> bool:
        """Abort the active run; return whether there was one."""
        match self.waiting_for:
            case None:
                return False
            case "approval":
                self.decided = "cancelled"
                self.log.append(("approval_resolved", "cancelled"))
            case "question":
                self.answered = None
                self.log.append(("tool_execution_end", "error"))
        self.waiting_for = None
        self.log.append(("agent_abort", "aborted"))
        self._start_next()
        return True

    def _finish_after_call(self) -> None:
        self.tokens += 7
        self._add_message("Done.")
        self.log.append(("agent_end", ""))
        self._start_next()

    def _add_message(self, text: str) -> None:
        self.log += [("message_start", ""), ("message", text)]
        self.messages.append(("assistant", text))

    def _start_next(self) -> None:
        """Run queued prompts until one waits for a person."""
        while self.queue and self.waiting_for is None:
            text, kind = self.queue.pop(0)
            self.messages.append(("user", text))
            self.log += [("prompt_received", text), ("agent_start", "")]
            self._run(kind)

    def _run(self, kind: Kind) -> None:
        match kind:
            case "plain":
                self.tokens += 5
                self._add_message("Hello.")
                self.log.append(("agent_end", ""))
            case "thinking":
                self.tokens += 7
                self.log += [("thinking_start", ""), ("thinking", "Hm, well.")]
                self._add_message("It is.")
                self.log.append(("agent_end", ""))
            case "failing":
                self.log += [("error", ""), ("agent_abort", "error")]
            case "free" | "guarded" | "question" | "unknown":
                self.tokens += 6
                self.log.append(("tool_calls", "1"))
                self._run_call(kind)

    def _run_call(self, kind: Literal["free", "guarded", "question", "unknown"]) -> None:
        match kind:
            case "free":
                self.log += [("tool_execution_start", "free"), ("tool_execution_end", "ok")]
                self._finish_after_call()
            case "unknown":
                self.log.append(("error", ""))
                self._finish_after_call()
            case "guarded":
                self.log.append(("approval_required", "guarded"))
                self.waiting_for = "approval"
            case "question":
                self.log += [("tool_execution_start", "ask_user"), ("ask_user", "Which?")]
                self.waiting_for = "question"


def summarize(events: Sequence[Event]) -> list[LogEntry]:
    """The log of a server in the form of `ReferenceSession.log`."""
    lines: list[LogEntry] = []
    for event in events:
        match event.name:
            case "message_delta" | "thinking_delta":
                name, text = event.name.removesuffix("_delta"), str(event.data["delta"])
                if lines and lines[-1][0] == name:
                    lines[-1] = (name, lines[-1][1] + text)
                else:
                    lines.append((name, text))
            case _:
                lines.append((event.name, str(event.data.get(_PREDICTED_FIELD.get(event.name, ""), ""))))
    return lines


_PREDICTED_FIELD: Final[Mapping[str, str]] = {
    "prompt_received": "text",
    "tool_calls": "count",
    "approval_required": "toolName",
    "approval_resolved": "status",
    "tool_execution_start": "toolName",
    "tool_execution_end": "status",
    "ask_user": "question",
    "agent_abort": "reason",
}
