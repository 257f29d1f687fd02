"""The actor of a session: one task that owns the session and is the only one to change it.

Ownership. An actor exists while this process holds the session's lease. Its task alone touches `LiveState`, the `Turn`
and the effects. Others post to the mailbox: `SessionCommands` commands, `EffectRunner` and the timers signals. They
read the `SessionView`, which holds committed state only.

The loop takes a batch from the mailbox and processes it in four steps, in this order:

1. Decide. Each command and signal changes the live state and a `UnitOfWork`; the kernel says what follows.
2. Commit. The unit of work is one transaction, fenced by the lease.
3. Publish. Snapshot and events become visible, budgets are charged, commands get their replies.
4. Act. Effects start: model calls, tools, timers.

Hence no reader sees an event that is not durable, a 2xx means committed, and no tool runs before the log says so. A
batch of nothing but text chunks takes a shorter path (`_process_text`): it changes only the log and starts nothing.

States:

    loading --> running <--> reloading
                   |              |
                   +--> closed <--+        closed: stopped, deleted, or the lease is lost

Back-pressure: above `_MAILBOX_LIMIT` items, `try_post` refuses chunks and `post` waits for the next batch. Commands are
never refused for the mailbox's sake; their number is bounded by the open requests.

Failures:

- `decide` raises: that command fails, having changed nothing; the rest of the batch is processed.
- The commit fails, or a defect raises: nothing of the batch has happened. Commands fail with 503, effects are canceled
  and their signals dropped, the live state is discarded and reloaded from the store (with retries), exactly as after a
  restart. A commit may have succeeded although its acknowledgment was lost, so reloading publishes what the store has.
- The lease is lost (`LeaseLost`): another gateway owns the session. The actor closes and writes nothing more.
- A turn that was discarded may still receive signals: `_process` compares identities and ignores them.
- The task is canceled (`stop`): the batch fails with 503; what was committed is resumed by the next owner (DUR-2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from cmdc_gateway.errors import SessionDead, SessionNotFound, Unavailable
from cmdc_gateway.kernel.effects import AskModel, RunTool, StopWork
from cmdc_gateway.kernel.signals import ApprovalExpired, Chunk, ModelFailed, Signal
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.protocol.sessions import AbortTaken
from cmdc_gateway.providers.registry import UnknownModel
from cmdc_gateway.sessions.approval_timers import ApprovalTimers
from cmdc_gateway.sessions.command import Command, Decide, IdempotencyRecord, Reply, RunSignal
from cmdc_gateway.sessions.effect_runner import EffectRunner
from cmdc_gateway.sessions.loader import SessionLoader
from cmdc_gateway.sessions.log import CloseReason
from cmdc_gateway.sessions.mailbox import Mailbox
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.state import LiveState
from cmdc_gateway.sessions.transitions import RunTransitions
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.sessions.view import SessionView
from cmdc_gateway.store.errors import LeaseLost, StoreUnavailable
from cmdc_gateway.store.rows import SessionKey, StoredSession
from cmdc_gateway.store.store import Lease
from cmdc_gateway.store.writes import AppendEvents, DeleteSession
from cmdc_gateway.tenancy.keys import Principal

_BATCH_SIZE = 256
_MAILBOX_LIMIT = 512
_RETRY_SECONDS = 0.25

_STORE_UNAVAILABLE = "the store does not accept writes at the moment; retry later"
_LEASE_LOST = "another gateway has taken over this session; retry"

_log = structlog.get_logger(__name__)


class SessionActor:
    """Owns a session: its lease, mailbox, live state and effects. Created by `open`."""

    def __init__(
        self, lease: Lease, services: Services, loader: SessionLoader, stored: StoredSession, live: LiveState
    ) -> None:
        self.key = lease.key
        self.last_used_at = services.clock()
        self._lease = lease
        self._services = services
        self._loader = loader
        self._live = live
        self._mailbox: Mailbox[Command | RunSignal] = Mailbox()
        self._has_room = asyncio.Event()
        self._effects = EffectRunner(self._post, self._try_post, services.meter)
        self._approval_timers = ApprovalTimers()
        self._event_log = loader.open_log(stored)
        self.view = SessionView(
            self.key, self._event_log, live.snapshot(), services.store, self._effects.spawn_best_effort
        )
        self.transitions = RunTransitions(self.key, self._event_log, services)
        self._task: asyncio.Task[None] | None = None
        self._on_closed: Callable[[], None] = lambda: None
        self._store_unavailable = False
        self._last_text_at = 0
        self._ended: Exception | None = None

    @classmethod
    async def open(cls, key: SessionKey, services: Services) -> SessionActor:
        """Acquire the session's lease and load it; `start` must follow.

        Raises:
            SessionNotFound, SessionDead, StoreUnavailable, OwnedElsewhere.
        """
        try:
            lease = await services.store.acquire(key, services.owner, services.clock())
        except KeyError:
            raise SessionNotFound(key.session_id) from None
        loader = SessionLoader(key, services)
        stored, live = await loader.load()
        actor = cls(lease, services, loader, stored, live)
        await actor._resume(live, "interrupted", "the server stopped while this run was active")
        return actor

    def start(self, on_closed: Callable[[], None]) -> None:
        """Start the task. `on_closed` is called when the session is deleted or owned by another gateway."""
        self._on_closed = on_closed
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop the task and release the lease. The next owner resumes what is unfinished (DUR-2)."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._terminate(Unavailable("the server is stopping", retry_after=5))
        self._effects.stop()
        await self._effects.wait()
        try:
            await self._services.store.release(self._lease)
        except StoreUnavailable:
            _log.warning("release_failed", session_id=self.key.session_id)

    @property
    def idle(self) -> bool:
        """Whether nothing is active, queued or being read, so that the session can be evicted from memory."""
        snapshot = self.view.snapshot
        idle = snapshot.active is None and not snapshot.queue and not self._mailbox
        return idle and not self._event_log.readers and not self._store_unavailable

    @property
    def delays_exit(self) -> bool:
        """Whether a run is active that is not blocked on the user (DUR-3)."""
        snapshot = self.view.snapshot
        return not self._store_unavailable and snapshot.active is not None and not snapshot.blocked_on_user

    @property
    def usage_so_far(self) -> TokenUsage:
        """The estimated usage of the model call in flight."""
        return self._effects.usage_so_far

    def touch(self) -> None:
        """Record that the session is in use."""
        self.last_used_at = self._services.clock()

    async def execute(self, decide: Decide, key_id: str, idempotency: IdempotencyRecord | None = None) -> Reply:
        """Run `decide` in the actor's task; return its reply once its changes are committed.

        Canceling the caller does not cancel the command.

        Raises:
            Unavailable: the store does not accept writes, or the session has moved to another gateway.
            SessionNotFound: the session was deleted.
            Exception: whatever `decide` raises.
        """
        self.touch()
        if self._ended is not None:
            raise self._ended
        if self._store_unavailable:
            raise Unavailable(_STORE_UNAVAILABLE)
        command = Command(decide, key_id, idempotency)
        self._mailbox.put(command)
        return await asyncio.shield(command.answer)

    # -- mailbox -------------------------------------------------------------------------------------------------------

    async def _post(self, turn: Turn, signal: Signal) -> None:
        self._enqueue(turn, signal)
        if len(self._mailbox) > _MAILBOX_LIMIT:
            self._has_room.clear()
            await self._has_room.wait()

    def _try_post(self, turn: Turn, signal: Signal) -> bool:
        if len(self._mailbox) >= _MAILBOX_LIMIT:
            return False
        self._mailbox.put_chunk(RunSignal(turn, signal, self._services.clock()))
        return True

    def _enqueue(self, turn: Turn, signal: Signal) -> None:
        self._mailbox.put(RunSignal(turn, signal, self._services.clock()))

    def _drain_mailbox(self) -> list[Command]:
        return [item for item in self._mailbox.drain() if isinstance(item, Command)]

    # -- loop ----------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        # The task inherits the context of the request that opened the session.
        clear_contextvars()
        bind_contextvars(tenant=self.key.tenant, session_id=self.key.session_id)
        while self._ended is None:
            batch, only_chunks = await self._mailbox.take(_BATCH_SIZE)
            commands: list[Command] = []
            try:
                if only_chunks:
                    await self._process_text(cast("list[RunSignal]", batch))
                else:
                    commands = [item for item in batch if isinstance(item, Command)]
                    await self._process(batch, commands)
            except asyncio.CancelledError:
                _fail(commands, Unavailable("the server is stopping", retry_after=5))
                raise
            except LeaseLost:
                _fail(commands, Unavailable(_LEASE_LOST))
                self._on_lease_lost()
            except StoreUnavailable as failure:
                _log.warning("commit_failed", session_id=self.key.session_id, reason=str(failure))
                await self._reload(commands, "the store failed")
            except Exception:  # noqa: BLE001 - a defect ends one run, not the session
                _log.exception("session_failed", session_id=self.key.session_id)
                await self._reload(commands, "the server failed inside this session; see the server's log")
            finally:
                self._has_room.set()

    async def _process(self, batch: list[Command | RunSignal], commands: list[Command]) -> None:
        """Decide, commit, publish, act."""
        live = self._live
        self._last_text_at = self._services.clock()
        unit = UnitOfWork(live.row, self._event_log.last_seq, self._last_text_at, self._services.meter.day())
        self._decide(batch, unit)
        writes = unit.writes(live.row)
        if unit.deletes:
            writes.append(DeleteSession(self.key))
        if writes:
            await self._services.store.commit(writes, self._lease)
        self._publish(unit)
        for command in commands:
            if command.executed:
                command.respond()
        self._start_effects(unit)
        if unit.deletes:
            self._on_deleted(commands)

    def _decide(self, batch: list[Command | RunSignal], unit: UnitOfWork) -> None:
        live = self._live
        for item in batch:
            match item:
                case Command():
                    item.execute(live, unit)
                case RunSignal(turn, signal, _):
                    if turn is live.turn:
                        self.transitions.receive(live, turn, signal, unit)
            if unit.deletes:
                break
            self.transitions.begin_next(live, unit)
        self.transitions.settle_row(live, unit)

    async def _process_text(self, batch: list[RunSignal]) -> None:
        """Decide, commit, publish for chunks of text, by far the most common signals: only the log changes."""
        turn, log = self._live.turn, self._event_log
        events: list[LoggedEvent] = []
        for item in batch:
            if item.turn is turn:
                at = self._last_text_at = max(item.at, self._last_text_at)
                deltas = item.turn.receive_chunk(cast("Chunk", item.signal))
                events += log.number(deltas, item.turn.request_id, at, after=log.last_seq + len(events))
        if events:
            await self._services.store.commit((AppendEvents(self.key, tuple(events)),), self._lease)
            log.publish(events)

    def _publish(self, unit: UnitOfWork) -> None:
        live = self._live
        live.row = unit.row
        self.view.snapshot = live.snapshot()
        if unit.trim_before:
            self._event_log.trim(unit.trim_before)
        self._event_log.publish(unit.events)
        for key_id, spent in unit.spent:
            self._services.meter.count(Principal(self.key.tenant, key_id), live.account, spent)
        if unit.model_calls_ended:
            self._effects.model_call_ended()
        for run, event in unit.ended:
            tokens = run.usage.total_tokens
            _log.info(
                event, request_id=run.request_id, key_id=run.key_id, steps=run.steps, calls=run.calls, tokens=tokens
            )

    def _start_effects(self, unit: UnitOfWork) -> None:
        live = self._live
        for turn, effect in unit.effects:
            match effect:
                case StopWork():
                    self._effects.stop()
                case AskModel() if turn is live.turn:
                    self._call_model(turn)
                case RunTool(call) if turn is live.turn:
                    bound = live.bound.pop(call.id, None) or live.toolset.get(call.name)
                    self._effects.run_tool(turn, call, bound.tool if bound else None)
                case _:
                    pass
        self._set_approval_timers()

    def _call_model(self, turn: Turn) -> None:
        live = self._live
        assert live.active is not None, "a turn that calls the model is active"
        try:
            provider = self._services.policy.models.find(live.settings.model)
        except UnknownModel as error:
            self._enqueue(turn, ModelFailed(str(error)))
            return
        principal = Principal(self.key.tenant, live.active.key_id)
        self._effects.call_model(turn, provider, live.model_request(), principal, live.account)

    def _set_approval_timers(self) -> None:
        live = self._live

        def on_expired(approval_id: str, turn: Turn | None = live.turn) -> None:
            assert turn is not None, "an approval belongs to a run"
            self._enqueue(turn, ApprovalExpired(approval_id))

        self._approval_timers.set(live, self._services.clock(), on_expired)

    # -- loading and closing -------------------------------------------------------------------------------------------

    async def _resume(self, live: LiveState, reason: str, error: str) -> None:
        """Continue from `live`. A run that cannot resume waiting for the user ends with `reason` and `error`."""
        self._live = live
        self._event_log.publish(await self._loader.events_since(self._event_log.last_seq + 1))
        aborted = await self._loader.recover_turn(live, self.transitions.rules(live), reason, error)
        if aborted is not None and live.turn is not None:
            self._enqueue(live.turn, aborted)
        elif live.active is None and live.queue:
            # The loop starts the next run only after it has processed something.
            self._mailbox.put(Command(lambda _, __: Reply(AbortTaken(ok=False))))
        self.view.snapshot = live.snapshot()
        self._set_approval_timers()

    async def _reload(self, commands: list[Command], error: str) -> None:
        """Discard the live state and reload it as soon as the store permits."""
        self._store_unavailable = True
        self._effects.stop()
        self._effects.model_call_ended()
        self._approval_timers.cancel()  # they refer to the discarded turn
        _fail([*commands, *self._drain_mailbox()], Unavailable(_STORE_UNAVAILABLE))
        while True:
            # Sleep first: a persistent failure, such as a full disk or a defect, must not become a busy loop.
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self._services.store.ping()
                await self._effects.wait()
                self._drain_mailbox()
                _, live = await self._loader.load()
                await self._resume(live, "error", error)
            except StoreUnavailable:
                pass
            except (SessionNotFound, SessionDead) as failure:
                self._close(failure, "lost")
                return
            else:
                self._store_unavailable = False
                return

    def _on_deleted(self, commands: list[Command]) -> None:
        failure = SessionNotFound(self.key.session_id)
        _fail((command for command in commands if not command.answer.done()), failure)
        self._close(failure, "deleted")

    def _on_lease_lost(self) -> None:
        _log.warning("session_lost", session_id=self.key.session_id)
        self._close(Unavailable(_LEASE_LOST), "lost")

    def _close(self, failure: Exception, reason: CloseReason) -> None:
        self._terminate(failure)
        self._effects.stop()
        self._effects.model_call_ended()
        self._on_closed()
        self._event_log.close(reason)

    def _terminate(self, failure: Exception) -> None:
        self._ended = failure
        self._approval_timers.cancel()
        _fail(self._drain_mailbox(), failure)


def _fail(commands: Iterable[Command], failure: Exception) -> None:
    for command in commands:
        command.fail(failure)
