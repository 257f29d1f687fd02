"""The accumulated state of a run: its text, tool calls, open approvals and questions, usage and outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, assert_never

from cmdc_client.base_errors import CmdcError
from cmdc_client.events import (
    AgentAbort,
    AgentEnd,
    AgentStart,
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    Event,
    MessageDelta,
    MessageStart,
    PromptReceived,
    RunError,
    ThinkingDelta,
    ThinkingStart,
    TokenUsage,
    ToolCalls,
    ToolExecutionEnd,
    ToolExecutionStart,
    UnknownEvent,
)


@dataclass(slots=True)
class ToolCall:
    """A tool call that has started, with the arguments it was run with. `result` is None while it runs."""

    call_id: str
    name: str
    args: Mapping[str, Any]
    status: Literal["running", "ok", "error"] = "running"
    result: str | None = None


class Transcript:
    """The state of a run, accumulated from its events. A `prompt_received` resets it, so it can also follow a session.

    `approvals` and `questions` are the unresolved ones, by id. `usage` and `cost_usd` are None until the run has ended.
    `aborted` is the reason if the run ended with `agent_abort`, and `errors` has the reasons of its `error` events.
    """

    def __init__(self, prompt: str = "", request_id: str = "") -> None:
        self.prompt = prompt
        self.request_id = request_id
        self.tool_calls: list[ToolCall] = []
        self.approvals: dict[str, ApprovalRequired] = {}
        self.questions: dict[str, AskUser] = {}
        self.errors: list[str] = []
        self.usage: TokenUsage | None = None
        self.cost_usd: float | None = None
        self.aborted: str | None = None
        self.done = False
        self._steps: list[list[str]] = [[]]
        self._thinking: list[str] = []
        self._step_ended = False
        self._question_of_call: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Transcript {self.request_id or '(empty)'} {self.text[:60]!r}>"

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """Return the transcript of these events."""
        transcript = cls()
        for event in events:
            transcript.add(event)
        return transcript

    @property
    def text(self) -> str:
        """The text of the current step; once the run has ended, the answer."""
        return "".join(self._steps[-1])

    @property
    def earlier(self) -> tuple[str, ...]:
        """The texts of the earlier steps, each of which ended with tool calls."""
        return tuple("".join(step) for step in self._steps[:-1] if step)

    @property
    def thinking(self) -> str:
        """The reasoning of the model, if it exposes any."""
        return "".join(self._thinking)

    def add(self, event: Event) -> None:
        """Apply the next event."""
        match event:
            case MessageDelta(delta=delta):
                self._begin_step()
                self._steps[-1].append(delta)
            case ThinkingDelta(delta=delta):
                self._begin_step()
                self._thinking.append(delta)
            case PromptReceived(text=text):
                vars(self).update(vars(type(self)(text, event.request_id)))
            case ToolCalls():
                self._step_ended = True
            case ApprovalRequired(approval_id=approval_id):
                self.approvals[approval_id] = event
            case ApprovalResolved(approval_id=approval_id):
                self.approvals.pop(approval_id, None)
            case ToolExecutionStart(call_id=call_id, tool_name=name, args=args):
                self.tool_calls.append(ToolCall(call_id, name, args))
            case AskUser():
                self._ask(event)
            case ToolExecutionEnd():
                self._end_call(event)
            case RunError(reason=reason):
                self.errors.append(reason)
            case AgentEnd(token_usage=usage, cost_usd=cost):
                self.usage, self.cost_usd, self.done = usage, cost, True
            case AgentAbort(reason=reason):
                self.aborted, self.done = reason, True
            case AgentStart() | ThinkingStart() | MessageStart() | UnknownEvent():
                pass
            case _:
                assert_never(event)

    def _begin_step(self) -> None:
        if self._step_ended:
            self._step_ended = False
            self._steps.append([])

    def _ask(self, event: AskUser) -> None:
        """Keep the question until its tool call ends.

        The event does not name its call: it is the first running call with this question that has none yet.
        """
        self.questions[event.ref] = event
        for call in self.tool_calls:
            matches = call.status == "running" and call.args.get("question") == event.question
            if matches and call.call_id not in self._question_of_call:
                self._question_of_call[call.call_id] = event.ref
                return

    def _end_call(self, end: ToolExecutionEnd) -> None:
        for call in self.tool_calls:
            if call.call_id == end.call_id:
                call.status, call.result = end.status, end.result
        self.questions.pop(self._question_of_call.get(end.call_id, ""), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """The agent's answer to one prompt.

    `text` is its last message; the `transcript` has everything before. `cost_usd` is in US dollars.
    """

    text: str
    transcript: Transcript = field(repr=False)
    usage: TokenUsage
    cost_usd: float

    @classmethod
    def of(cls, transcript: Transcript, end: AgentEnd) -> Self:
        """Return the reply of a run that has ended with `end`."""
        text = end.last_message.content if end.last_message is not None else transcript.text
        return cls(text, transcript, end.token_usage, end.cost_usd)

    @property
    def request_id(self) -> str:
        """The id of the run."""
        return self.transcript.request_id

    @property
    def thinking(self) -> str:
        """The reasoning of the model, if it exposes any."""
        return self.transcript.thinking

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that were run, in order."""
        return tuple(self.transcript.tool_calls)


class RunAborted(CmdcError):
    """A run was aborted before it had an answer. `reason` is that of its `agent_abort`; `transcript` is its state."""

    def __init__(self, reason: str, transcript: Transcript) -> None:
        errors = "".join(f"; {error}" for error in transcript.errors)
        super().__init__(f"the run was aborted: {reason}{errors}")
        self.reason = reason
        self.transcript = transcript

    @property
    def request_id(self) -> str:
        """The id of the run."""
        return self.transcript.request_id
