"""Transitions: how signals change a session.

The kernel decides; this module applies the outcome to the live state and collects it in a unit of work. Nothing here
waits, writes or publishes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import assert_never

from pydantic import JsonValue

from cmdc_gateway.kernel.effects import Outcome
from cmdc_gateway.kernel.signals import (
    Aborted,
    ApprovalExpired,
    BudgetRefused,
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
from cmdc_gateway.store.rows import ApprovalRow, QuestionRow, RequestRow, SessionKey
from cmdc_gateway.store.writes import PutApproval, PutQuestion

DecisionEvent = ApprovalRequired | ApprovalResolved | AskUser | ToolExecutionEnd

# Tuples for `isinstance`: building a union for each event costs more than the check itself.
_DECISION_EVENTS = (ApprovalRequired, ApprovalResolved, AskUser, ToolExecutionEnd)
_ENDS_OF_MODEL_CALLS = (ModelFinished, ModelFailed, BudgetRefused, Aborted)


class RunTransitions:
    """Applies signals to a session's live state and collects the changes in a unit of work."""

    def __init__(self, key: SessionKey, log: EventLog, services: Services) -> None:
        self._key = key
        self._log = log
        self._services = services

    def begin_next(self, live: LiveState, unit: UnitOfWork) -> None:
        """Start a run for the next queued prompt, if there is one and no run is active."""
        if live.turn is not None or not live.queue or self._services.draining:
            return
        request = live.queue.popleft()
        live.turn = Turn(request.request_id, self.rules(live), history_length=len(live.history))
        live.active = replace(request, status="active", first_seq=unit.last_seq + 1)
        self.receive(live, live.turn, Prompted(request.text), unit)

    def receive(self, live: LiveState, turn: Turn, signal: Signal, unit: UnitOfWork) -> None:
        """Let the run decide about a signal, and apply the outcome."""
        if isinstance(signal, ApprovalExpired) and turn.waiting_approval(signal.approval_id) is None:
            return
        outcome = turn.receive(signal, unit.now)
        if isinstance(signal, _ENDS_OF_MODEL_CALLS):
            unit.model_calls_ended = True
        if live.active is not None:
            self._apply(live, turn, live.active, outcome, unit)

    def tool_replaced(self, live: LiveState, name: str, unit: UnitOfWork) -> None:
        """Tell the active run that the tool of this name was replaced or removed."""
        if live.turn is not None:
            self.receive(live, live.turn, ToolReplaced(name), unit)

    def settle_row(self, live: LiveState, unit: UnitOfWork) -> None:
        """Update the session's state, and the point before which its log is trimmed."""
        state = live.turn.state if live.turn is not None else "idle"
        if state != unit.row.state:
            unit.row = replace(unit.row, state=state)
        keep = self._services.replay_events
        if keep is not None and unit.last_seq - self._log.first_seq + 1 > keep:
            newest = live.active or live.newest_done
            before = min(unit.last_seq - keep + 1, newest.first_seq if newest else unit.last_seq + 1)
            unit.trim_before = before if before > self._log.first_seq else 0

    def rules(self, live: LiveState) -> Rules:
        """The rules for the tool calls of this session's runs. They follow changes of `live.toolset`."""
        settings = live.settings

        def call_error(name: str, args: dict[str, JsonValue]) -> str | None:
            return live.toolset.call_error(name, args)

        def requires_approval(name: str) -> bool:
            return live.toolset.requires_approval(name)

        return Rules(
            call_error=call_error,
            requires_approval=requires_approval,
            digest=lambda call: digest(self._key.session_id, call),
            approval_ms=settings.approval_ms,
            max_steps=settings.max_turns,
            parallel=self._services.parallel_tools,
        )

    def _apply(self, live: LiveState, turn: Turn, active: RequestRow, outcome: Outcome, unit: UnitOfWork) -> None:
        unit.append(self._log.number(outcome.events, turn.request_id, unit.now, after=unit.last_seq))
        for event in outcome.events:
            if isinstance(event, _DECISION_EVENTS):
                self._record_decision(live, event, turn.request_id, unit)
        if outcome.messages or outcome.effects or turn.ended:  # false for a chunk of text, the most common signal
            self._advance(live, turn, active, outcome, unit)

    def _advance(self, live: LiveState, turn: Turn, active: RequestRow, outcome: Outcome, unit: UnitOfWork) -> None:
        """Apply messages, effects and usage, and update the request's row."""
        live.history += outcome.messages
        unit.messages += outcome.messages
        unit.effects += [(turn, effect) for effect in outcome.effects]
        unit.add_usage(active.key_id, outcome.usage, outcome.cost_usd)
        steps = turn.steps - active.steps
        started = sum(isinstance(event, ToolExecutionStart) for event in outcome.events)
        if steps or started:
            unit.row = replace(unit.row, turns=unit.row.turns + steps, tool_calls=unit.row.tool_calls + started)
        updated = replace(
            active,
            steps=turn.steps,
            calls=turn.calls,
            usage=active.usage + outcome.usage,
            cost_usd=active.cost_usd + outcome.cost_usd,
        )
        if turn.ended:
            updated = replace(updated, status="done", last_seq=unit.last_seq)
            live.turn, live.active, live.newest_done = None, None, updated
            live.bound.clear()
            unit.ended.append((updated, outcome.events[-1].name))
        else:
            live.active = updated
        if updated != active:
            unit.put_request(updated)

    def _record_decision(self, live: LiveState, event: DecisionEvent, request_id: str, unit: UnitOfWork) -> None:
        """Keep the rows of approvals and questions, from which decisions are answered and runs recovered."""
        match event:
            case ApprovalRequired():
                row = _approval_row(event, request_id)
                live.approvals[row.approval_id] = row
                unit.write(PutApproval(self._key, row))
            case ApprovalResolved(approval_id, status):
                row = replace(live.approvals.pop(approval_id), status=status)
                unit.write(PutApproval(self._key, row))
                unit.audit(status, approval_id, digest=row.digest, tool=row.tool_name, **self._edited_digest(row))
            case AskUser():
                question = _question_row(event, request_id)
                live.questions[question.ref] = question
                unit.write(PutQuestion(self._key, question))
            case ToolExecutionEnd(call_id=call_id):
                question = live.questions.pop(f"ask_{call_id}", None)
                if question is not None:
                    if question.status != "answered":
                        question = replace(question, status="cancelled")
                    unit.write(PutQuestion(self._key, question))
            case _:
                assert_never(event)

    def _edited_digest(self, row: ApprovalRow) -> dict[str, JsonValue]:
        """For an approval with edited arguments, the digest of the call as approved."""
        args = json.loads(row.decision).get("args")
        if row.status != "approved" or args is None:
            return {}
        approved = digest(self._key.session_id, ToolCall(row.call_id, row.tool_name, args))
        return {} if approved == row.digest else {"approvedDigest": approved}


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


def _question_row(event: AskUser, request_id: str) -> QuestionRow:
    return QuestionRow(
        ref=event.ref,
        request_id=request_id,
        call_id=event.ref.removeprefix("ask_"),
        question=event.question,
        options=tuple(event.options) if event.options is not None else None,
    )
