"""How what happens changes a session: decided by the kernel, noted in a draft, committed by whoever asked.

Nothing here waits, writes or shows anything.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import assert_never

from pydantic import JsonValue

from cmdc_gateway.kernel.effects import Outcome
from cmdc_gateway.kernel.signals import (
    Aborted,
    BudgetRefused,
    Expired,
    ModelFailed,
    ModelFinished,
    Prompted,
    Signal,
    ToolReplaced,
)
from cmdc_gateway.kernel.turn import Rules, Turn
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.events import (
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    ToolExecutionEnd,
    ToolExecutionStart,
)
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.state import LiveState
from cmdc_gateway.sessions.toolset import digest
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.store import ApprovalRow, PutApproval, PutQuestion, QuestionRow, RequestRow, SessionKey

Recorded = ApprovalRequired | ApprovalResolved | AskUser | ToolExecutionEnd

# Most of what is looked at is a piece of text: to make a union each time would take longer than looking.
_RECORDED = (ApprovalRequired, ApprovalResolved, AskUser, ToolExecutionEnd)
_ENDS_OF_CALLS = (ModelFinished, ModelFailed, BudgetRefused, Aborted)


class RunTransitions:
    """Takes what happens into a session's present, and into the draft of what is to be committed."""

    def __init__(self, key: SessionKey, log: EventLog, services: Services) -> None:
        self._key = key
        self._log = log
        self._services = services

    def begin_next(self, now: LiveState, draft: UnitOfWork) -> None:
        """Let the next prompt of the queue become a run, if there is one and nothing runs."""
        if now.turn is not None or not now.queue or self._services.draining:
            return
        request = now.queue.popleft()
        now.turn = Turn(request.request_id, self.rules(now), history_length=len(now.history))
        now.active = replace(request, status="active", first_seq=draft.last_seq + 1)
        self.receive(now, now.turn, Prompted(request.text), draft)

    def receive(self, now: LiveState, turn: Turn, signal: Signal, draft: UnitOfWork) -> None:
        """Take in one thing that happened to a run."""
        if isinstance(signal, Expired) and turn.waiting_approval(signal.approval_id) is None:
            return
        outcome = turn.receive(signal, draft.now)
        if isinstance(signal, _ENDS_OF_CALLS):
            draft.model_calls_ended = True
        if now.active is not None:
            self._absorb(now, turn, now.active, outcome, draft)

    def _absorb(self, now: LiveState, turn: Turn, active: RequestRow, outcome: Outcome, draft: UnitOfWork) -> None:
        draft.append(self._log.number(outcome.events, turn.request_id, draft.now, after=draft.last_seq))
        for event in outcome.events:
            if isinstance(event, _RECORDED):
                self._record(now, event, turn.request_id, draft)
        if outcome.messages or outcome.effects or turn.ended:  # else it was a piece of text, the commonest of all
            self._advance(now, turn, active, outcome, draft)

    def _advance(self, now: LiveState, turn: Turn, active: RequestRow, outcome: Outcome, draft: UnitOfWork) -> None:
        """Take into the session what a run has come to."""
        now.history += outcome.messages
        draft.messages += outcome.messages
        draft.effects += [(turn, effect) for effect in outcome.effects]
        draft.add_usage(active.key_id, outcome.usage, outcome.cost_usd)
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
            draft.ended.append((after, outcome.events[-1].name))
        else:
            now.active = after
        if after != active:
            draft.put_request(after)

    def _record(self, now: LiveState, event: Recorded, request_id: str, draft: UnitOfWork) -> None:
        """Keep what an event says about decisions, so that it can be looked up and taken up again."""
        match event:
            case ApprovalRequired():
                row = _approval_row(event, request_id)
                now.approvals[row.approval_id] = row
                draft.write(PutApproval(self._key, row))
            case ApprovalResolved(approval_id, status):
                row = replace(now.approvals.pop(approval_id), status=status)
                draft.write(PutApproval(self._key, row))
                draft.audit(status, approval_id, digest=row.digest, tool=row.tool_name, **self._edited(row))
            case AskUser(ref, question, options):
                row = QuestionRow(
                    ref, request_id, ref.removeprefix("ask_"), question, tuple(options) if options is not None else None
                )
                now.questions[ref] = row
                draft.write(PutQuestion(self._key, row))
            case ToolExecutionEnd(call_id=call_id):
                asked = now.questions.pop(f"ask_{call_id}", None)
                if asked is not None:
                    closed = asked if asked.status == "answered" else replace(asked, status="cancelled")
                    draft.write(PutQuestion(self._key, closed))
            case _:
                assert_never(event)

    def _edited(self, row: ApprovalRow) -> dict[str, JsonValue]:
        """What the audit trail says of edited arguments: the digest of the call as it was approved."""
        args = json.loads(row.decision).get("args")
        if row.status != "approved" or args is None:
            return {}
        approved = digest(self._key.session_id, ToolCall(row.call_id, row.tool_name, args))
        return {} if approved == row.digest else {"approvedDigest": approved}

    def settle_row(self, now: LiveState, draft: UnitOfWork) -> None:
        """Note the state the session is in now, and what is to be trimmed of its log."""
        state = now.turn.state if now.turn is not None else "idle"
        if state != draft.row.state:
            draft.row = replace(draft.row, state=state)
        keep = self._services.replay_events
        if keep is not None and draft.last_seq - self._log.first_seq + 1 > keep:
            newest = now.active or now.newest_done
            before = min(draft.last_seq - keep + 1, newest.first_seq if newest else draft.last_seq + 1)
            draft.trim_before = before if before > self._log.first_seq else 0

    def tool_replaced(self, now: LiveState, name: str, draft: UnitOfWork) -> None:
        """Take note that another tool has this name now, or none."""
        if now.turn is not None:
            self.receive(now, now.turn, ToolReplaced(name), draft)

    def rules(self, now: LiveState) -> Rules:
        """What holds for the calls of this session's runs."""
        settings = now.settings

        def flaw(name: str, args: dict[str, JsonValue]) -> str | None:  # of the tools there are when it is asked
            return now.toolset.error(name, args)

        def needs_approval(name: str) -> bool:
            return now.toolset.requires_approval(name)

        return Rules(
            error=flaw,
            requires_approval=needs_approval,
            digest=lambda call: digest(self._key.session_id, call),
            approval_ms=settings.approval_ms,
            max_steps=settings.max_turns,
            parallel=self._services.parallel_tools,
        )


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
