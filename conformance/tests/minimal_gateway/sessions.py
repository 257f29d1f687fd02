"""A session: settings, history, queue, and the agent that runs the prompts."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minimal_gateway.callbacks import Callbacks, CallbackTool, CallFailed
from minimal_gateway.errors import ApiError, bad_request, encode
from minimal_gateway.log import Log
from minimal_gateway.schema import validation_error
from minimal_gateway.script import Attempts, Reply, ScriptError, Usage, reply_to
from minimal_gateway.tools import ASK_USER, NEEDS_APPROVAL, PARAMETERS, Workspace

_QUEUED = 100
_RETRY_SECONDS = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a session."""

    model: str
    folder: Path
    tools: tuple[str, ...] = ()
    needs_approval: bool = False
    max_turns: int = 100
    system_prompt: str = ""


@dataclass(slots=True)
class Run:
    """The run of one prompt. `first` and `last` are positions in the log."""

    request_id: str
    text: str
    first: int | None = None
    last: int | None = None
    calls: int = 0
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class Call:
    """A tool call without a result. It waits for a person, is running, or is ready."""

    id: str
    name: str
    args: dict[str, Any]
    stage: str = "ready"


@dataclass(slots=True)
class Decision:
    """An approval, or a question with options."""

    call_id: str
    status: str = "pending"
    answer: str | None = None
    options: list[str] | None = None
    decided: asyncio.Event = field(default_factory=asyncio.Event)


class ModelFailed(Exception):
    """The model failed, or its reply was cut."""


