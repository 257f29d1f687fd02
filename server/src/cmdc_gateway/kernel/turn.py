"""The state machine of one run.

Everything the agent decides is decided here: which events a run emits and in what order (EVT-1 … EVT-4, EVT-9), what
follows from the user's decisions (APP-1, APP-2), and when the model is called again. Model calls, tool execution and
storage happen elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from pydantic import JsonValue

from cmdc_gateway.errors import ApprovalNotFound, QuestionNotFound
from cmdc_gateway.kernel.effects import AskModel, Outcome, RunTool, StopWork, add_messages, publish, start
from cmdc_gateway.kernel.signals import (
    Aborted,
    Answered,
    ApprovalExpired,
    Approved,
    BudgetRefused,
    Chunk,
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
    """The policy for a session's tool calls, as pure functions.

    `call_error` returns why a call is invalid (unknown tool, arguments that do not match its schema), or None.
    `parallel` is the number of tools that may run at the same time; `approval_ms` the time limit of an approval in ms,
    0 for none.
    """

    call_error: Callable[[str, dict[str, JsonValue]], str | None]
    requires_approval: Callable[[str], bool]
    digest: Callable[[ToolCall], str]
    approval_ms: int = 0
    max_steps: int = 100
    parallel: int = 8


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A tool call of the current step without a result."""

    call: ToolCall
    stage: Stage


