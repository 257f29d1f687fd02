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
from cmdc_gateway.kernel.recovery import recover_run
from cmdc_gateway.kernel.signals import (
    Aborted,
    Chunk,
    Expired,
    ModelFailed,
    Signal,
)
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.protocol.sessions import AbortTaken
from cmdc_gateway.providers.chat import estimated_usage
from cmdc_gateway.providers.registry import UnknownModel
from cmdc_gateway.sessions.approval_timers import ApprovalTimers
from cmdc_gateway.sessions.command import Command, IdempotencyRecord, Reply
from cmdc_gateway.sessions.effect_runner import EffectRunner
from cmdc_gateway.sessions.log import CloseReason, EventLog
from cmdc_gateway.sessions.mailbox import Mailbox
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import NewerSettings
from cmdc_gateway.sessions.state import LiveState, SessionSnapshot, restore
from cmdc_gateway.sessions.transitions import RunTransitions
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.store import (
    AppendEvents,
    DeleteSession,
    Lease,
    LeaseLost,
    SessionKey,
    StoredStateDamaged,
    StoreUnavailable,
)
from cmdc_gateway.tenancy.keys import Principal

_BATCH = 256
_CROWDED = 512
_RETRY_SECONDS = 0.25

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RunSignal:
    """Something that happened to a run `at` some time (ms), told by work that was started for it. Never changed."""

    turn: Turn
    signal: Signal
    at: int


