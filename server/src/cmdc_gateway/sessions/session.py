"""One session: a single task through which everything passes that happens to it.

Prompts, decisions, and what models and tools tell, all wait in one inbox. The task takes what has gathered there,
lets the kernel say what follows, commits that in one transaction, then shows it to readers and answers whoever asked,
and only then starts what is to be done next. If the store refuses, nothing of it has happened: the session forgets
what it had in memory and takes itself up again from what is stored.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import structlog
from pydantic import JsonValue

from cmdc_gateway.errors import (
    AlreadyResolved,
    ApprovalNotFound,
    BadRequest,
    DigestMismatch,
    QuestionNotFound,
    QueueFull,
    SessionDead,
    SessionNotFound,
    ToolNotFound,
    Unavailable,
)
from cmdc_gateway.kernel.effects import AskModel, Outcome, RunTool, StopWork
from cmdc_gateway.kernel.ledger import Amount, Ledger
from cmdc_gateway.kernel.recovery import remains
from cmdc_gateway.kernel.signals import (
    Aborted,
    Answered,
    Approved,
    BudgetRefused,
    Expired,
    ModelFailed,
    ModelFinished,
    Prompted,
    Rejected,
    Signal,
    ToolReplaced,
)
from cmdc_gateway.kernel.turn import Rules, Turn
from cmdc_gateway.protocol.decisions import DecisionTaken, ResponseTaken
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.events import (
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    Event,
    ToolExecutionEnd,
    ToolExecutionStart,
)
from cmdc_gateway.protocol.frames import Cursor, LoggedEvent
from cmdc_gateway.protocol.history import Message, TokenUsage, ToolCall
from cmdc_gateway.protocol.sessions import AbortTaken, PromptAccepted, SessionDeleted
from cmdc_gateway.protocol.tools import ToolRegistered, ToolRemoved
from cmdc_gateway.providers.catalog import UnknownModel
from cmdc_gateway.providers.chat import estimated_usage
from cmdc_gateway.providers.provider import ModelRequest
from cmdc_gateway.sessions.commands import Command, Remember, Reply
from cmdc_gateway.sessions.draft import Draft
from cmdc_gateway.sessions.log import CloseReason, EventLog
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import NewerSettings, SessionSettings, with_offer
from cmdc_gateway.sessions.toolbox import Fitting, Toolbox, canonical, digest
from cmdc_gateway.sessions.work import Work
from cmdc_gateway.store.store import (
    ApprovalRow,
    DeleteSession,
    Fence,
    FenceLost,
    MarkServed,
    PutApproval,
    PutQuestion,
    PutTool,
    QuestionRow,
    RemoveTool,
    RequestRow,
    SessionKey,
    SessionRow,
    StoreDown,
    StoredSession,
    StoredStateDamaged,
    ToolRow,
)
from cmdc_gateway.tenancy.keys import Caller
from cmdc_gateway.tenancy.meter import Account
from cmdc_gateway.tools.builtin import builtin_spec, builtin_tool
from cmdc_gateway.tools.callback import CallbackDefinition, CallbackTool
from cmdc_gateway.tools.schema import Parameters
from cmdc_gateway.tools.workspace import Workspace

_BATCH = 256
_CROWDED = 512
_RETRY_SECONDS = 0.25

_log = structlog.get_logger(__name__)


class NotWaiting(Exception):
    """What was decided about does not wait now; what became of it is in the store."""


@dataclass(frozen=True, slots=True)
class Told:
    """Something that happened to a run, told by work that was started for it."""

    turn: Turn
    signal: Signal


@dataclass(frozen=True, slots=True)
class View:
    """A session as it is committed: what everybody outside its task gets to see."""

    row: SessionRow
    queue: tuple[RequestRow, ...] = ()
    active: RequestRow | None = None
    newest_done: RequestRow | None = None
    approvals: tuple[ApprovalRow, ...] = ()
    questions: tuple[QuestionRow, ...] = ()
    only_waits: bool = False


@dataclass(slots=True)
class _Present:
    """A session as it is in its task's hands. Thrown away, and read back from the store, when a commit fails."""

    row: SessionRow
    settings: SessionSettings
    toolbox: Toolbox
    account: Account | None
    history: list[Message]
    queue: deque[RequestRow]
    position: int
    approvals: dict[str, ApprovalRow]
    questions: dict[str, QuestionRow]
    active: RequestRow | None = None
    newest_done: RequestRow | None = None
    turn: Turn | None = None
    bound: dict[str, Fitting] = field(default_factory=dict[str, Fitting])

    def view(self) -> View:
        return View(
            row=self.row,
            queue=tuple(self.queue),
            active=self.active,
            newest_done=self.newest_done,
            approvals=tuple(self.approvals.values()),
            questions=tuple(self.questions.values()),
            only_waits=self.turn is not None and self.turn.only_waits,
        )


