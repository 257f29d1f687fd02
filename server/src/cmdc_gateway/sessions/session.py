"""One agent with its settings, history and event log: what may be asked of it, and what each asking leads to.

A decision is a function from a draft to a reply. It is carried out by the session's task, in its turn among all that
happens to the session; see `life`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import structlog
from pydantic import JsonValue

from cmdc_gateway.errors import (
    AlreadyResolved,
    ApprovalNotFound,
    BadRequest,
    DigestMismatch,
    QuestionNotFound,
    QueueFull,
    SessionNotFound,
    ToolNotFound,
    Unavailable,
)
from cmdc_gateway.kernel.signals import (
    Aborted,
    Answered,
    Approved,
    Rejected,
)
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.decisions import DecisionTaken, ResponseTaken
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.frames import Cursor
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.protocol.service import TicketIssued
from cmdc_gateway.protocol.sessions import AbortTaken, PromptAccepted, SessionDeleted
from cmdc_gateway.protocol.tools import ToolRegistered, ToolRemoved
from cmdc_gateway.sessions.actor import SessionActor
from cmdc_gateway.sessions.command import IdempotencyRecord, Reply
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import SessionSettings
from cmdc_gateway.sessions.state import bind_callback
from cmdc_gateway.sessions.toolset import Toolset, canonical
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.store import (
    ApprovalRow,
    MarkDelivered,
    PutTool,
    RemoveTool,
    RequestRow,
    SessionKey,
    StoreUnavailable,
    ToolRow,
)
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition

_log = structlog.get_logger(__name__)


class NotWaiting(Exception):
    """What was decided about does not wait now; what became of it is in the store."""


class Session(SessionActor):
    """One agent with its settings, history and event log.

    Made by `Session.open`. Its methods may be called from any task of the event loop; those that change something
    return when the change is committed.
    """

    @classmethod
    async def open(cls, key: SessionKey, services: Services, when_over: Callable[[Session], None]) -> Session:
        """Take a session up where it stands in the store, as its only owner.

        `when_over` is called once it is deleted, or belongs to somebody else.

        Raises:
            SessionNotFound, SessionDead, StoreDown, SessionHeld.
        """
        try:
            fence = await services.store.acquire(key, services.owner, services.clock())
        except KeyError:
            raise SessionNotFound(key.session_id) from None
        session = cls(key, fence, services, when_over)
        await session._load("interrupted", "the server stopped while this run was active")
        session._task = asyncio.get_running_loop().create_task(session._run())
        return session

    # -- what can be asked of it ---------------------------------------------------------------------------------------

    @property
    def settings(self) -> SessionSettings:
        return self._live.settings

    @property
    def toolset(self) -> Toolset:
        return self._live.toolset

    @property
    def idle(self) -> bool:
        """Nothing happens, nobody reads: the session could as well be in the store alone."""
        idle = self.snapshot.active is None and not self.snapshot.queue and not self._mailbox
        return idle and not self.log.readers and not self._store_unavailable

    @property
    def delays_exit(self) -> bool:
        """A run is active and not merely waiting for a person (DUR-3)."""
        return not self._store_unavailable and self.snapshot.active is not None and not self.snapshot.blocked_on_user

    def start_position(self) -> int:
        """After which seq a reader without a cursor begins (SSE-5)."""
        view = self.snapshot
        if view.active is not None:
            return view.active.first_seq - 1
        done = view.newest_done
        if not view.queue and done is not None and done.last_seq > self._delivered_seq:
            return done.first_seq - 1
        return self.log.last_seq

    def mark_delivered(self, seq: int) -> None:
        """A terminal event has been written to an SSE reader: nobody needs it for want of a cursor any longer."""
        if seq > self._delivered_seq:
            self._delivered_seq = seq
            self._effects.spawn_best_effort(self._services.store.commit([MarkDelivered(self.key, seq)]))

    async def request(self, request_id: str) -> RequestRow | None:
        """The request of this id, as it stands."""
        view = self.snapshot
        for row in (view.active, view.newest_done, *view.queue):
            if row is not None and row.request_id == request_id:
                return row
        return await self._services.store.request(self.key, request_id)

    # -- what can be done with it --------------------------------------------------------------------------------------

    async def submit(self, text: str, key_id: str, remember: IdempotencyRecord | None = None) -> Reply:
        """Accept a prompt (§3.5). Raises BudgetExceeded, QueueFull, Unavailable."""

        def decide(draft: UnitOfWork) -> Reply:
            now = self._live
            if self._services.draining:
                raise Unavailable("the server is stopping", retry_after=5)
            self._services.meter.check(Principal(self.key.tenant, key_id), now.account)
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

        return await self._submit(decide, key_id, remember)

    async def approve(
        self,
        approval_id: str,
        key_id: str,
        args: dict[str, JsonValue] | None = None,
        digest: str | None = None,
        remember: IdempotencyRecord | None = None,
    ) -> Reply:
        """Let a tool call run (APP-1 … APP-3). Raises ApprovalNotFound, AlreadyResolved, DigestMismatch, BadRequest."""
        taken = Reply(DecisionTaken(ok=True, action="approve", approval_id=approval_id))

        def decide(draft: UnitOfWork) -> Reply:
            turn, call = self._undecided(approval_id)
            row = self._live.approvals[approval_id]
            if digest is not None and digest != row.digest:
                raise DigestMismatch(approval_id)
            if args is not None:
                flaw = self._live.toolset.error(call.name, args)
                if flaw is not None:
                    raise BadRequest(flaw, [("args", flaw)])
            edited = None if args is None or canonical(args) == canonical(call.args) else args
            decided = replace(row, decision=dumps({"args": call.args if edited is None else edited}))
            self._live.approvals[approval_id] = decided
            fitting = self._live.toolset.get(call.name)
            if fitting is not None:
                self._live.bound[call.id] = fitting
            self._transitions.receive(self._live, turn, Approved(approval_id, edited), draft)
            return taken

        try:
            return await self._submit(decide, key_id, remember)
        except NotWaiting:
            row = await self._decided(approval_id)
            same_args = args is None or canonical(args) == canonical(json.loads(row.decision).get("args"))
            if row.status == "approved" and same_args and digest in (None, row.digest):
                return await self._store_response(taken, key_id, remember)
            raise AlreadyResolved(f"approval {approval_id!r}", row.status) from None

    async def reject(
        self, approval_id: str, key_id: str, reason: str | None = None, remember: IdempotencyRecord | None = None
    ) -> Reply:
        """Keep a tool call from running (APP-1, APP-2). Raises ApprovalNotFound, AlreadyResolved."""
        taken = Reply(DecisionTaken(ok=True, action="reject", approval_id=approval_id))

        def decide(draft: UnitOfWork) -> Reply:
            turn, _ = self._undecided(approval_id)
            row = self._live.approvals[approval_id]
            self._live.approvals[approval_id] = replace(row, decision=dumps({"reason": reason}))
            self._transitions.receive(self._live, turn, Rejected(approval_id, reason), draft)
            return taken

        try:
            return await self._submit(decide, key_id, remember)
        except NotWaiting:
            row = await self._decided(approval_id)
            if row.status == "rejected" and reason in (None, json.loads(row.decision).get("reason")):
                return await self._store_response(taken, key_id, remember)
            raise AlreadyResolved(f"approval {approval_id!r}", row.status) from None

    async def respond(self, ref: str, response: str, key_id: str, remember: IdempotencyRecord | None = None) -> Reply:
        """Answer a question (ASK-1). Raises QuestionNotFound, AlreadyResolved, BadRequest."""
        taken = Reply(ResponseTaken(ok=True, action="respond", ref=ref))

        def decide(draft: UnitOfWork) -> Reply:
            turn = self._live.turn
            if turn is None or turn.waiting_input(ref) is None:
                raise NotWaiting
            row = self._live.questions[ref]
            if row.options is not None and response not in row.options:
                offered = ", ".join(repr(option) for option in row.options)
                raise BadRequest(f"response must be one of the options: {offered}", [("response", "not an option")])
            self._live.questions[ref] = replace(row, status="answered", response=response)
            answered = canonical([self.key.session_id, ref, response])
            assert answered is not None, "strings can be written canonically"
            draft.audit("answered", ref, digest=sha256(answered).hexdigest())
            self._transitions.receive(self._live, turn, Answered(ref, response), draft)
            return taken

        try:
            return await self._submit(decide, key_id, remember)
        except NotWaiting:
            row = await self._services.store.question(self.key, ref)
            if row is None:
                raise QuestionNotFound(ref) from None
            if row.status == "answered" and row.response == response:
                return await self._store_response(taken, key_id, remember)
            raise AlreadyResolved(f"question {ref!r}", row.status) from None

    async def abort(self, key_id: str, reason: str | None = None, remember: IdempotencyRecord | None = None) -> Reply:
        """End the active run; the queue goes on (§3.11)."""

        def decide(draft: UnitOfWork) -> Reply:
            turn = self._live.turn
            if turn is None:
                return Reply(AbortTaken(ok=False), 200)
            draft.audit("aborted", turn.request_id)
            self._transitions.receive(
                self._live, turn, Aborted(reason or "aborted", usage=self._effects.used_so_far), draft
            )
            return Reply(AbortTaken(ok=True), 202)

        return await self._submit(decide, key_id, remember)

    async def register(
        self,
        definition: CallbackDefinition,
        answer: ToolRegistered,
        key_id: str,
        remember: IdempotencyRecord | None = None,
    ) -> Reply:
        """Add a callback tool, or replace the one of its name (CB-1, APP-3). Raises RegistrationFailed."""
        fitting = bind_callback(self.key, definition, self._services)

        def decide(draft: UnitOfWork) -> Reply:
            replaced = self._live.toolset.get(definition.name) is not None
            self._live.toolset = self._live.toolset.with_callback(fitting)
            draft.write(PutTool(self.key, ToolRow(definition.name, definition.to_json())))
            draft.audit("tool_registered", definition.name, digest=definition.digest, origin=definition.origin)
            if replaced:
                self._transitions.tool_replaced(self._live, definition.name, draft)
            return Reply(answer, 201)

        return await self._submit(decide, key_id, remember)

    async def remove_tool(self, name: str, key_id: str) -> Reply:
        """Remove a callback tool. Raises ToolNotFound."""

        def decide(draft: UnitOfWork) -> Reply:
            fitting = self._live.toolset.get(name)
            if fitting is None or fitting.definition is None:
                raise ToolNotFound(name)
            self._live.toolset = self._live.toolset.without(name)
            draft.write(RemoveTool(self.key, name))
            draft.audit("tool_removed", name, digest=fitting.definition.digest)
            self._transitions.tool_replaced(self._live, name, draft)
            return Reply(ToolRemoved(name=name, status="removed"))

        return await self._submit(decide, key_id)

    async def issue_ticket(
        self, ticket: TicketIssued, scope: str, key_id: str, remember: IdempotencyRecord | None = None
    ) -> Reply:
        """Give out a ticket (§3.11)."""

        def decide(draft: UnitOfWork) -> Reply:
            draft.audit("ticket_issued", scope=scope, expiresAt=ticket.expires_at)
            return Reply(ticket, 201)

        return await self._submit(decide, key_id, remember)

    async def delete(self, key_id: str) -> Reply:
        """Stop any run and forget everything (§3.4)."""

        def decide(draft: UnitOfWork) -> Reply:
            if self._live.turn is not None:
                signal = Aborted("session_deleted", usage=self._effects.used_so_far)
                self._transitions.receive(self._live, self._live.turn, signal, draft)
            draft.deletes = True
            draft.audit("session_deleted")
            return Reply(SessionDeleted(session_id=self.key.session_id, status="deleted"))

        return await self._submit(decide, key_id)

    async def stop(self) -> None:
        """Let go of the session. What runs is left to whoever takes it up next (DUR-2)."""
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

    async def _store_response(self, reply: Reply, key_id: str, remember: IdempotencyRecord | None) -> Reply:
        """An answer that changes nothing in the session; it is kept under its Idempotency-Key like any other."""
        return reply if remember is None else await self._submit(lambda _: reply, key_id, remember)

    def _undecided(self, approval_id: str) -> tuple[Turn, ToolCall]:
        turn = self._live.turn
        call = turn.waiting_approval(approval_id) if turn is not None else None
        if turn is None or call is None:
            raise NotWaiting
        return turn, call

    async def _decided(self, approval_id: str) -> ApprovalRow:
        row = await self._services.store.approval(self.key, approval_id)
        if row is None:
            raise ApprovalNotFound(approval_id)
        return row
