"""A session: its settings, its history, its queue, and the agent that works it off."""

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
from minimal_gateway.log import Log
from minimal_gateway.refusals import Refusal, encoded, wrong
from minimal_gateway.schema import flaw
from minimal_gateway.script import Reply, ScriptFlaw, Tries, Usage, reply_to
from minimal_gateway.tools import ASK_USER, GUARDED, PARAMETERS, Workspace

_QUEUED = 100
_RETRY_SECONDS = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a session was made."""

    model: str
    folder: Path
    tools: tuple[str, ...] = ()
    asks_a_person: bool = False
    max_turns: int = 100
    system_prompt: str = ""


@dataclass(slots=True)
class Run:
    """What answers one prompt. `first` and `last` are places in the log, once they are known."""

    request_id: str
    text: str
    first: int | None = None
    last: int | None = None
    calls: int = 0
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class Call:
    """A tool call without a result. It waits for a person, runs, or neither yet."""

    id: str
    name: str
    args: dict[str, Any]
    stage: str = "ready"


@dataclass(slots=True)
class Decision:
    """What a person is asked, or was: an approval, or a question with options."""

    call_id: str
    status: str = "pending"
    answer: str | None = None
    options: list[str] | None = None
    decided: asyncio.Event = field(default_factory=asyncio.Event)


class ModelFailed(Exception):
    """The model gave no whole answer."""


class Session:
    """One agent. Everything but the work itself happens at once, without waiting."""

    def __init__(
        self, session_id: str, settings: Settings, *, tries: Tries, callbacks: Callbacks, workspace: Workspace
    ) -> None:
        self.id = session_id
        self.settings = settings
        self.log = Log()
        self.messages: list[dict[str, Any]] = []
        self.callback_tools: dict[str, CallbackTool] = {}
        self.served = 0
        self.turns = self.tool_calls = self.prompts = 0
        self.usage = Usage()
        self.draining = False
        self._tries, self._callbacks, self._workspace = tries, callbacks, workspace
        self._born = time.monotonic()
        self._queue: deque[Run] = deque()
        self._run: Run | None = None
        self._newest: Run | None = None
        self._open: dict[str, Call] = {}
        self._decisions: dict[str, Decision] = {}
        self._said = ""
        self._task: asyncio.Task[None] | None = None
        if settings.system_prompt:
            self.messages.append({"role": "system", "content": settings.system_prompt})

    # -- what it shows -------------------------------------------------------------------------------------------------

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
    def only_waits(self) -> bool:
        stages = {call.stage for call in self._open.values()}
        return bool(stages) and stages <= {"waiting_approval", "waiting_input"}

    def info(self) -> dict[str, Any]:
        return {
            "sessionId": self.id,
            "state": self.state,
            "turns": self.turns,
            "toolCalls": self.tool_calls,
            "totalTokens": self.usage.prompt + self.usage.completion,
            "uptimeMs": int((time.monotonic() - self._born) * 1000),
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
        """Where a reader begins (SSE-5)."""
        if self._run is not None and self._run.first is not None:
            return self._run.first
        newest = self._newest
        if self._queue or newest is None or newest.first is None or newest.last is None:
            return len(self.log.events)
        return newest.first if newest.last >= self.served else len(self.log.events)

    # -- what is done to it --------------------------------------------------------------------------------------------

    def prompt(self, text: str) -> dict[str, Any]:
        if self.draining:
            raise Refusal("unavailable", "the server is stopping", {"Retry-After": "5"})
        if len(self._queue) >= _QUEUED:
            raise Refusal("queue_full", f"{_QUEUED} prompts wait already")
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
            raise Refusal("not_found", f"there is no approval {approval_id!r}")
        status = {"approve": "approved", "reject": "rejected"}[action]
        if decision.status == "pending":
            self._open[decision.call_id].stage = "ready"
            self._resolve(approval_id, decision, status)
        elif decision.status != status:
            raise Refusal("already_resolved", f"approval {approval_id!r} is {decision.status}", status=decision.status)
        return {"ok": True, "action": action, "approvalId": approval_id}

    def respond(self, ref: str, response: str) -> dict[str, Any]:
        """Answer a question (ASK-1)."""
        decision = self._decisions.get(ref)
        if decision is None or not ref.startswith("ask_"):
            raise Refusal("not_found", f"there is no question {ref!r}")
        if decision.status == "pending":
            if decision.options is not None and response not in decision.options:
                raise wrong(f"response: must be one of {decision.options}")
            decision.status, decision.answer = "answered", response
            self._open[decision.call_id].stage = "running"
            decision.decided.set()
        elif (decision.status, decision.answer) != ("answered", response):
            raise Refusal("already_resolved", f"question {ref!r} is {decision.status}", status=decision.status)
        return {"ok": True, "action": "respond", "ref": ref}

    def register(self, given: dict[str, Any]) -> dict[str, Any]:
        """Add a callback tool, or replace one (CB-1)."""
        tool = self._callbacks.register(given)
        if tool.name in PARAMETERS:
            raise Refusal("registration_failed", f"name: {tool.name!r} is a built-in tool")
        self.callback_tools[tool.name] = tool
        return {"name": tool.name, "status": "registered"}

    def delete(self) -> None:
        """Stop, say so to whoever reads, and be gone."""
        if self._task is not None:
            self._task.cancel()
        if self._run is not None:
            self._finish("agent_abort", reason="session_deleted")
        self.log.close()

    # -- the work ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._queue and not self.draining:
            run = self._run = self._queue.popleft()
            run.first = len(self.log.events)
            try:
                await self._answer(run)
            except (ModelFailed, ScriptFlaw) as failure:
                self._finish("agent_abort", error=str(failure), reason="error")

    async def _answer(self, run: Run) -> None:
        self.messages.append({"role": "user", "content": run.text})
        self.log.append("prompt_received", {"text": run.text})
        self.log.append("agent_start", {})
        for _ in range(self.settings.max_turns):
            self.turns += 1
            reply = await self._ask_model(run)
            said, self._said = self._said, ""
            if not reply.calls:
                self._end(run, said)
                return
            calls = [self._numbered(run, call) for call in reply.calls]
            named = [{"callId": call.id, "name": call.name, "arguments": call.args} for call in calls]
            self.messages.append({"role": "assistant", "content": said, "toolCalls": named})
            self.log.append("tool_calls", {"count": len(calls)})
            self._open = {call.id: call for call in calls}
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(self._carry_out(call))
        self._finish("agent_abort", reason="max_turns_exceeded")

    def _numbered(self, run: Run, call: dict[str, Any]) -> Call:
        run.calls += 1
        return Call(f"call_{run.request_id}_{run.calls}", call["name"], call["args"])

    async def _ask_model(self, run: Run) -> Reply:
        for wait in (*_RETRY_SECONDS, None):
            reply = reply_to(self.messages)
            failed = self._tries.fails(reply)
            if not failed:
                await self._show(reply)
                run.usage += reply.usage
                self.usage += reply.usage
                if not reply.cut:
                    return reply
                if self._said or reply.pieces:
                    raise ModelFailed("the model's answer was cut off")
            passing = not failed or reply.fail_status == 429 or reply.fail_status >= 500
            if wait is None or not passing:
                raise ModelFailed(f"the model failed with status {reply.fail_status}" if failed else "it was cut off")
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _show(self, reply: Reply) -> None:
        block, rest = "", ""
        for kind, piece in reply.pieces:
            await asyncio.sleep(reply.delay_seconds)
            text, rest = _whole(rest + piece)
            if not text:
                continue
            event = "thinking" if kind == "thinking" else "message"
            if block != event:
                self.log.append(f"{event}_start", {})
            block = event
            self.log.append(f"{event}_delta", {"delta": text})
            self._said += text if event == "message" else ""

    async def _carry_out(self, call: Call) -> None:
        parameters = self._parameters(call.name)
        found = f"this session has no tool {call.name!r}" if parameters is None else flaw(parameters, call.args)
        if found:
            self.log.append("error", {"reason": found})
            self._result(call, found, is_error=True)
        elif call.name == ASK_USER:
            await self._ask_user(call)
        elif await self._is_allowed(call):
            self._begin(call)
            status, result = await self._run_tool(call)
            self._done(call, status, result)

    def _parameters(self, name: str) -> dict[str, Any] | None:
        if name in self.callback_tools:
            return self.callback_tools[name].parameters
        return PARAMETERS[name] if name in self.settings.tools else None

    async def _ask_user(self, call: Call) -> None:
        self._begin(call)
        ref, options = f"ask_{call.id}", call.args.get("options")
        decision = self._decisions[ref] = Decision(call.id, options=options)
        call.stage = "waiting_input"
        self.log.append("ask_user", {"ref": ref, "question": call.args["question"], "options": options})
        await decision.decided.wait()
        if call.id in self._open:
            self._done(call, "ok", decision.answer or "")

    async def _is_allowed(self, call: Call) -> bool:
        if not (self.settings.asks_a_person and call.name in GUARDED):
            return True
        approval_id = f"apr_{call.id}"
        decision = self._decisions[approval_id] = Decision(call.id)
        call.stage = "waiting_approval"
        shown = {"approvalId": approval_id, "toolName": call.name, "args": call.args}
        hint = f"{call.name} {encoded(call.args).decode()}"[:200]
        self.log.append("approval_required", {**shown, "hint": hint, "requestedAt": time.time_ns() // 1_000_000})
        await decision.decided.wait()
        if decision.status == "rejected":
            self._result(call, "A person rejected this call.", is_error=True)
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
            return "error", failure.strerror or "the file cannot be used"

    # -- one fact each -------------------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        call.stage = "running"
        self.tool_calls += 1
        self.log.append("tool_execution_start", {"toolName": call.name, "callId": call.id, "args": call.args})

    def _done(self, call: Call, status: str, result: str) -> None:
        told = {"toolName": call.name, "callId": call.id, "status": status, "result": result}
        self.log.append("tool_execution_end", told)
        self._result(call, result, is_error=status == "error")

    def _result(self, call: Call, content: str, *, is_error: bool) -> None:
        self._open.pop(call.id, None)
        about = {"callId": call.id, "name": call.name, "isError": is_error}
        self.messages.append({"role": "tool_result", "content": content, **about})

    def _resolve(self, approval_id: str, decision: Decision, status: str) -> None:
        decision.status = status
        self.log.append("approval_resolved", {"approvalId": approval_id, "status": status})
        decision.decided.set()

    def _end(self, run: Run, said: str) -> None:
        last = {"role": "assistant", "content": said}
        self.messages.append(last)
        told = {"messageCount": len(self.messages), "lastMessage": last, "tokenUsage": run.usage.wire()}
        self._over("agent_end", told)

    def _finish(self, terminal: str, *, reason: str, error: str | None = None) -> None:
        """Close what is open (EVT-9), then end the run."""
        if self._said:
            self.messages.append({"role": "assistant", "content": self._said})
        self._said = ""
        for call in list(self._open.values()):
            if call.stage == "waiting_approval":
                self._resolve(f"apr_{call.id}", self._decisions[f"apr_{call.id}"], "cancelled")
                self._result(call, "The run was stopped.", is_error=True)
            elif call.stage == "ready":
                self._result(call, "The run was stopped.", is_error=True)
            else:
                if f"ask_{call.id}" in self._decisions:
                    self._decisions[f"ask_{call.id}"].status = "cancelled"
                self._done(call, "error", "The run was stopped.")
        if error is not None:
            self.log.append("error", {"reason": error})
        self._over(terminal, {"reason": reason})

    def _over(self, name: str, data: dict[str, Any]) -> None:
        assert self._run is not None, "something was under way"
        self._newest, self._run = self._run, None
        self._newest.last = len(self.log.events)
        self.log.append(name, data)


def _whole(text: str) -> tuple[str, str]:
    """Text of whole characters, and the half of one that waits for the other (EVT-6)."""
    rest = ""
    if text and "\ud800" <= text[-1] <= "\udbff":
        text, rest = text[:-1], text[-1]
    with suppress(ValueError):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text, rest
