"""A session's life: a single task through which everything passes that happens to it.

Prompts, decisions, and what models and tools tell, all wait in one inbox. The task takes what has gathered there,
lets the kernel say what follows, commits that in one transaction, then shows it to readers and answers whoever asked,
and only then starts what is to be done next. If the store refuses, nothing of it has happened: the session forgets
what it had in memory and takes itself up again from what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Self, cast

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from cmdc_gateway.errors import (
    SessionDead,
    SessionNotFound,
    Unavailable,
)
from cmdc_gateway.kernel.effects import AskModel, RunTool, StopWork
from cmdc_gateway.kernel.recovery import remains
from cmdc_gateway.kernel.signals import (
    Aborted,
    Expired,
    ModelFailed,
    Piece,
    Signal,
)
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.protocol.sessions import AbortTaken
from cmdc_gateway.providers.catalog import UnknownModel
from cmdc_gateway.providers.chat import estimated_usage
from cmdc_gateway.sessions.commands import Command, Remember, Reply
from cmdc_gateway.sessions.deadlines import Deadlines
from cmdc_gateway.sessions.draft import Draft
from cmdc_gateway.sessions.inbox import Inbox
from cmdc_gateway.sessions.log import CloseReason, EventLog
from cmdc_gateway.sessions.present import Present, View, restored
from cmdc_gateway.sessions.progress import Progress
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import NewerSettings
from cmdc_gateway.sessions.work import Work
from cmdc_gateway.store.store import (
    AppendEvents,
    DeleteSession,
    Fence,
    FenceLost,
    SessionKey,
    StoreDown,
    StoredStateDamaged,
)
from cmdc_gateway.tenancy.keys import Caller

_BATCH = 256
_CROWDED = 512
_RETRY_SECONDS = 0.25

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Told:
    """Something that happened to a run `at` some time (ms), told by work that was started for it. Never changed."""

    turn: Turn
    signal: Signal
    at: int


class Life:
    """A session's task: decide, commit, show, act.

    What may be asked of it from outside is `Session`.
    """

    def __init__(self, key: SessionKey, fence: Fence, services: Services, when_over: Callable[[Self], None]) -> None:
        self.key = key
        self.touched_at = services.clock()
        self._fence = fence
        self._services = services
        self._when_over = when_over
        self._inbox: Inbox[Command | Told] = Inbox()
        self._room = asyncio.Event()
        self._work = Work(self._tell, self._tell_now, services.meter)
        self._deadlines = Deadlines()
        self._task: asyncio.Task[None] | None = None
        self._down = False
        self._served = 0
        self._said_at = 0
        self._ended: Exception | None = None
        self.log: EventLog
        self.view: View
        self.shown: tuple[View, int, bytes] | None = None
        """A view and an end of the log as they were last shown to somebody, kept here by whoever shows them."""
        self._present: Present
        self._progress: Progress

    async def _do(self, decide: Callable[[Draft], Reply], key_id: str, remember: Remember | None = None) -> Reply:
        self.touched_at = self._services.clock()
        if self._ended is not None:
            raise self._ended
        if self._down:
            raise Unavailable("the store does not take writes now")
        command = Command(decide, key_id, remember)
        self._inbox.put(command)
        return await asyncio.shield(command.answer)

    async def _tell(self, turn: Turn, signal: Signal) -> None:
        self._note(turn, signal)
        if len(self._inbox) > _CROWDED:
            self._room.clear()
            await self._room.wait()

    def _tell_now(self, turn: Turn, signal: Signal) -> bool:
        if len(self._inbox) >= _CROWDED:
            return False
        self._inbox.put_piece(Told(turn, signal, self._services.clock()))
        return True

    def _note(self, turn: Turn, signal: Signal) -> None:
        self._inbox.put(Told(turn, signal, self._services.clock()))

    async def _live(self) -> None:
        # Made on behalf of some request, whose id is none of what happens to the session from now on.
        clear_contextvars()
        bind_contextvars(tenant=self.key.tenant, session_id=self.key.session_id)
        while self._ended is None:
            batch, is_text = await self._inbox.take(_BATCH)
            commands: list[Command] = []
            try:
                if is_text:
                    await self._carry_text(cast("list[Told]", batch))
                else:
                    commands = [item for item in batch if isinstance(item, Command)]
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
        self._said_at = self._services.clock()
        draft = Draft(now.row, self.log.last_seq, self._said_at, self._services.meter.day())
        for item in batch:
            match item:
                case Command():
                    item.take(draft)
                case Told(turn, signal, _):
                    if turn is now.turn:
                        self._progress.receive(now, turn, signal, draft)
            if draft.deletes:
                break
            self._progress.begin_next(now, draft)
        self._progress.settle_row(now, draft)
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

    async def _carry_text(self, batch: list[Told]) -> None:
        """Decide, commit, show: pieces of what the model says, by far the commonest.

        Nothing of the session changes but its log, and nothing is to be done then.
        """
        turn, log = self._present.turn, self.log
        events: list[LoggedEvent] = []
        for told in batch:
            if told.turn is turn:
                at = self._said_at = max(told.at, self._said_at)
                heard = told.turn.hear(cast("Piece", told.signal))
                events += log.number(heard, told.turn.request_id, at, after=log.last_seq + len(events))
        if events:
            await self._services.store.commit((AppendEvents(self.key, tuple(events)),), self._fence)
            log.publish(events)

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
        for run, event in draft.ended:
            tokens = run.usage.total_tokens
            _log.info(event, run_id=run.request_id, key_id=run.key_id, steps=run.steps, calls=run.calls, tokens=tokens)

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
        self._set_deadlines()

    def _ask(self, turn: Turn) -> None:
        now = self._present
        assert now.active is not None, "a turn that asks is active"
        try:
            provider = self._services.offer.catalog.find(now.settings.model)
        except UnknownModel as refusal:
            self._note(turn, ModelFailed(str(refusal)))
            return
        self._work.ask(turn, provider, now.model_request(), Caller(self.key.tenant, now.active.key_id), now.account)

    def _set_deadlines(self) -> None:
        now = self._present

        def expired(approval_id: str, turn: Turn | None = now.turn) -> None:
            assert turn is not None, "an approval waits within a run"
            self._note(turn, Expired(approval_id))

        self._deadlines.set(now, self._services.clock(), expired)

    # -- its beginning and its end -------------------------------------------------------------------------------------

    async def _take_up(self, reason: str, error: str) -> None:
        """Read everything back from the store; a run that cannot simply go on waiting is ended with `reason`."""
        store = self._services.store
        try:
            stored = await store.load(self.key)
            if stored is None:
                raise SessionNotFound(self.key.session_id)
            self._present = restored(stored, self._services)
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
            self._progress = Progress(self.key, self.log, self._services)
        # A commit may have been carried out though its answer was lost: readers see what the store has.
        self.log.publish(await self._events_since(self.log.last_seq + 1))
        await self._take_run_up(reason, error)
        self.view = self._present.view()
        self._set_deadlines()

    async def _take_run_up(self, reason: str, error: str) -> None:
        now = self._present
        if now.active is None:
            if now.queue:  # nothing runs, so nothing else would let the queue go on
                self._inbox.put(Command(lambda _: Reply(AbortTaken(ok=False))))
            return
        left = remains(
            now.history,
            await self._events_since(now.active.first_seq),
            undecided={row.call_id for row in now.approvals.values()},
            unanswered={row.call_id for row in now.questions.values()},
        )
        now.turn = Turn(
            now.active.request_id,
            self._progress.rules(now),
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
            usage = TokenUsage() if left.open_calls else estimated_usage(now.model_request(), heard)
            self._note(now.turn, Aborted(reason, error=error, usage=usage))

    async def _events_since(self, seq: int) -> list[LoggedEvent]:
        events: list[LoggedEvent] = []
        after = seq - 1
        while page := await self._services.store.events(self.key, after, 5_000):
            events += page
            after = page[-1].seq
        return events

    async def _start_over(self, commands: list[Command], error: str) -> None:
        """Nothing of a batch has happened. Forget it, and go on from what is stored as soon as the store allows."""
        self._down = True
        self._work.stop()
        self._work.model_call_ended()
        self._deadlines.cancel()  # they tell the turn that is given up
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
        return [item for item in self._inbox.emptied() if isinstance(item, Command)]

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
        self._deadlines.cancel()
        self._refuse(self._emptied_inbox(), failure)
