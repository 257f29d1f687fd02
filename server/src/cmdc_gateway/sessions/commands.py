"""The commands of a session: each turns a request into a decision that the actor executes.

A decision (`decide`) runs in the actor's task, in order with everything else that happens to the session. It either
changes the live state and the unit of work and returns a reply, or raises and has changed nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

from pydantic import JsonValue

from cmdc_gateway.errors import (
    AlreadyResolved,
    ApprovalNotFound,
    BadRequest,
    DigestMismatch,
    QuestionNotFound,
    QueueFull,
    ToolNotFound,
    Unavailable,
)
from cmdc_gateway.kernel.signals import Aborted, Answered, Approved, Rejected
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
from cmdc_gateway.sessions.state import LiveState, bind_callback
from cmdc_gateway.sessions.toolset import canonical
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.rows import ApprovalRow, RequestRow, ToolRow
from cmdc_gateway.store.writes import PutTool, RemoveTool
from cmdc_gateway.tenancy.keys import Principal
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition


class NotPending(Exception):
    """The approval or question is not pending; the store knows whether it ever was, and its outcome."""


class SessionCommands:
    """Everything that changes a session. Each method returns once its change is committed.

    `key_id` is the API key of the request. With `idempotency` the response is stored in the same transaction. Every
    method may raise Unavailable and SessionNotFound, see `SessionActor.execute`.
    """

    def __init__(self, actor: SessionActor, services: Services) -> None:
        self._actor = actor
        self._services = services
        self._key = actor.key

    async def submit(self, text: str, key_id: str, idempotency: IdempotencyRecord | None = None) -> Reply:
        """Queue a prompt (EP-prompt).

        Raises:
            BudgetExceeded: a budget of the session, the key or the tenant is exhausted.
            QueueFull: too many prompts are queued.
        """

        def decide(live: LiveState, unit: UnitOfWork) -> Reply:
            if self._services.draining:
                raise Unavailable("the server is stopping", retry_after=5)
            self._services.meter.check(Principal(self._key.tenant, key_id), live.account)
            if len(live.queue) >= self._services.queued_prompts:
                raise QueueFull(self._services.queued_prompts)
            queued = live.turn is not None or bool(live.queue)
            live.position += 1
            request = RequestRow(self._services.new_id(), live.position, key_id, text)
            live.queue.append(request)
            unit.put_request(request)
            unit.count_prompt(key_id)
            cursor = Cursor(unit.row.epoch, unit.last_seq)
            body = PromptAccepted(
                request_id=request.request_id, session_id=self._key.session_id, queued=queued, cursor=str(cursor)
            )
            return Reply(body, 202)

        return await self._actor.execute(decide, key_id, idempotency)

    async def approve(
        self,
        approval_id: str,
        key_id: str,
        args: dict[str, JsonValue] | None = None,
        digest: str | None = None,
        idempotency: IdempotencyRecord | None = None,
    ) -> Reply:
        """Approve a tool call, optionally with other arguments (APP-1 … APP-3). Repeating the decision succeeds.

        Raises:
            ApprovalNotFound: the session never had this approval.
            AlreadyResolved: another decision was made.
            DigestMismatch: `digest` is not that of the pending call.
            BadRequest: `args` do not match the tool's schema.
        """
        reply = Reply(DecisionTaken(ok=True, action="approve", approval_id=approval_id))

        def decide(live: LiveState, unit: UnitOfWork) -> Reply:
            turn, call = _pending_approval(live, approval_id)
            row = live.approvals[approval_id]
            if digest is not None and digest != row.digest:
                raise DigestMismatch(approval_id)
            error = None if args is None else live.toolset.call_error(call.name, args)
            if error is not None:
                raise BadRequest(error, [("args", error)])
            edited = None if args is None or canonical(args) == canonical(call.args) else args
            approved_args = call.args if edited is None else edited
            live.approvals[approval_id] = replace(row, decision=dumps({"args": approved_args}))
            tool = live.toolset.get(call.name)
            if tool is not None:
                live.bound[call.id] = tool
            self._actor.transitions.receive(live, turn, Approved(approval_id, edited), unit)
            return reply

        try:
            return await self._actor.execute(decide, key_id, idempotency)
        except NotPending:
            row = await self._stored_approval(approval_id)
            same_args = args is None or canonical(args) == canonical(json.loads(row.decision).get("args"))
            if row.status == "approved" and same_args and digest in (None, row.digest):
                return await self._repeat(reply, key_id, idempotency)
            raise AlreadyResolved(f"approval {approval_id!r}", row.status) from None

    async def reject(
        self, approval_id: str, key_id: str, reason: str | None = None, idempotency: IdempotencyRecord | None = None
    ) -> Reply:
        """Reject a tool call (APP-1, APP-2). Repeating the decision succeeds.

        Raises:
            ApprovalNotFound: the session never had this approval.
            AlreadyResolved: another decision was made.
        """
        reply = Reply(DecisionTaken(ok=True, action="reject", approval_id=approval_id))

        def decide(live: LiveState, unit: UnitOfWork) -> Reply:
            turn, _ = _pending_approval(live, approval_id)
            row = live.approvals[approval_id]
            live.approvals[approval_id] = replace(row, decision=dumps({"reason": reason}))
            self._actor.transitions.receive(live, turn, Rejected(approval_id, reason), unit)
            return reply

        try:
            return await self._actor.execute(decide, key_id, idempotency)
        except NotPending:
            row = await self._stored_approval(approval_id)
            if row.status == "rejected" and reason in (None, json.loads(row.decision).get("reason")):
                return await self._repeat(reply, key_id, idempotency)
            raise AlreadyResolved(f"approval {approval_id!r}", row.status) from None

    async def respond(
        self, ref: str, response: str, key_id: str, idempotency: IdempotencyRecord | None = None
    ) -> Reply:
        """Answer a question (ASK-1). Repeating the answer succeeds.

        Raises:
            QuestionNotFound: the session never asked this question.
            AlreadyResolved: another answer was given, or the question was canceled.
            BadRequest: the response is not one of the options.
        """
        reply = Reply(ResponseTaken(ok=True, action="respond", ref=ref))

        def decide(live: LiveState, unit: UnitOfWork) -> Reply:
            turn = live.turn
            if turn is None or turn.waiting_input(ref) is None:
                raise NotPending
            row = live.questions[ref]
            if row.options is not None and response not in row.options:
                options = ", ".join(repr(option) for option in row.options)
                raise BadRequest(f"response must be one of the options: {options}", [("response", "not an option")])
            live.questions[ref] = replace(row, status="answered", response=response)
            answer = canonical([self._key.session_id, ref, response])
            assert answer is not None, "strings have a canonical form"
            unit.audit("answered", ref, digest=sha256(answer).hexdigest())
            self._actor.transitions.receive(live, turn, Answered(ref, response), unit)
            return reply

        try:
            return await self._actor.execute(decide, key_id, idempotency)
        except NotPending:
            row = await self._services.store.question(self._key, ref)
            if row is None:
                raise QuestionNotFound(ref) from None
            if row.status == "answered" and row.response == response:
                return await self._repeat(reply, key_id, idempotency)
            raise AlreadyResolved(f"question {ref!r}", row.status) from None

    async def abort(
        self, key_id: str, reason: str | None = None, idempotency: IdempotencyRecord | None = None
    ) -> Reply:
        """End the active run, if any; the next queued prompt starts (EP-abort)."""

        def decide(live: LiveState, unit: UnitOfWork) -> Reply:
            turn = live.turn
            if turn is None:
                return Reply(AbortTaken(ok=False), 200)
            unit.audit("aborted", turn.request_id)
            signal = Aborted(reason or "aborted", usage=self._actor.usage_so_far)
            self._actor.transitions.receive(live, turn, signal, unit)
            return Reply(AbortTaken(ok=True), 202)

        return await self._actor.execute(decide, key_id, idempotency)

    async def register(
        self,
        definition: CallbackDefinition,
        answer: ToolRegistered,
        key_id: str,
        idempotency: IdempotencyRecord | None = None,
    ) -> Reply:
        """Add a callback tool, or replace the one of the same name (CB-1, APP-3).

        Raises:
            RegistrationFailed: a built-in tool has this name.
        """
        tool = bind_callback(self._key, definition, self._services)

        def decide(live: LiveState, unit: UnitOfWork) -> Reply:
            replaced = live.toolset.get(definition.name) is not None
            live.toolset = live.toolset.with_callback(tool)
            unit.write(PutTool(self._key, ToolRow(definition.name, definition.to_json())))
            unit.audit("tool_registered", definition.name, digest=definition.digest, origin=definition.origin)
            if replaced:
                self._actor.transitions.tool_replaced(live, definition.name, unit)
            return Reply(answer, 201)

        return await self._actor.execute(decide, key_id, idempotency)

    async def remove_tool(self, name: str, key_id: str) -> Reply:
        """Remove a callback tool.

        Raises:
            ToolNotFound: the session has no callback tool of this name.
        """

        def decide(live: LiveState, unit: UnitOfWork) -> Reply:
            tool = live.toolset.get(name)
            if tool is None or tool.definition is None:
                raise ToolNotFound(name)
            live.toolset = live.toolset.without(name)
            unit.write(RemoveTool(self._key, name))
            unit.audit("tool_removed", name, digest=tool.definition.digest)
            self._actor.transitions.tool_replaced(live, name, unit)
            return Reply(ToolRemoved(name=name, status="removed"))

        return await self._actor.execute(decide, key_id)

    async def issue_ticket(
        self, ticket: TicketIssued, scope: str, key_id: str, idempotency: IdempotencyRecord | None = None
    ) -> Reply:
        """Record that a ticket was issued, and return it (EP-tickets)."""

        def decide(_: LiveState, unit: UnitOfWork) -> Reply:
            unit.audit("ticket_issued", scope=scope, expiresAt=ticket.expires_at)
            return Reply(ticket, 201)

        return await self._actor.execute(decide, key_id, idempotency)

    async def delete(self, key_id: str) -> Reply:
        """Abort the active run and delete the session (EP-delete)."""

        def decide(live: LiveState, unit: UnitOfWork) -> Reply:
            if live.turn is not None:
                signal = Aborted("session_deleted", usage=self._actor.usage_so_far)
                self._actor.transitions.receive(live, live.turn, signal, unit)
            unit.deletes = True
            unit.audit("session_deleted")
            return Reply(SessionDeleted(session_id=self._key.session_id, status="deleted"))

        return await self._actor.execute(decide, key_id)

    async def _repeat(self, reply: Reply, key_id: str, idempotency: IdempotencyRecord | None) -> Reply:
        """Reply to a repeated decision, storing the response under its Idempotency-Key."""
        return reply if idempotency is None else await self._actor.execute(lambda _, __: reply, key_id, idempotency)

    async def _stored_approval(self, approval_id: str) -> ApprovalRow:
        row = await self._services.store.approval(self._key, approval_id)
        if row is None:
            raise ApprovalNotFound(approval_id)
        return row


def _pending_approval(live: LiveState, approval_id: str) -> tuple[Turn, ToolCall]:
    turn = live.turn
    call = turn.waiting_approval(approval_id) if turn is not None else None
    if turn is None or call is None:
        raise NotPending
    return turn, call
