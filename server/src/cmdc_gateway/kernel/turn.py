"""One prompt's journey through the agent.

The whole of what an agent decides is here: which events a run shows and in what order (EVT-1 … EVT-4, EVT-9), what a
person's decision leads to (APP-1, APP-2), and when the model is asked again. How the model is reached, how a tool
runs and where events are kept, it does not know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from pydantic import JsonValue

from cmdc_gateway.errors import ApprovalNotFound, QuestionNotFound
from cmdc_gateway.kernel.effects import AskModel, Outcome, RunTool, StopWork, publish, say, start
from cmdc_gateway.kernel.signals import (
    Aborted,
    Answered,
    Approved,
    BudgetRefused,
    Chunk,
    Expired,
    ModelFailed,
    ModelFinished,
    Prompted,
    Rejected,
    Signal,
    TextArrived,
    ThoughtArrived,
    ToolFinished,
    ToolReplaced,
    ToolRequested,
)
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.events import (
    AgentAbort,
    AgentEnd,
    AgentStart,
    ApprovalRequired,
    ApprovalResolved,
    ApprovalStatus,
    AskUser,
    Event,
    LastMessage,
    MessageDelta,
    MessageStart,
    PromptReceived,
    RunError,
    ThinkingDelta,
    ThinkingStart,
    ToolCalls,
    ToolExecutionEnd,
    ToolExecutionStart,
    ToolStatus,
)
from cmdc_gateway.protocol.history import Message, TokenUsage, ToolCall, assistant, tool_result, user

ASK_USER = "ask_user"

Stage = Literal["ready", "waiting_approval", "waiting_input", "running"]
RunState = Literal["working", "waiting_approval", "waiting_input"]

_HINT_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the calls of a session. Each is a pure question about a tool call.

    `flaw` says why a tool cannot be called so: the session does not have it, or its schema refuses the arguments.
    `parallel` is how many tools may run at once; `approval_ms` how long a person has to decide, 0 for ever.
    """

    error: Callable[[str, dict[str, JsonValue]], str | None]
    requires_approval: Callable[[str], bool]
    digest: Callable[[ToolCall], str]
    approval_ms: int = 0
    max_steps: int = 100
    parallel: int = 8


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A tool call of the current step that has no result yet."""

    call: ToolCall
    stage: Stage


class Turn:
    """One prompt's journey through the agent.

    `history_length` is the number of messages the session has when the turn begins. The other arguments describe a
    turn that is taken up again where an earlier process left it.
    """

    def __init__(
        self,
        request_id: str,
        rules: Rules,
        *,
        history_length: int = 0,
        steps: int = 0,
        calls: int = 0,
        usage: TokenUsage | None = None,
        cost_usd: float = 0.0,
        open_calls: Iterable[OpenCall] = (),
        text: str = "",
    ) -> None:
        self.request_id = request_id
        self.steps = steps
        self.calls = calls
        self.ended = False
        self._rules = rules
        self._length = history_length
        self._usage = usage or TokenUsage()
        self._cost_usd = cost_usd
        self._open = {item.call.id: item for item in open_calls}
        self._ready: deque[str] = deque(item.call.id for item in self._open.values() if item.stage == "ready")
        self._asking_model = False
        self._block: Literal["thinking", "text", ""] = ""
        self._text = [text] if text else []
        self._requested: list[ToolRequested] = []

    # -- what can be asked of a turn -----------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        if not self._open:
            return "working"
        stages = {item.stage for item in self._open.values()}
        if "waiting_approval" in stages:
            return "waiting_approval"
        return "waiting_input" if "waiting_input" in stages else "working"

    @property
    def blocked_on_user(self) -> bool:
        """True while nothing can happen before a person decides or answers."""
        stages = {item.stage for item in self._open.values()}
        return bool(stages) and not self._asking_model and stages <= {"waiting_approval", "waiting_input"}

    @property
    def asking_model(self) -> bool:
        return self._asking_model

    def waiting_approval(self, approval_id: str) -> ToolCall | None:
        """The call that waits under this approvalId."""
        return self._in_stage(approval_id, "apr_", "waiting_approval")

    def waiting_input(self, ref: str) -> ToolCall | None:
        """The `ask_user` call that waits under this ref."""
        return self._in_stage(ref, "ask_", "waiting_input")

    def _in_stage(self, name: str, prefix: str, stage: Stage) -> ToolCall | None:
        item = self._open.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        return item.call if item and item.stage == stage else None

    # -- what happens to it --------------------------------------------------------------------------------------------

    def receive(self, signal: Signal, now: int) -> Outcome:
        """Take in one thing that happened at `now` (ms); return what to commit, show and start.

        What comes from work that was stopped, or after the end, leads to nothing.

        Raises:
            ApprovalNotFound: no call waits under the approvalId decided about.
            QuestionNotFound: no question waits under the ref answered.
        """
        match signal:
            case Approved() | Rejected() | Expired():
                return self._decided(signal)
            case Answered(ref, response):
                return self._answered(ref, response)
            case _ if self.ended:
                return Outcome()
            case Prompted(text):
                return self._message(user(text), PromptReceived(text), AgentStart()) + self._ask_model()
            case ToolFinished(call_id, status, result):
                return self._finished(call_id, status, result)
            case ToolReplaced(name):
                return self._replaced(name)
            case Aborted():
                return self._aborted(signal)
            case TextArrived() | ThoughtArrived():
                return publish(*self.receive_chunk(signal))
            case _ if not self._asking_model:
                return Outcome()
            case ToolRequested():
                self._requested.append(signal)
                return Outcome()
            case ModelFinished(usage, cost_usd):
                return self._count(usage, cost_usd) + self._step_done(now)
            case ModelFailed(reason, usage, cost_usd):
                return self._count(usage, cost_usd) + self._failed(reason, "error")
            case BudgetRefused(reason):
                return self._failed(reason, "budget_exceeded")
            case _:
                assert_never(signal)

    def receive_chunk(self, piece: Chunk) -> tuple[Event, ...]:
        """Take in a piece of what the model says, as `receive` does: all that follows are events."""
        if not self._asking_model or not piece.text:
            return ()
        if isinstance(piece, TextArrived):
            self._text.append(piece.text)
            delta = MessageDelta(piece.text)
            if self._block == "text":
                return (delta,)
            self._block = "text"
            return MessageStart(), delta
        thought = ThinkingDelta(piece.text)
        if self._block == "thinking":
            return (thought,)
        self._block = "thinking"
        return ThinkingStart(), thought

    # -- the model speaks ----------------------------------------------------------------------------------------------

    def _ask_model(self) -> Outcome:
        if self.steps >= self._rules.max_steps:
            return self._end(AgentAbort("max_turns_exceeded"))
        self.steps += 1
        self._asking_model = True
        self._block = ""
        self._text = []
        self._requested = []
        return start(AskModel())

    def _step_done(self, now: int) -> Outcome:
        self._asking_model = False
        said, self._text = "".join(self._text), []
        if not self._requested:
            return self._message(assistant(said)) + self._end(self._agent_end(said))
        calls = [self._numbered(request) for request in self._requested]
        outcome = self._message(assistant(said, tuple(calls)), ToolCalls(len(calls)))
        for call, request in zip(calls, self._requested, strict=True):
            outcome += self._open_call(call, request.error or self._rules.error(call.name, call.args), now)
        return outcome + self._continue()

    def _numbered(self, request: ToolRequested) -> ToolCall:
        # A model's own ids repeat between sessions, and a callback's receiver tells calls apart by them (CB-4).
        self.calls += 1
        return ToolCall(f"call_{self.request_id}_{self.calls}", request.name, request.args)

    def _open_call(self, call: ToolCall, flaw: str | None, now: int) -> Outcome:
        if flaw is not None:
            return self._message(tool_result(call, flaw, is_error=True), RunError(flaw))
        if call.name == ASK_USER:
            self._open[call.id] = OpenCall(call, "waiting_input")
            return publish(_started(call), _question(call))
        if self._rules.requires_approval(call.name):
            self._open[call.id] = OpenCall(call, "waiting_approval")
            return publish(self._approval_required(call, now))
        self._open[call.id] = OpenCall(call, "ready")
        self._ready.append(call.id)
        return Outcome()

    def _approval_required(self, call: ToolCall, now: int) -> ApprovalRequired:
        return ApprovalRequired(
            approval_id=f"apr_{call.id}",
            tool_name=call.name,
            args=call.args,
            hint=_hint(call),
            requested_at=now,
            call_id=call.id,
            digest=self._rules.digest(call),
            expires_at=now + self._rules.approval_ms if self._rules.approval_ms else None,
        )

    # -- a person decides ----------------------------------------------------------------------------------------------

    def _decided(self, decision: Approved | Rejected | Expired) -> Outcome:
        call = self.waiting_approval(decision.approval_id)
        if call is None:
            raise ApprovalNotFound(decision.approval_id)
        match decision:
            case Approved(_, args):
                call = call if args is None else replace(call, args=args)
                self._open[call.id] = OpenCall(call, "ready")
                self._ready.append(call.id)
                return publish(ApprovalResolved(decision.approval_id, "approved")) + self._continue()
            case Rejected(_, reason):
                sentence = "A person rejected this call." + (f" Reason: {reason}" if reason else "")
                return self._refused(call, "rejected", sentence) + self._continue()
            case Expired():
                return self._refused(call, "expired", "Nobody decided about this call in time.") + self._continue()
            case _:
                assert_never(decision)

    def _replaced(self, name: str) -> Outcome:
        waiting = [item.call for item in self._open.values() if item.stage == "waiting_approval"]
        outcome = Outcome()
        for call in waiting:
            if call.name == name:
                outcome += self._refused(call, "cancelled", "This tool was replaced before anybody decided.")
        return outcome + self._continue() if outcome.events else outcome

    def _refused(self, call: ToolCall, status: ApprovalStatus, sentence: str) -> Outcome:
        del self._open[call.id]
        return self._message(tool_result(call, sentence, is_error=True), ApprovalResolved(f"apr_{call.id}", status))

    def _answered(self, ref: str, response: str) -> Outcome:
        call = self.waiting_input(ref)
        if call is None:
            raise QuestionNotFound(ref)
        return self._finished(call.id, "ok", response)

    # -- tools run -----------------------------------------------------------------------------------------------------

    def _continue(self) -> Outcome:
        """Start what may start now, or ask the model again once every call of the step has its result."""
        outcome = Outcome()
        running = sum(item.stage == "running" for item in self._open.values())
        while self._ready and running < self._rules.parallel:
            call = self._open[self._ready.popleft()].call
            self._open[call.id] = OpenCall(call, "running")
            outcome += Outcome(events=(_started(call),), effects=(RunTool(call),))
            running += 1
        return outcome if self._open else outcome + self._ask_model()

    def _finished(self, call_id: str, status: ToolStatus, result: str) -> Outcome:
        item = self._open.get(call_id)
        if item is None or item.stage not in ("running", "waiting_input"):
            return Outcome()
        return self._closed(item.call, status, result) + self._continue()

    def _closed(self, call: ToolCall, status: ToolStatus, result: str) -> Outcome:
        del self._open[call.id]
        end = ToolExecutionEnd(tool_name=call.name, call_id=call.id, status=status, result=result)
        return self._message(tool_result(call, result, is_error=status == "error"), end)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _aborted(self, signal: Aborted) -> Outcome:
        outcome = self._count(signal.usage, signal.cost_usd) + self._close_open(f"Stopped: {signal.reason}.")
        outcome += publish(*((RunError(signal.error),) if signal.error else ()))
        return outcome + self._end(AgentAbort(signal.reason)) + start(StopWork())

    def _failed(self, error: str, reason: str) -> Outcome:
        return self._close_open("The run failed.") + publish(RunError(error)) + self._end(AgentAbort(reason))

    def _close_open(self, sentence: str) -> Outcome:
        """Close what the run leaves open (EVT-9). Text that readers saw stays in the history (§3.9)."""
        self._asking_model = False
        self._ready.clear()
        said, self._text = "".join(self._text), []
        outcome = self._message(assistant(said)) if said else Outcome()
        for item in list(self._open.values()):
            match item.stage:
                case "waiting_approval":
                    outcome += self._refused(item.call, "cancelled", sentence)
                case "running" | "waiting_input":
                    outcome += self._closed(item.call, "error", sentence)
                case "ready":
                    del self._open[item.call.id]
                    outcome += self._message(tool_result(item.call, sentence, is_error=True))
                case _:
                    assert_never(item.stage)
        return outcome

    def _end(self, terminal: Event) -> Outcome:
        self.ended = True
        return publish(terminal)

    def _agent_end(self, said: str) -> AgentEnd:
        return AgentEnd(
            message_count=self._length,
            last_message=LastMessage("assistant", said),
            token_usage=self._usage,
            cost_usd=self._cost_usd,
        )

    def _count(self, usage: TokenUsage, cost_usd: float) -> Outcome:
        self._usage += usage
        self._cost_usd += cost_usd
        return Outcome(usage=usage, cost_usd=cost_usd)

    def _message(self, message: Message, *events: Event) -> Outcome:
        self._length += 1
        return publish(*events) + say(message)


def _started(call: ToolCall) -> ToolExecutionStart:
    return ToolExecutionStart(tool_name=call.name, call_id=call.id, args=call.args)


def _question(call: ToolCall) -> AskUser:
    # The schema of `ask_user` has been checked: a question, and options only as a list of strings.
    options = call.args.get("options")
    return AskUser(
        ref=f"ask_{call.id}",
        question=str(call.args["question"]),
        options=[str(option) for option in options] if isinstance(options, list) else None,
    )


def _hint(call: ToolCall) -> str:
    text = f"{call.name} {dumps(call.args).decode()}"
    return text if len(text) <= _HINT_LENGTH else text[: _HINT_LENGTH - 1] + "…"
