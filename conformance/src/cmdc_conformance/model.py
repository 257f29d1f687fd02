"""A session as it should be: a pure model of what prompts, decisions and aborts make of it.

It knows nothing of a server. Texts and events are told as a reader would put them together: pieces of one block joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cmdc_conformance.drivers.script import Reply, reply
from cmdc_conformance.monitors import Event

Kind = Literal["plain", "thinking", "free", "guarded", "question", "unknown", "failing"]
KINDS: Final[tuple[Kind, ...]] = ("plain", "thinking", "free", "guarded", "question", "unknown", "failing")

OPTIONS: Final = ("red", "blue")
_ARGS: Final[Mapping[str, Any]] = {"city": "Oslo"}

# What is said of one event: its name, and what matters of its data.
Told = tuple[str, str]


def replies(kind: Kind) -> Sequence[Reply]:
    """The script of a prompt of this kind."""
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
class ModelSession:
    """What a session should be. `waiting` is what its active run waits for."""

    log: list[Told] = field(default_factory=list[Told])
    said: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    queue: list[tuple[str, Kind]] = field(default_factory=list[tuple[str, Kind]])
    waiting: Literal["approval", "question"] | None = None
    prompts: int = 0
    tokens: int = 0
    decided: str | None = None
    answered: str | None = None

    @property
    def state(self) -> str:
        """What GET /v1/sessions/{id} should say, once nothing moves."""
        return {None: "idle", "approval": "waiting_approval", "question": "waiting_input"}[self.waiting]

    def prompt(self, text: str, kind: Kind) -> bool:
        """Take a prompt; whether it is queued."""
        self.prompts += 1
        queued = self.waiting is not None
        self.queue.append((text, kind))
        self._go_on()
        return queued

    def decide(self, status: Literal["approved", "rejected", "cancelled"]) -> None:
        """The approval that waits is decided, or was cancelled because its tool was registered again."""
        self.waiting, self.decided = None, status
        self.log.append(("approval_resolved", status))
        if status == "approved":
            self.log += [("tool_execution_start", "guarded"), ("tool_execution_end", "ok")]
        self._finish()

    def respond(self, answer: str) -> None:
        """The question that waits is answered."""
        self.waiting, self.answered = None, answer
        self.log.append(("tool_execution_end", "ok"))
        self._finish()

    def abort(self) -> bool:
        """The active run is stopped; whether there was one."""
        match self.waiting:
            case None:
                return False
            case "approval":
                self.decided = "cancelled"
                self.log.append(("approval_resolved", "cancelled"))
            case "question":
                self.answered = None
                self.log.append(("tool_execution_end", "error"))
        self.waiting = None
        self.log.append(("agent_abort", "aborted"))
        self._go_on()
        return True

    def _finish(self) -> None:
        self.tokens += 7
        self._say("Done.")
        self.log.append(("agent_end", ""))
        self._go_on()

    def _say(self, text: str) -> None:
        self.log += [("message_start", ""), ("message", text)]
        self.said.append(("assistant", text))

    def _go_on(self) -> None:
        """Take up prompts until one waits for a person."""
        while self.queue and self.waiting is None:
            text, kind = self.queue.pop(0)
            self.said.append(("user", text))
            self.log += [("prompt_received", text), ("agent_start", "")]
            self._run(kind)

    def _run(self, kind: Kind) -> None:
        match kind:
            case "plain":
                self.tokens += 5
                self._say("Hello.")
                self.log.append(("agent_end", ""))
            case "thinking":
                self.tokens += 7
                self.log += [("thinking_start", ""), ("thinking", "Hm, well.")]
                self._say("It is.")
                self.log.append(("agent_end", ""))
            case "failing":
                self.log += [("error", ""), ("agent_abort", "error")]
            case "free" | "guarded" | "question" | "unknown":
                self.tokens += 6
                self.log.append(("tool_calls", "1"))
                self._call(kind)

    def _call(self, kind: Literal["free", "guarded", "question", "unknown"]) -> None:
        match kind:
            case "free":
                self.log += [("tool_execution_start", "free"), ("tool_execution_end", "ok")]
                self._finish()
            case "unknown":
                self.log.append(("error", ""))
                self._finish()
            case "guarded":
                self.log.append(("approval_required", "guarded"))
                self.waiting = "approval"
            case "question":
                self.log += [("tool_execution_start", "ask_user"), ("ask_user", "Which?")]
                self.waiting = "question"


def told(events: Sequence[Event]) -> list[Told]:
    """A log in the model's words."""
    lines: list[Told] = []
    for event in events:
        match event.name:
            case "message_delta" | "thinking_delta":
                name, text = event.name.removesuffix("_delta"), str(event.data["delta"])
                if lines and lines[-1][0] == name:
                    lines[-1] = (name, lines[-1][1] + text)
                else:
                    lines.append((name, text))
            case _:
                lines.append((event.name, str(event.data.get(_MATTERS.get(event.name, ""), ""))))
    return lines


_MATTERS: Final[Mapping[str, str]] = {
    "prompt_received": "text",
    "tool_calls": "count",
    "approval_required": "toolName",
    "approval_resolved": "status",
    "tool_execution_start": "toolName",
    "tool_execution_end": "status",
    "ask_user": "question",
    "agent_abort": "reason",
}
