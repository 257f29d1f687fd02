"""A run's events folded into what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, assert_never

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
    """A tool call that ran, with the arguments it ran with. `result` is None while it runs."""

    call_id: str
    name: str
    args: Mapping[str, Any]
    status: Literal["running", "ok", "error"] = "running"
    result: str | None = None


class Transcript:
    """What a run has come to so far. A `prompt_received` begins it anew, so it can follow a whole session too.

    `approvals` and `questions` are those that still wait for a person, by their ids. `usage` and `cost_usd` are there
    at the end of the run, and `aborted` is its reason if that end was an `agent_abort`.
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
        self._step_over = False
        self._asked: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Transcript of {self.request_id or 'no run'}: {self.text[:60]!r}>"

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """The transcript of these events."""
        transcript = cls()
        for event in events:
            transcript.add(event)
        return transcript

    @property
    def text(self) -> str:
        """What the agent has said in this step; at the end of the run, its answer."""
        return "".join(self._steps[-1])

    @property
    def earlier(self) -> tuple[str, ...]:
        """What it said in the steps before, each of which ended with tool calls."""
        return tuple("".join(step) for step in self._steps[:-1] if step)

    @property
    def thinking(self) -> str:
        """Its reasoning, as far as it was shown."""
        return "".join(self._thinking)

    def add(self, event: Event) -> None:
        """Take in the next event."""
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
                self._step_over = True
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
        if self._step_over:
            self._step_over = False
            self._steps.append([])

    def _ask(self, event: AskUser) -> None:
        """Keep the question until its call ends. It does not name the call, which is the first to ask just this."""
        self.questions[event.ref] = event
        for call in self.tool_calls:
            asks = call.status == "running" and call.args.get("question") == event.question
            if asks and call.call_id not in self._asked:
                self._asked[call.call_id] = event.ref
                return

    def _end_call(self, end: ToolExecutionEnd) -> None:
        for call in self.tool_calls:
            if call.call_id == end.call_id:
                call.status, call.result = end.status, end.result
        self.questions.pop(self._asked.get(end.call_id, ""), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the agent answered to one prompt.

    `text` is its answer: what it said last. What it said and did before is in the `transcript`.
    """

    text: str
    transcript: Transcript = field(repr=False)
    usage: TokenUsage
    cost_usd: float

    @classmethod
    def of(cls, transcript: Transcript, end: AgentEnd) -> Self:
        text = end.last_message.content if end.last_message is not None else transcript.text
        return cls(text, transcript, end.token_usage, end.cost_usd)

    @property
    def request_id(self) -> str:
        return self.transcript.request_id

    @property
    def thinking(self) -> str:
        """Its reasoning, as far as it was shown."""
        return self.transcript.thinking

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that ran, in order."""
        return tuple(self.transcript.tool_calls)