class Turn:
    """The run of one prompt. `history_length` is the number of messages in the session when the run starts.

    The other keyword arguments restore a run that an earlier process left unfinished. `steps` counts model calls,
    `calls` tool calls.
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
        self._history_length = history_length
        self._usage = usage or TokenUsage()
        self._cost_usd = cost_usd
        self._open = {item.call.id: item for item in open_calls}
        self._ready: deque[str] = deque(item.call.id for item in self._open.values() if item.stage == "ready")
        self._asking_model = False
        self._block: Literal["thinking", "text", ""] = ""
        self._text = [text] if text else []
        self._requested: list[ToolRequested] = []

    # -- queries -------------------------------------------------------------------------------------------------------

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
        """Whether the run cannot proceed before the user decides or answers."""
        stages = {item.stage for item in self._open.values()}
        return bool(stages) and not self._asking_model and stages <= {"waiting_approval", "waiting_input"}

    @property
    def asking_model(self) -> bool:
        return self._asking_model

    def waiting_approval(self, approval_id: str) -> ToolCall | None:
        """The call whose pending approval has this id, or None."""
        return self._call_in_stage(approval_id, "apr_", "waiting_approval")

    def waiting_input(self, ref: str) -> ToolCall | None:
        """The `ask_user` call whose open question has this ref, or None."""
        return self._call_in_stage(ref, "ask_", "waiting_input")

    def _call_in_stage(self, name: str, prefix: str, stage: Stage) -> ToolCall | None:
        item = self._open.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        return item.call if item and item.stage == stage else None

    # -- signals -------------------------------------------------------------------------------------------------------

    def receive(self, signal: Signal, now: int) -> Outcome:
        """Process a signal that occurred at `now` (ms) and return what follows from it.

        Signals from canceled work, or after the end of the run, have no effect.

        Raises:
            ApprovalNotFound: no call waits for the approval that was decided.
            QuestionNotFound: no call waits for the answer that was given.
        """
        match signal:
            case Approved() | Rejected() | ApprovalExpired():
                return self._resolve_approval(signal)
            case Answered(ref, response):
                return self._answer_question(ref, response)
            case _ if self.ended:
                return Outcome()
            case Prompted(text):
                return self._append(user(text), PromptReceived(text), AgentStart()) + self._ask_model()
            case ToolFinished(call_id, status, result):
                return self._finish_call(call_id, status, result)
            case ToolReplaced(name):
                return self._cancel_approvals(name)
            case Aborted():
                return self._abort(signal)
            case TextArrived() | ThoughtArrived():
                return publish(*self.receive_chunk(signal))
            case _ if not self._asking_model:
                return Outcome()
            case ToolRequested():
                self._requested.append(signal)
                return Outcome()
            case ModelFinished(usage, cost_usd):
                return self._add_usage(usage, cost_usd) + self._finish_step(now)
            case ModelFailed(reason, usage, cost_usd):
                return self._add_usage(usage, cost_usd) + self._fail(reason, "error")
            case BudgetRefused(reason):
                return self._fail(reason, "budget_exceeded")
            case _:
                assert_never(signal)

    def receive_chunk(self, chunk: Chunk) -> tuple[Event, ...]:
        """Process a chunk of text as `receive` does; nothing but events follows from it."""
        if not self._asking_model or not chunk.text:
            return ()
        if isinstance(chunk, TextArrived):
            self._text.append(chunk.text)
            delta = MessageDelta(chunk.text)
            if self._block == "text":
                return (delta,)
            self._block = "text"
            return MessageStart(), delta
        thinking = ThinkingDelta(chunk.text)
        if self._block == "thinking":
            return (thinking,)
        self._block = "thinking"
        return ThinkingStart(), thinking

    # -- model calls ---------------------------------------------------------------------------------------------------

    def _ask_model(self) -> Outcome:
        if self.steps >= self._rules.max_steps:
            return self._finish(AgentAbort("max_turns_exceeded"))
        self.steps += 1
        self._asking_model = True
        self._block = ""
        self._text = []
        self._requested = []
        return start(AskModel())

    def _finish_step(self, now: int) -> Outcome:
        self._asking_model = False
        text, self._text = "".join(self._text), []
        if not self._requested:
            return self._append(assistant(text)) + self._finish(self._agent_end(text))
        calls = [self._assign_id(request) for request in self._requested]
        outcome = self._append(assistant(text, tuple(calls)), ToolCalls(len(calls)))
        for call, request in zip(calls, self._requested, strict=True):
            outcome += self._open_call(call, request.error or self._rules.call_error(call.name, call.args), now)
        return outcome + self._continue()

    def _assign_id(self, request: ToolRequested) -> ToolCall:
        # Providers reuse ids between sessions, and callback receivers deduplicate calls by id (CB-4).
        self.calls += 1
        return ToolCall(f"call_{self.request_id}_{self.calls}", request.name, request.args)

    def _open_call(self, call: ToolCall, error: str | None, now: int) -> Outcome:
        if error is not None:
            return self._append(tool_result(call, error, is_error=True), RunError(error))
        if call.name == ASK_USER:
            self._open[call.id] = OpenCall(call, "waiting_input")
            return publish(_execution_start(call), _ask_user_event(call))
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

    # -- approvals and questions ---------------------------------------------------------------------------------------

    def _resolve_approval(self, decision: Approved | Rejected | ApprovalExpired) -> Outcome:
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
                result = "The user rejected this call." + (f" Reason: {reason}" if reason else "")
                return self._decline(call, "rejected", result) + self._continue()
            case ApprovalExpired():
                return self._decline(call, "expired", "This call was not approved in time.") + self._continue()
            case _:
                assert_never(decision)

    def _cancel_approvals(self, name: str) -> Outcome:
        waiting = [item.call for item in self._open.values() if item.stage == "waiting_approval"]
        outcome = Outcome()
        for call in waiting:
            if call.name == name:
                outcome += self._decline(call, "cancelled", "The tool was replaced before this call was approved.")
        return outcome + self._continue() if outcome.events else outcome

    def _decline(self, call: ToolCall, status: ApprovalStatus, result: str) -> Outcome:
        del self._open[call.id]
        return self._append(tool_result(call, result, is_error=True), ApprovalResolved(f"apr_{call.id}", status))

    def _answer_question(self, ref: str, response: str) -> Outcome:
        call = self.waiting_input(ref)
        if call is None:
            raise QuestionNotFound(ref)
        return self._finish_call(call.id, "ok", response)

    # -- tool calls ----------------------------------------------------------------------------------------------------

    def _continue(self) -> Outcome:
        """Start the calls that may run now; call the model once every call of the step has a result."""
        outcome = Outcome()
        running = sum(item.stage == "running" for item in self._open.values())
        while self._ready and running < self._rules.parallel:
            call = self._open[self._ready.popleft()].call
            self._open[call.id] = OpenCall(call, "running")
            outcome += Outcome(events=(_execution_start(call),), effects=(RunTool(call),))
            running += 1
        return outcome if self._open else outcome + self._ask_model()

    def _finish_call(self, call_id: str, status: ToolStatus, result: str) -> Outcome:
        item = self._open.get(call_id)
        if item is None or item.stage not in ("running", "waiting_input"):
            return Outcome()
        return self._close_call(item.call, status, result) + self._continue()

    def _close_call(self, call: ToolCall, status: ToolStatus, result: str) -> Outcome:
        del self._open[call.id]
        end = ToolExecutionEnd(tool_name=call.name, call_id=call.id, status=status, result=result)
        return self._append(tool_result(call, result, is_error=status == "error"), end)

    # -- end of the run ------------------------------------------------------------------------------------------------

    def _abort(self, signal: Aborted) -> Outcome:
        outcome = self._add_usage(signal.usage, signal.cost_usd) + self._close_open_calls(f"Stopped: {signal.reason}.")
        outcome += publish(*((RunError(signal.error),) if signal.error else ()))
        return outcome + self._finish(AgentAbort(signal.reason)) + start(StopWork())

    def _fail(self, error: str, reason: str) -> Outcome:
        return self._close_open_calls("The run failed.") + publish(RunError(error)) + self._finish(AgentAbort(reason))

    def _close_open_calls(self, result: str) -> Outcome:
        """Close every open call (EVT-9). Text that was already published stays in the history (EP-messages)."""
        self._asking_model = False
        self._ready.clear()
        text, self._text = "".join(self._text), []
        outcome = self._append(assistant(text)) if text else Outcome()
        for item in list(self._open.values()):
            match item.stage:
                case "waiting_approval":
                    outcome += self._decline(item.call, "cancelled", result)
                case "running" | "waiting_input":
                    outcome += self._close_call(item.call, "error", result)
                case "ready":
                    del self._open[item.call.id]
                    outcome += self._append(tool_result(item.call, result, is_error=True))
                case _:
                    assert_never(item.stage)
        return outcome

    def _finish(self, terminal: Event) -> Outcome:
        self.ended = True
        return publish(terminal)

    def _agent_end(self, text: str) -> AgentEnd:
        return AgentEnd(
            message_count=self._history_length,
            last_message=LastMessage("assistant", text),
            token_usage=self._usage,
            cost_usd=self._cost_usd,
        )

    def _add_usage(self, usage: TokenUsage, cost_usd: float) -> Outcome:
        self._usage += usage
        self._cost_usd += cost_usd
        return Outcome(usage=usage, cost_usd=cost_usd)

    def _append(self, message: Message, *events: Event) -> Outcome:
        self._history_length += 1
        return publish(*events) + add_messages(message)


def _execution_start(call: ToolCall) -> ToolExecutionStart:
    return ToolExecutionStart(tool_name=call.name, call_id=call.id, args=call.args)


def _ask_user_event(call: ToolCall) -> AskUser:
    # The arguments match the schema of `ask_user`: a question, and options only as a list of strings.
    options = call.args.get("options")
    return AskUser(
        ref=f"ask_{call.id}",
        question=str(call.args["question"]),
        options=[str(option) for option in options] if isinstance(options, list) else None,
    )


def _hint(call: ToolCall) -> str:
    text = f"{call.name} {dumps(call.args).decode()}"
    return text if len(text) <= _HINT_LENGTH else text[: _HINT_LENGTH - 1] + "…"