class Session:
    """One agent. Only the task that runs prompts ever waits; all other methods are synchronous."""

    def __init__(
        self, session_id: str, settings: Settings, *, attempts: Attempts, callbacks: Callbacks, workspace: Workspace
    ) -> None:
        self.id = session_id
        self.settings = settings
        self.log = Log()
        self.messages: list[dict[str, Any]] = []
        self.callback_tools: dict[str, CallbackTool] = {}
        self.delivered = 0
        self.turns = self.tool_calls = self.prompts = 0
        self.usage = Usage()
        self.draining = False
        self._attempts, self._callbacks, self._workspace = attempts, callbacks, workspace
        self._created_at = time.monotonic()
        self._queue: deque[Run] = deque()
        self._run: Run | None = None
        self._latest: Run | None = None
        self._open: dict[str, Call] = {}
        self._decisions: dict[str, Decision] = {}
        self._text = ""
        self._task: asyncio.Task[None] | None = None
        if settings.system_prompt:
            self.messages.append({"role": "system", "content": settings.system_prompt})

    # -- reading ----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        stages = {call.stage for call in self._open.values()}
        for stage in ("waiting_approval", "waiting_input"):
            if stage in stages:
                return stage
        return "working" if self._run else "idle"

    @property
    def active(self) -> bool:
        return self._run is not None

    @property
    def blocked_on_user(self) -> bool:
        stages = {call.stage for call in self._open.values()}
        return bool(stages) and stages <= {"waiting_approval", "waiting_input"}

    def info(self) -> dict[str, Any]:
        return {
            "sessionId": self.id,
            "state": self.state,
            "turns": self.turns,
            "toolCalls": self.tool_calls,
            "totalTokens": self.usage.prompt + self.usage.completion,
            "uptimeMs": int((time.monotonic() - self._created_at) * 1000),
        }

    def stats(self) -> dict[str, Any]:
        return {
            "sessionId": self.id,
            "turns": self.turns,
            "totalTokens": self.usage.prompt + self.usage.completion,
            "costUsd": 0,
            "promptCount": self.prompts,
            "tokenUsage": self.usage.wire(),
        }

    def start(self) -> int:
        """The position at which a reader starts (SSE-5)."""
        if self._run is not None and self._run.first is not None:
            return self._run.first
        latest = self._latest
        if self._queue or latest is None or latest.first is None or latest.last is None:
            return len(self.log.events)
        return latest.first if latest.last >= self.delivered else len(self.log.events)

    # -- actions ----------------------------------------------------------------------------------------------------------

    def prompt(self, text: str) -> dict[str, Any]:
        if self.draining:
            raise ApiError("unavailable", "the server is stopping", {"Retry-After": "5"})
        if len(self._queue) >= _QUEUED:
            raise ApiError("queue_full", f"{_QUEUED} prompts are queued")
        queued = self._run is not None or bool(self._queue)
        run = Run(secrets.token_hex(8), text)
        self._queue.append(run)
        self.prompts += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())
        return {"requestId": run.request_id, "sessionId": self.id, "queued": queued}

    def decide(self, action: str, approval_id: str) -> dict[str, Any]:
        """Approve or reject a call (APP-1, APP-2)."""
        decision = self._decisions.get(approval_id)
        if decision is None or not approval_id.startswith("apr_"):
            raise ApiError("not_found", f"unknown approval {approval_id!r}")
        status = {"approve": "approved", "reject": "rejected"}[action]
        if decision.status == "pending":
            self._open[decision.call_id].stage = "ready"
            self._resolve(approval_id, decision, status)
        elif decision.status != status:
            raise ApiError("already_resolved", f"approval {approval_id!r} is {decision.status}", status=decision.status)
        return {"ok": True, "action": action, "approvalId": approval_id}

    def respond(self, ref: str, response: str) -> dict[str, Any]:
        """Answer a question (ASK-1)."""
        decision = self._decisions.get(ref)
        if decision is None or not ref.startswith("ask_"):
            raise ApiError("not_found", f"unknown question {ref!r}")
        if decision.status == "pending":
            if decision.options is not None and response not in decision.options:
                raise bad_request(f"response: must be one of {decision.options}")
            decision.status, decision.answer = "answered", response
            self._open[decision.call_id].stage = "running"
            decision.decided.set()
        elif (decision.status, decision.answer) != ("answered", response):
            raise ApiError("already_resolved", f"question {ref!r} is {decision.status}", status=decision.status)
        return {"ok": True, "action": "respond", "ref": ref}

    def register(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Add a callback tool, or replace one (CB-1)."""
        tool = self._callbacks.register(payload)
        if tool.name in PARAMETERS:
            raise ApiError("registration_failed", f"name: {tool.name!r} is a built-in tool")
        self.callback_tools[tool.name] = tool
        return {"name": tool.name, "status": "registered"}

    def delete(self) -> None:
        """Abort the run, tell its readers, and close the log."""
        if self._task is not None:
            self._task.cancel()
        if self._run is not None:
            self._abort_run("agent_abort", reason="session_deleted")
        self.log.close()

    # -- running ----------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._queue and not self.draining:
            run = self._run = self._queue.popleft()
            run.first = len(self.log.events)
            try:
                await self._run_prompt(run)
            except (ModelFailed, ScriptError) as failure:
                self._abort_run("agent_abort", error=str(failure), reason="error")

    async def _run_prompt(self, run: Run) -> None:
        self.messages.append({"role": "user", "content": run.text})
        self.log.append("prompt_received", {"text": run.text})
        self.log.append("agent_start", {})
        for _ in range(self.settings.max_turns):
            self.turns += 1
            reply = await self._ask_model(run)
            text, self._text = self._text, ""
            if not reply.calls:
                self._complete_run(run, text)
                return
            calls = [self._with_id(run, call) for call in reply.calls]
            named = [{"callId": call.id, "name": call.name, "arguments": call.args} for call in calls]
            self.messages.append({"role": "assistant", "content": text, "toolCalls": named})
            self.log.append("tool_calls", {"count": len(calls)})
            self._open = {call.id: call for call in calls}
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(self._run_call(call))
        self._abort_run("agent_abort", reason="max_turns_exceeded")

    def _with_id(self, run: Run, call: dict[str, Any]) -> Call:
        run.calls += 1
        return Call(f"call_{run.request_id}_{run.calls}", call["name"], call["args"])

    async def _ask_model(self, run: Run) -> Reply:
        for wait in (*_RETRY_SECONDS, None):
            reply = reply_to(self.messages)
            failed = self._attempts.fails(reply)
            if not failed:
                await self._emit(reply)
                run.usage += reply.usage
                self.usage += reply.usage
                if not reply.cut:
                    return reply
                if self._text or reply.chunks:
                    raise ModelFailed("the model's reply was cut")
            transient = not failed or reply.fail_status == 429 or reply.fail_status >= 500
            if wait is None or not transient:
                raise ModelFailed(
                    f"the model failed with status {reply.fail_status}" if failed else "the model's reply was cut"
                )
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _emit(self, reply: Reply) -> None:
        block, rest = "", ""
        for kind, chunk in reply.chunks:
            await asyncio.sleep(reply.delay_seconds)
            text, rest = _complete_characters(rest + chunk)
            if not text:
                continue
            event = "thinking" if kind == "thinking" else "message"
            if block != event:
                self.log.append(f"{event}_start", {})
            block = event
            self.log.append(f"{event}_delta", {"delta": text})
            self._text += text if event == "message" else ""

    async def _run_call(self, call: Call) -> None:
        parameters = self._parameters(call.name)
        found = (
            f"this session has no tool {call.name!r}" if parameters is None else validation_error(parameters, call.args)
        )
        if found:
            self.log.append("error", {"reason": found})
            self._result(call, found, is_error=True)
        elif call.name == ASK_USER:
            await self._ask_user(call)
        elif await self._is_approved(call):
            self._start_call(call)
            status, result = await self._run_tool(call)
            self._finish_call(call, status, result)

    def _parameters(self, name: str) -> dict[str, Any] | None:
        if name in self.callback_tools:
            return self.callback_tools[name].parameters
        return PARAMETERS[name] if name in self.settings.tools else None

    async def _ask_user(self, call: Call) -> None:
        self._start_call(call)
        ref, options = f"ask_{call.id}", call.args.get("options")
        decision = self._decisions[ref] = Decision(call.id, options=options)
        call.stage = "waiting_input"
        self.log.append("ask_user", {"ref": ref, "question": call.args["question"], "options": options})
        await decision.decided.wait()
        if call.id in self._open:
            self._finish_call(call, "ok", decision.answer or "")

    async def _is_approved(self, call: Call) -> bool:
        if not (self.settings.needs_approval and call.name in NEEDS_APPROVAL):
            return True
        approval_id = f"apr_{call.id}"
        decision = self._decisions[approval_id] = Decision(call.id)
        call.stage = "waiting_approval"
        data = {"approvalId": approval_id, "toolName": call.name, "args": call.args}
        hint = f"{call.name} {encode(call.args).decode()}"[:200]
        self.log.append("approval_required", {**data, "hint": hint, "requestedAt": time.time_ns() // 1_000_000})
        await decision.decided.wait()
        if decision.status == "rejected":
            self._result(call, "The call was rejected.", is_error=True)
        return decision.status == "approved"

    async def _run_tool(self, call: Call) -> tuple[str, str]:
        try:
            if call.name in self.callback_tools:
                sent = {"callId": call.id, "toolName": call.name, "args": call.args, "sessionId": self.id}
                return "ok", await self._callbacks.call(self.callback_tools[call.name], sent)
            return "ok", self._workspace.run(call.name, call.args, self.settings.folder)
        except (CallFailed, ValueError) as failure:
            return "error", str(failure)
        except OSError as failure:
            return "error", failure.strerror or "cannot use the file"

    # -- events and messages ----------------------------------------------------------------------------------------------

    def _start_call(self, call: Call) -> None:
        call.stage = "running"
        self.tool_calls += 1
        self.log.append("tool_execution_start", {"toolName": call.name, "callId": call.id, "args": call.args})

    def _finish_call(self, call: Call, status: str, result: str) -> None:
        data = {"toolName": call.name, "callId": call.id, "status": status, "result": result}
        self.log.append("tool_execution_end", data)
        self._result(call, result, is_error=status == "error")

    def _result(self, call: Call, content: str, *, is_error: bool) -> None:
        self._open.pop(call.id, None)
        about = {"callId": call.id, "name": call.name, "isError": is_error}
        self.messages.append({"role": "tool_result", "content": content, **about})

    def _resolve(self, approval_id: str, decision: Decision, status: str) -> None:
        decision.status = status
        self.log.append("approval_resolved", {"approvalId": approval_id, "status": status})
        decision.decided.set()

    def _complete_run(self, run: Run, text: str) -> None:
        last = {"role": "assistant", "content": text}
        self.messages.append(last)
        data = {"messageCount": len(self.messages), "lastMessage": last, "tokenUsage": run.usage.wire()}
        self._end_run("agent_end", data)

    def _abort_run(self, terminal: str, *, reason: str, error: str | None = None) -> None:
        """Close open calls and approvals (EVT-9), then end the run."""
        if self._text:
            self.messages.append({"role": "assistant", "content": self._text})
        self._text = ""
        for call in list(self._open.values()):
            if call.stage == "waiting_approval":
                self._resolve(f"apr_{call.id}", self._decisions[f"apr_{call.id}"], "cancelled")
                self._result(call, "The run was aborted.", is_error=True)
            elif call.stage == "ready":
                self._result(call, "The run was aborted.", is_error=True)
            else:
                if f"ask_{call.id}" in self._decisions:
                    self._decisions[f"ask_{call.id}"].status = "cancelled"
                self._finish_call(call, "error", "The run was aborted.")
        if error is not None:
            self.log.append("error", {"reason": error})
        self._end_run(terminal, {"reason": reason})

    def _end_run(self, name: str, data: dict[str, Any]) -> None:
        assert self._run is not None, "a run is active"
        self._latest, self._run = self._run, None
        self._latest.last = len(self.log.events)
        self.log.append(name, data)


def _complete_characters(text: str) -> tuple[str, str]:
    """Split text into complete characters and a trailing lone surrogate (EVT-6)."""
    rest = ""
    if text and "\ud800" <= text[-1] <= "\udbff":
        text, rest = text[:-1], text[-1]
    with suppress(ValueError):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text, rest