class SessionActor:
    """A session's task: decide, commit, show, act.

    What may be asked of it from outside is `Session`.
    """

    def __init__(self, key: SessionKey, fence: Lease, services: Services, when_over: Callable[[Self], None]) -> None:
        self.key = key
        self.last_used_at = services.clock()
        self._lease = fence
        self._services = services
        self._on_closed = when_over
        self._mailbox: Mailbox[Command | RunSignal] = Mailbox()
        self._room = asyncio.Event()
        self._effects = EffectRunner(self._post, self._try_post, services.meter)
        self._approval_timers = ApprovalTimers()
        self._task: asyncio.Task[None] | None = None
        self._store_unavailable = False
        self._delivered_seq = 0
        self._last_text_at = 0
        self._ended: Exception | None = None
        self.log: EventLog
        self.snapshot: SessionSnapshot
        self.rendered: tuple[SessionSnapshot, int, bytes] | None = None
        """A view and an end of the log as they were last shown to somebody, kept here by whoever shows them."""
        self._live: LiveState
        self._transitions: RunTransitions

    async def _submit(
        self, decide: Callable[[UnitOfWork], Reply], key_id: str, remember: IdempotencyRecord | None = None
    ) -> Reply:
        self.last_used_at = self._services.clock()
        if self._ended is not None:
            raise self._ended
        if self._store_unavailable:
            raise Unavailable("the store does not take writes now")
        command = Command(decide, key_id, remember)
        self._mailbox.put(command)
        return await asyncio.shield(command.answer)

    async def _post(self, turn: Turn, signal: Signal) -> None:
        self._enqueue(turn, signal)
        if len(self._mailbox) > _CROWDED:
            self._room.clear()
            await self._room.wait()

    def _try_post(self, turn: Turn, signal: Signal) -> bool:
        if len(self._mailbox) >= _CROWDED:
            return False
        self._mailbox.put_chunk(RunSignal(turn, signal, self._services.clock()))
        return True

    def _enqueue(self, turn: Turn, signal: Signal) -> None:
        self._mailbox.put(RunSignal(turn, signal, self._services.clock()))

    async def _run(self) -> None:
        # Made on behalf of some request, whose id is none of what happens to the session from now on.
        clear_contextvars()
        bind_contextvars(tenant=self.key.tenant, session_id=self.key.session_id)
        while self._ended is None:
            batch, is_text = await self._mailbox.take(_BATCH)
            commands: list[Command] = []
            try:
                if is_text:
                    await self._process_text(cast("list[RunSignal]", batch))
                else:
                    commands = [item for item in batch if isinstance(item, Command)]
                    await self._process(batch, commands)
            except asyncio.CancelledError:
                self._fail_commands(commands, Unavailable("the server is stopping", retry_after=5))
                raise
            except LeaseLost:
                self._fail_commands(commands, Unavailable("another gateway has taken this session over"))
                self._on_lease_lost()
            except StoreUnavailable as failure:
                _log.warning("commit_failed", session_id=self.key.session_id, reason=str(failure))
                await self._reload(commands, "the store failed")
            except Exception:  # noqa: BLE001 - a defect ends one run, not the session
                _log.exception("session_failed", session_id=self.key.session_id)
                await self._reload(commands, "the server failed inside this session; its log says why")
            finally:
                self._room.set()

    async def _process(self, batch: list[Command | RunSignal], commands: list[Command]) -> None:
        """Decide, commit, show, act: in this order and no other."""
        now = self._live
        self._last_text_at = self._services.clock()
        draft = UnitOfWork(now.row, self.log.last_seq, self._last_text_at, self._services.meter.day())
        for item in batch:
            match item:
                case Command():
                    item.execute(draft)
                case RunSignal(turn, signal, _):
                    if turn is now.turn:
                        self._transitions.receive(now, turn, signal, draft)
            if draft.deletes:
                break
            self._transitions.begin_next(now, draft)
        self._transitions.settle_row(now, draft)
        writes = draft.writes(now.row)
        if draft.deletes:
            writes.append(DeleteSession(self.key))
        if writes:
            await self._services.store.commit(writes, self._lease)
        self._publish(draft)
        for command in commands:
            if command.reply is not None or command.failure is not None:
                command.respond()
        self._start_effects(draft)
        if draft.deletes:
            self._on_deleted(commands)

    async def _process_text(self, batch: list[RunSignal]) -> None:
        """Decide, commit, show: pieces of what the model says, by far the commonest.

        Nothing of the session changes but its log, and nothing is to be done then.
        """
        turn, log = self._live.turn, self.log
        events: list[LoggedEvent] = []
        for told in batch:
            if told.turn is turn:
                at = self._last_text_at = max(told.at, self._last_text_at)
                heard = told.turn.receive_chunk(cast("Chunk", told.signal))
                events += log.number(heard, told.turn.request_id, at, after=log.last_seq + len(events))
        if events:
            await self._services.store.commit((AppendEvents(self.key, tuple(events)),), self._lease)
            log.publish(events)

    def _publish(self, draft: UnitOfWork) -> None:
        now = self._live
        now.row = draft.row
        self.snapshot = now.snapshot()
        if draft.trim_before:
            self.log.trim(draft.trim_before)
        self.log.publish(draft.events)
        for key_id, spent in draft.spent:
            self._services.meter.count(Principal(self.key.tenant, key_id), now.account, spent)
        if draft.model_calls_ended:
            self._effects.model_call_ended()
        for run, event in draft.ended:
            tokens = run.usage.total_tokens
            _log.info(event, run_id=run.request_id, key_id=run.key_id, steps=run.steps, calls=run.calls, tokens=tokens)

    def _start_effects(self, draft: UnitOfWork) -> None:
        now = self._live
        for turn, effect in draft.effects:
            match effect:
                case StopWork():
                    self._effects.stop()
                case AskModel() if turn is now.turn:
                    self._ask(turn)
                case RunTool(call) if turn is now.turn:
                    fitting = now.bound.pop(call.id, None) or now.toolset.get(call.name)
                    self._effects.run(turn, call, fitting.tool if fitting else None)
                case _:
                    pass
        self._set_approval_timers()

    def _ask(self, turn: Turn) -> None:
        now = self._live
        assert now.active is not None, "a turn that asks is active"
        try:
            provider = self._services.policy.models.find(now.settings.model)
        except UnknownModel as refusal:
            self._enqueue(turn, ModelFailed(str(refusal)))
            return
        self._effects.ask(
            turn, provider, now.model_request(), Principal(self.key.tenant, now.active.key_id), now.account
        )

    def _set_approval_timers(self) -> None:
        now = self._live

        def expired(approval_id: str, turn: Turn | None = now.turn) -> None:
            assert turn is not None, "an approval waits within a run"
            self._enqueue(turn, Expired(approval_id))

        self._approval_timers.set(now, self._services.clock(), expired)

    # -- its beginning and its end -------------------------------------------------------------------------------------

    async def _load(self, reason: str, error: str) -> None:
        """Read everything back from the store; a run that cannot simply go on waiting is ended with `reason`."""
        store = self._services.store
        try:
            stored = await store.load(self.key)
            if stored is None:
                raise SessionNotFound(self.key.session_id)
            self._live = restore(stored, self._services)
        except (StoredStateDamaged, NewerSettings, ValueError, KeyError, TypeError):
            _log.exception("session_dead", session_id=self.key.session_id)
            raise SessionDead(self.key.session_id) from None
        self._delivered_seq = max(self._delivered_seq, stored.row.delivered_seq)
        if not hasattr(self, "log"):
            self.log = EventLog(
                stored.row.epoch,
                first_seq=stored.first_seq,
                last_seq=stored.last_seq,
                stored=partial(store.events, self.key),
            )
            self._transitions = RunTransitions(self.key, self.log, self._services)
        # A commit may have been carried out though its answer was lost: readers see what the store has.
        self.log.publish(await self._events_since(self.log.last_seq + 1))
        await self._recover_run(reason, error)
        self.snapshot = self._live.snapshot()
        self._set_approval_timers()

    async def _recover_run(self, reason: str, error: str) -> None:
        now = self._live
        if now.active is None:
            if now.queue:  # nothing runs, so nothing else would let the queue go on
                self._mailbox.put(Command(lambda _: Reply(AbortTaken(ok=False))))
            return
        left = recover_run(
            now.history,
            await self._events_since(now.active.first_seq),
            undecided={row.call_id for row in now.approvals.values()},
            unanswered={row.call_id for row in now.questions.values()},
        )
        now.turn = Turn(
            now.active.request_id,
            self._transitions.rules(now),
            history_length=len(now.history),
            steps=now.active.steps,
            calls=now.active.calls,
            usage=now.active.usage,
            cost_usd=now.active.cost_usd,
            open_calls=left.open_calls,
            text=left.text,
        )
        if not left.blocked_on_user:
            heard = len(left.text.encode())
            usage = TokenUsage() if left.open_calls else estimated_usage(now.model_request(), heard)
            self._enqueue(now.turn, Aborted(reason, error=error, usage=usage))

    async def _events_since(self, seq: int) -> list[LoggedEvent]:
        events: list[LoggedEvent] = []
        after = seq - 1
        while page := await self._services.store.events(self.key, after, 5_000):
            events += page
            after = page[-1].seq
        return events

    async def _reload(self, commands: list[Command], error: str) -> None:
        """Nothing of a batch has happened. Forget it, and go on from what is stored as soon as the store allows."""
        self._store_unavailable = True
        self._effects.stop()
        self._effects.model_call_ended()
        self._approval_timers.cancel()  # they tell the turn that is given up
        self._fail_commands(commands, Unavailable("the store does not take writes now"))
        self._fail_commands(self._drain_mailbox(), Unavailable("the store does not take writes now"))
        while True:
            # Whatever fails again and again, a full disk or a defect of ours, must not keep everybody busy.
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self._services.store.ping()
                await self._effects.wait()
                self._drain_mailbox()
                await self._load("error", error)
            except StoreUnavailable:
                pass
            except (SessionNotFound, SessionDead) as gone:
                self._close(gone, "lost")
                return
            else:
                self._store_unavailable = False
                return

    def _drain_mailbox(self) -> list[Command]:
        return [item for item in self._mailbox.drain() if isinstance(item, Command)]

    def _fail_commands(self, commands: Iterable[Command], failure: Exception) -> None:
        for command in commands:
            command.refuse(failure)

    def _on_deleted(self, commands: list[Command]) -> None:
        failure = SessionNotFound(self.key.session_id)
        self._fail_commands((command for command in commands if not command.answer.done()), failure)
        self._close(failure, "deleted")

    def _on_lease_lost(self) -> None:
        _log.warning("session_lost", session_id=self.key.session_id)
        self._close(Unavailable("another gateway has taken this session over"), "lost")

    def _close(self, failure: Exception, reason: CloseReason) -> None:
        self._terminate(failure)
        self._effects.stop()
        self._effects.model_call_ended()
        self._on_closed(self)
        self.log.close(reason)

    def _terminate(self, failure: Exception) -> None:
        self._ended = failure
        self._approval_timers.cancel()
        self._fail_commands(self._drain_mailbox(), failure)