class Session:
    """One agent with its settings, history and event log.

    Made by `Session.open`. Its methods may be called from any task of the event loop; those that change something
    return when the change is committed.
    """

    def __init__(self, key: SessionKey, fence: Fence, services: Services, when_over: Callable[[Session], None]) -> None:
        self.key = key
        self.touched_at = services.clock()
        self._fence = fence
        self._services = services
        self._when_over = when_over
        self._inbox: asyncio.Queue[Command | Told] = asyncio.Queue()
        self._room = asyncio.Event()
        self._work = Work(self._tell, services.meter)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._task: asyncio.Task[None] | None = None
        self._down = False
        self._served = 0
        self._ended: Exception | None = None
        self.log: EventLog
        self.view: View
        self._present: _Present

    @classmethod
    async def open(cls, key: SessionKey, services: Services, when_over: Callable[[Session], None]) -> Session:
        """Take a session up where it stands in the store, as its only owner.

        `when_over` is called once it is deleted, or belongs to somebody else.

        Raises:
            SessionNotFound, SessionDead, StoreDown, SessionHeld.
        """
        try:
            fence = await services.store.claim(key, services.owner, services.clock())
        except KeyError:
            raise SessionNotFound(key.session_id) from None
        session = cls(key, fence, services, when_over)
        await session._take_up("interrupted", "the server stopped while this run was active")
        session._task = asyncio.get_running_loop().create_task(session._live())
        return session

    # -- what can be asked of it ---------------------------------------------------------------------------------------

    @property
    def settings(self) -> SessionSettings:
        return self._present.settings

    @property
    def toolbox(self) -> Toolbox:
        return self._present.toolbox

    @property
    def resting(self) -> bool:
        """Nothing happens, nobody reads: the session could as well be in the store alone."""
        idle = self.view.active is None and not self.view.queue and self._inbox.empty()
        return idle and not self.log.readers and not self._down

    @property
    def holds_up_exit(self) -> bool:
        """A run is active and not merely waiting for a person (DUR-3)."""
        return not self._down and self.view.active is not None and not self.view.only_waits

    def start_position(self) -> int:
        """After which seq a reader without a cursor begins (SSE-5)."""
        view = self.view
        if view.active is not None:
            return view.active.first_seq - 1
        done = view.newest_done
        if not view.queue and done is not None and done.last_seq > self._served:
            return done.first_seq - 1
        return self.log.last_seq

    def mark_served(self, seq: int) -> None:
        """A terminal event has been written to an SSE reader: nobody needs it for want of a cursor any longer."""
        if seq > self._served:
            self._served = seq
            self._work.aside(self._services.store.commit([MarkServed(self.key, seq)]))

    async def request(self, request_id: str) -> RequestRow | None:
        """The request of this id, as it stands."""
        view = self.view
        for row in (view.active, view.newest_done, *view.queue):
            if row is not None and row.request_id == request_id:
                return row
        return await self._services.store.request(self.key, request_id)

    # -- what can be done with it --------------------------------------------------------------------------------------

    async def submit(self, text: str, key_id: str, remember: Remember | None = None) -> Reply:
        """Accept a prompt (§3.5). Raises BudgetExceeded, QueueFull, Unavailable."""

        def decide(draft: Draft) -> Reply:
            now = self._present
            if self._services.draining:
                raise Unavailable("the server is stopping", retry_after=5)
            self._services.meter.check(Caller(self.key.tenant, key_id), now.account)
            if len(now.queue) >= self._services.queued_prompts:
                raise QueueFull(self._services.queued_prompts)
            queued = now.turn is not None or bool(now.queue)
            now.position += 1
            request = RequestRow(self._services.new_id(), now.position, key_id, text)
            now.queue.append(request)
            draft.put_request(request)
            draft.count_prompt(key_id)
            cursor = Cursor(self.log.epoch, draft.last_seq)
            body = PromptAccepted(
                request_id=request.request_id, session_id=self.key.session_id, queued=queued, cursor=str(cursor)
            )
            return Reply(body, 202)

        return await self._do(decide, remember)

    async def approve(
        self,
        approval_id: str,
        args: dict[str, JsonValue] | None = None,
        digest: str | None = None,
        remember: Remember | None = None,
    ) -> Reply:
        """Let a tool call run (APP-1 … APP-3). Raises ApprovalNotFound, AlreadyResolved, DigestMismatch, BadRequest."""
        taken = Reply(DecisionTaken(ok=True, action="approve", approval_id=approval_id))

        def decide(draft: Draft) -> Reply:
            turn, call = self._undecided(approval_id)
            row = self._present.approvals[approval_id]
            if digest is not None and digest != row.digest:
                raise DigestMismatch(approval_id)
            if args is not None:
                flaw = self._present.toolbox.flaw(call.name, args)
                if flaw is not None:
                    raise BadRequest(flaw, [("args", flaw)])
            edited = None if args is None or canonical(args) == canonical(call.args) else args
            decided = replace(row, decision=dumps({"args": call.args if edited is None else edited}))
            self._present.approvals[approval_id] = decided
            fitting = self._present.toolbox.get(call.name)
            if fitting is not None:
                self._present.bound[call.id] = fitting
            self._receive(turn, Approved(approval_id, edited), draft)
            return taken

        try:
            return await self._do(decide, remember)
        except NotWaiting:
            row = await self._decided(approval_id)
            same_args = args is None or canonical(args) == canonical(json.loads(row.decision).get("args"))
            if row.status == "approved" and same_args and digest in (None, row.digest):
                return await self.keep(taken, remember)
            raise AlreadyResolved(f"approval {approval_id!r}", row.status) from None

    async def reject(self, approval_id: str, reason: str | None = None, remember: Remember | None = None) -> Reply:
        """Keep a tool call from running (APP-1, APP-2). Raises ApprovalNotFound, AlreadyResolved."""
        taken = Reply(DecisionTaken(ok=True, action="reject", approval_id=approval_id))

        def decide(draft: Draft) -> Reply:
            turn, _ = self._undecided(approval_id)
            row = self._present.approvals[approval_id]
            self._present.approvals[approval_id] = replace(row, decision=dumps({"reason": reason}))
            self._receive(turn, Rejected(approval_id, reason), draft)
            return taken

        try:
            return await self._do(decide, remember)
        except NotWaiting:
            row = await self._decided(approval_id)
            if row.status == "rejected" and reason in (None, json.loads(row.decision).get("reason")):
                return await self.keep(taken, remember)
            raise AlreadyResolved(f"approval {approval_id!r}", row.status) from None

    async def respond(self, ref: str, response: str, remember: Remember | None = None) -> Reply:
        """Answer a question (ASK-1). Raises QuestionNotFound, AlreadyResolved, BadRequest."""
        taken = Reply(ResponseTaken(ok=True, action="respond", ref=ref))

        def decide(draft: Draft) -> Reply:
            turn = self._present.turn
            if turn is None or turn.waiting_input(ref) is None:
                raise NotWaiting
            row = self._present.questions[ref]
            if row.options is not None and response not in row.options:
                offered = ", ".join(repr(option) for option in row.options)
                raise BadRequest(f"response must be one of the options: {offered}", [("response", "not an option")])
            self._present.questions[ref] = replace(row, status="answered", response=response)
            self._receive(turn, Answered(ref, response), draft)
            return taken

        try:
            return await self._do(decide, remember)
        except NotWaiting:
            row = await self._services.store.question(self.key, ref)
            if row is None:
                raise QuestionNotFound(ref) from None
            if row.status == "answered" and row.response == response:
                return await self.keep(taken, remember)
            raise AlreadyResolved(f"question {ref!r}", row.status) from None

    async def abort(self, reason: str | None = None, remember: Remember | None = None) -> Reply:
        """End the active run; the queue goes on (§3.11)."""

        def decide(draft: Draft) -> Reply:
            turn = self._present.turn
            if turn is None:
                return Reply(AbortTaken(ok=False), 200)
            self._receive(turn, Aborted(reason or "aborted", usage=self._work.used_so_far), draft)
            return Reply(AbortTaken(ok=True), 202)

        return await self._do(decide, remember)

    async def register(
        self, definition: CallbackDefinition, answer: ToolRegistered, remember: Remember | None = None
    ) -> Reply:
        """Add a callback tool, or replace the one of its name (CB-1, APP-3). Raises RegistrationFailed."""
        fitting = self._callback(definition)

        def decide(draft: Draft) -> Reply:
            replaced = self._present.toolbox.get(definition.name) is not None
            self._present.toolbox = self._present.toolbox.with_callback(fitting)
            draft.write(PutTool(self.key, ToolRow(definition.name, definition.to_json())))
            if replaced:
                self._tool_replaced(definition.name, draft)
            return Reply(answer, 201)

        return await self._do(decide, remember)

    async def remove_tool(self, name: str) -> Reply:
        """Remove a callback tool. Raises ToolNotFound."""

        def decide(draft: Draft) -> Reply:
            fitting = self._present.toolbox.get(name)
            if fitting is None or fitting.definition is None:
                raise ToolNotFound(name)
            self._present.toolbox = self._present.toolbox.without(name)
            draft.write(RemoveTool(self.key, name))
            self._tool_replaced(name, draft)
            return Reply(ToolRemoved(name=name, status="removed"))

        return await self._do(decide)

    async def delete(self) -> Reply:
        """Stop any run and forget everything (§3.4)."""

        def decide(draft: Draft) -> Reply:
            if self._present.turn is not None:
                signal = Aborted("session_deleted", usage=self._work.used_so_far)
                self._receive(self._present.turn, signal, draft)
            draft.deletes = True
            return Reply(SessionDeleted(session_id=self.key.session_id, status="deleted"))

        return await self._do(decide)

    async def stop(self) -> None:
        """Let go of the session. What runs is left to whoever takes it up next (DUR-2)."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end(Unavailable("the server is stopping", retry_after=5))
        self._work.stop()
        await self._work.wait()
        try:
            await self._services.store.release(self._fence)
        except StoreDown:
            _log.warning("release_failed", session_id=self.key.session_id)

    # -- its task ------------------------------------------------------------------------------------------------------

    async def _do(self, decide: Callable[[Draft], Reply], remember: Remember | None = None) -> Reply:
        self.touched_at = self._services.clock()
        if self._ended is not None:
            raise self._ended
        if self._down:
            raise Unavailable("the store does not take writes now")
        command = Command(decide, remember)
        self._inbox.put_nowait(command)
        return await asyncio.shield(command.answer)

    async def keep(self, reply: Reply, remember: Remember | None) -> Reply:
        """An answer that changes nothing in the session; it is kept under its Idempotency-Key like any other."""
        return reply if remember is None else await self._do(lambda _: reply, remember)

    async def _tell(self, turn: Turn, signal: Signal) -> None:
        self._inbox.put_nowait(Told(turn, signal))
        if self._inbox.qsize() > _CROWDED:
            self._room.clear()
            await self._room.wait()

    async def _live(self) -> None:
        while self._ended is None:
            batch = [await self._inbox.get()]
            while not self._inbox.empty() and len(batch) < _BATCH:
                batch.append(self._inbox.get_nowait())
            commands = [item for item in batch if isinstance(item, Command)]
            try:
                await self._carry(batch, commands)
            except asyncio.CancelledError:
                self._refuse(commands, Unavailable("the server is stopping", retry_after=5))
                raise
            except FenceLost:
                self._refuse(commands, Unavailable("another gateway has taken this session over"))
                self._lost()
            except StoreDown as failure:
                _log.warning("commit_failed", session_id=self.key.session_id, reason=str(failure))
                await self._start_over(commands, "the store failed")
            except Exception:  # noqa: BLE001 - a defect ends one run, not the session
                _log.exception("session_failed", session_id=self.key.session_id)
                await self._start_over(commands, "the server failed inside this session; its log says why")
            finally:
                self._room.set()

    async def _carry(self, batch: list[Command | Told], commands: list[Command]) -> None:
        """Decide, commit, show, act: in this order and no other."""
        now = self._present
        draft = Draft(now.row, self.log.last_seq, self._services.clock(), self._services.meter.day())
        for item in batch:
            match item:
                case Command():
                    item.take(draft)
                case Told(turn, signal):
                    if turn is now.turn:
                        self._receive(turn, signal, draft)
            if draft.deletes:
                break
            self._begin_next(draft)
        self._settle_row(draft)
        writes = draft.writes(now.row)
        if draft.deletes:
            writes.append(DeleteSession(self.key))
        if writes:
            await self._services.store.commit(writes, self._fence)
        self._show(draft)
        for command in commands:
            if command.reply is not None or command.failure is not None:
                command.give()
        self._act(draft)
        if draft.deletes:
            self._gone(commands)

    def _begin_next(self, draft: Draft) -> None:
        now = self._present
        if now.turn is not None or not now.queue or self._services.draining:
            return
        request = now.queue.popleft()
        now.turn = Turn(request.request_id, self._rules(), history_length=len(now.history))
        now.active = replace(request, status="active", first_seq=draft.last_seq + 1)
        self._receive(now.turn, Prompted(request.text), draft)

    def _receive(self, turn: Turn, signal: Signal, draft: Draft) -> None:
        now = self._present
        if isinstance(signal, Expired) and turn.waiting_approval(signal.approval_id) is None:
            return
        outcome = turn.receive(signal, draft.now)
        if isinstance(signal, ModelFinished | ModelFailed | BudgetRefused | Aborted):
            draft.model_calls_ended = True
        if now.active is not None:
            self._absorb(turn, now.active, outcome, draft)

    def _absorb(self, turn: Turn, active: RequestRow, outcome: Outcome, draft: Draft) -> None:
        draft.append(self.log.number(outcome.events, turn.request_id, draft.now, after=draft.last_seq))
        for event in outcome.events:
            self._file(event, turn.request_id, draft)
        if outcome.messages or outcome.effects or turn.ended:  # else it was a piece of text, the commonest of all
            self._advance(turn, active, outcome, draft)

    def _advance(self, turn: Turn, active: RequestRow, outcome: Outcome, draft: Draft) -> None:
        """Take into the session what a run has come to."""
        now = self._present
        now.history += outcome.messages
        draft.messages += outcome.messages
        draft.effects += [(turn, effect) for effect in outcome.effects]
        draft.count(active.key_id, outcome.usage, outcome.cost_usd)
        steps = turn.steps - active.steps
        started = sum(isinstance(event, ToolExecutionStart) for event in outcome.events)
        if steps or started:
            draft.row = replace(draft.row, turns=draft.row.turns + steps, tool_calls=draft.row.tool_calls + started)
        after = replace(
            active,
            steps=turn.steps,
            calls=turn.calls,
            usage=active.usage + outcome.usage,
            cost_usd=active.cost_usd + outcome.cost_usd,
        )
        if turn.ended:
            after = replace(after, status="done", last_seq=draft.last_seq)
            now.turn, now.active, now.newest_done = None, None, after
            now.bound.clear()
        else:
            now.active = after
        if after != active:
            draft.put_request(after)

    def _file(self, event: Event, request_id: str, draft: Draft) -> None:
        """Keep what an event says about decisions, so that it can be looked up and taken up again."""
        now = self._present
        match event:
            case ApprovalRequired():
                row = _approval_row(event, request_id)
                now.approvals[row.approval_id] = row
                draft.write(PutApproval(self.key, row))
            case ApprovalResolved(approval_id, status):
                row = replace(now.approvals.pop(approval_id), status=status)
                draft.write(PutApproval(self.key, row))
            case AskUser(ref, question, options):
                row = QuestionRow(
                    ref, request_id, ref.removeprefix("ask_"), question, tuple(options) if options is not None else None
                )
                now.questions[ref] = row
                draft.write(PutQuestion(self.key, row))
            case ToolExecutionEnd(call_id=call_id):
                asked = now.questions.pop(f"ask_{call_id}", None)
                if asked is not None:
                    closed = asked if asked.status == "answered" else replace(asked, status="cancelled")
                    draft.write(PutQuestion(self.key, closed))
            case _:
                pass

    def _settle_row(self, draft: Draft) -> None:
        now = self._present
        state = now.turn.state if now.turn is not None else "idle"
        if state != draft.row.state:
            draft.row = replace(draft.row, state=state)
        keep = self._services.replay_events
        if keep is not None and draft.last_seq - self.log.first_seq + 1 > keep:
            newest = now.active or now.newest_done
            before = min(draft.last_seq - keep + 1, newest.first_seq if newest else draft.last_seq + 1)
            draft.trim_before = before if before > self.log.first_seq else 0

    def _show(self, draft: Draft) -> None:
        now = self._present
        now.row = draft.row
        self.view = now.view()
        if draft.trim_before:
            self.log.trimmed(draft.trim_before)
        self.log.publish(draft.events)
        for key_id, spent in draft.spent:
            self._services.meter.count(Caller(self.key.tenant, key_id), now.account, spent)
        if draft.model_calls_ended:
            self._work.model_call_ended()

    def _act(self, draft: Draft) -> None:
        now = self._present
        for turn, effect in draft.effects:
            match effect:
                case StopWork():
                    self._work.stop()
                case AskModel() if turn is now.turn:
                    self._ask(turn)
                case RunTool(call) if turn is now.turn:
                    fitting = now.bound.pop(call.id, None) or now.toolbox.get(call.name)
                    self._work.run(turn, call, fitting.tool if fitting else None)
                case _:
                    pass
        self._set_timers()

    def _ask(self, turn: Turn) -> None:
        now = self._present
        assert now.active is not None, "a turn that asks is active"
        try:
            provider = self._services.offer.catalog.find(now.settings.model)
        except UnknownModel as refusal:
            self._inbox.put_nowait(Told(turn, ModelFailed(str(refusal))))
            return
        self._work.ask(turn, provider, self._model_request(), Caller(self.key.tenant, now.active.key_id), now.account)

    def _model_request(self) -> ModelRequest:
        now = self._present
        settings = now.settings
        return ModelRequest(
            settings.model, tuple(now.history), now.toolbox.specs(), settings.max_tokens, settings.options
        )

    def _set_timers(self) -> None:
        """One timer for each approval that can expire."""
        now = self._present
        for approval_id in [name for name in self._timers if name not in now.approvals]:
            self._timers.pop(approval_id).cancel()
        for approval_id, row in now.approvals.items():
            if row.expires_at is not None and approval_id not in self._timers and now.turn is not None:
                delay = max(0.0, (row.expires_at - self._services.clock()) / 1000)
                told = Told(now.turn, Expired(approval_id))
                timer = asyncio.get_running_loop().call_later(delay, self._inbox.put_nowait, told)
                self._timers[approval_id] = timer

    def _tool_replaced(self, name: str, draft: Draft) -> None:
        if self._present.turn is not None:
            self._receive(self._present.turn, ToolReplaced(name), draft)

    def _undecided(self, approval_id: str) -> tuple[Turn, ToolCall]:
        turn = self._present.turn
        call = turn.waiting_approval(approval_id) if turn is not None else None
        if turn is None or call is None:
            raise NotWaiting
        return turn, call

    async def _decided(self, approval_id: str) -> ApprovalRow:
        row = await self._services.store.approval(self.key, approval_id)
        if row is None:
            raise ApprovalNotFound(approval_id)
        return row

    def _rules(self) -> Rules:
        settings = self._present.settings

        def flaw(name: str, args: dict[str, JsonValue]) -> str | None:  # of the tools there are when it is asked
            return self._present.toolbox.flaw(name, args)

        def needs_approval(name: str) -> bool:
            return self._present.toolbox.needs_approval(name)

        return Rules(
            flaw=flaw,
            needs_approval=needs_approval,
            digest=lambda call: digest(self.key.session_id, call),
            approval_ms=settings.approval_ms,
            max_steps=settings.max_turns,
            parallel=self._services.parallel_tools,
        )

    # -- its beginning and its end -------------------------------------------------------------------------------------

    async def _take_up(self, reason: str, error: str) -> None:
        """Read everything back from the store; a run that cannot simply go on waiting is ended with `reason`."""
        store = self._services.store
        try:
            stored = await store.load(self.key)
            if stored is None:
                raise SessionNotFound(self.key.session_id)
            self._present = self._restored(stored)
        except (StoredStateDamaged, NewerSettings, ValueError, KeyError, TypeError):
            _log.exception("session_dead", session_id=self.key.session_id)
            raise SessionDead(self.key.session_id) from None
        self._served = max(self._served, stored.row.served)
        if not hasattr(self, "log"):
            self.log = EventLog(
                stored.row.epoch,
                first_seq=stored.first_seq,
                last_seq=stored.last_seq,
                stored=partial(store.events, self.key),
            )
        # A commit may have been carried out though its answer was lost: readers see what the store has.
        self.log.publish(await self._events_since(self.log.last_seq + 1))
        await self._take_run_up(reason, error)
        self.view = self._present.view()
        self._set_timers()

    async def _take_run_up(self, reason: str, error: str) -> None:
        now = self._present
        if now.active is None:
            if now.queue:  # nothing runs, so nothing else would let the queue go on
                self._inbox.put_nowait(Command(lambda _: Reply(AbortTaken(ok=False))))
            return
        left = remains(
            now.history,
            await self._events_since(now.active.first_seq),
            undecided={row.call_id for row in now.approvals.values()},
            unanswered={row.call_id for row in now.questions.values()},
        )
        now.turn = Turn(
            now.active.request_id,
            self._rules(),
            history_length=len(now.history),
            steps=now.active.steps,
            calls=now.active.calls,
            usage=now.active.usage,
            cost_usd=now.active.cost_usd,
            open_calls=left.open_calls,
            said=left.said,
        )
        if not left.only_waits:
            heard = len(left.said.encode())
            usage = TokenUsage() if left.open_calls else estimated_usage(self._model_request(), heard)
            self._inbox.put_nowait(Told(now.turn, Aborted(reason, error=error, usage=usage)))

    async def _events_since(self, seq: int) -> list[LoggedEvent]:
        events: list[LoggedEvent] = []
        after = seq - 1
        while page := await self._services.store.events(self.key, after, 5_000):
            events += page
            after = page[-1].seq
        return events

    def _restored(self, stored: StoredSession) -> _Present:
        settings = with_offer(SessionSettings.decode(stored.row.settings), self._services.offer)
        active = next((row for row in stored.requests if row.status == "active"), None)
        done = next((row for row in stored.requests if row.status == "done"), None)
        return _Present(
            row=stored.row,
            settings=settings,
            toolbox=self._toolbox(settings, stored.tools),
            account=self._account(settings, stored.row),
            history=list(stored.messages),
            queue=deque(row for row in stored.requests if row.status == "queued"),
            position=stored.last_position,
            approvals={row.approval_id: row for row in stored.approvals},
            questions={row.ref: row for row in stored.questions},
            active=active,
            newest_done=done,
        )

    def _toolbox(self, settings: SessionSettings, registered: Iterable[ToolRow]) -> Toolbox:
        workspace = Workspace(self._services.offer.workspace.root, settings.working_dir)
        fittings: list[Fitting] = []
        for name in settings.tools:
            spec = builtin_spec(name)
            tool = None if name == "ask_user" else builtin_tool(name, workspace)
            fittings.append(Fitting(spec, Parameters(spec.parameters), tool))
        callbacks = [self._callback(CallbackDefinition.from_json(row.definition)) for row in registered]
        return Toolbox([*fittings, *callbacks], settings.approval)

    def _callback(self, definition: CallbackDefinition) -> Fitting:
        tool = CallbackTool(definition, self._services.callbacks, self.key.session_id)
        return Fitting(definition.spec, Parameters(definition.parameters), tool, definition)

    def _account(self, settings: SessionSettings, row: SessionRow) -> Account | None:
        if settings.budget_tokens is None and settings.budget_cost_usd is None:
            return None
        ledger = Ledger(settings.budget_tokens, settings.budget_cost_usd)
        return Account("this session", ledger.spend(Amount(row.usage.total_tokens, row.cost_usd)))

    async def _start_over(self, commands: list[Command], error: str) -> None:
        """Nothing of a batch has happened. Forget it, and go on from what is stored as soon as the store allows."""
        self._down = True
        self._work.stop()
        self._work.model_call_ended()
        self._cancel_timers()  # they tell the turn that is given up
        self._refuse(commands, Unavailable("the store does not take writes now"))
        self._refuse(self._emptied_inbox(), Unavailable("the store does not take writes now"))
        while True:
            # Whatever fails again and again, a full disk or a defect of ours, must not keep everybody busy.
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self._services.store.ping()
                await self._work.wait()
                self._emptied_inbox()
                await self._take_up("error", error)
            except StoreDown:
                pass
            except (SessionNotFound, SessionDead) as gone:
                self._over(gone, "lost")
                return
            else:
                self._down = False
                return

    def _emptied_inbox(self) -> list[Command]:
        commands: list[Command] = []
        while not self._inbox.empty():
            item = self._inbox.get_nowait()
            if isinstance(item, Command):
                commands.append(item)
        return commands

    def _refuse(self, commands: Iterable[Command], failure: Exception) -> None:
        for command in commands:
            command.refuse(failure)

    def _gone(self, commands: list[Command]) -> None:
        failure = SessionNotFound(self.key.session_id)
        self._refuse((command for command in commands if not command.answer.done()), failure)
        self._over(failure, "deleted")

    def _lost(self) -> None:
        _log.warning("session_lost", session_id=self.key.session_id)
        self._over(Unavailable("another gateway has taken this session over"), "lost")

    def _over(self, failure: Exception, reason: CloseReason) -> None:
        self._end(failure)
        self._work.stop()
        self._work.model_call_ended()
        self._when_over(self)
        self.log.close(reason)

    def _end(self, failure: Exception) -> None:
        self._ended = failure
        self._cancel_timers()
        self._refuse(self._emptied_inbox(), failure)

    def _cancel_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


def _approval_row(event: ApprovalRequired, request_id: str) -> ApprovalRow:
    return ApprovalRow(
        approval_id=event.approval_id,
        request_id=request_id,
        call_id=event.call_id,
        tool_name=event.tool_name,
        args=dumps(event.args),
        digest=event.digest,
        hint=event.hint,
        requested_at=event.requested_at,
        expires_at=event.expires_at,
    )
