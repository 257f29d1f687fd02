"""Mutants that mishandle approvals and questions (APP, ASK)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cmdc_gateway.errors import AlreadyResolved, ApprovalNotFound, QuestionNotFound
from cmdc_gateway.kernel.effects import Outcome, RunTool
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.decisions import DecisionTaken, ResponseTaken
from cmdc_gateway.sessions import toolset, transitions
from cmdc_gateway.sessions.approval_timers import ApprovalTimers
from cmdc_gateway.sessions.command import Reply
from cmdc_gateway.sessions.commands import SessionCommands

from broken_gateways.mutant import breaks
from broken_gateways.patching import after, change_arguments, wrap

# -- APP-1, APP-2 ------------------------------------------------------------------------------------------------------


@breaks(
    *("APP-1.waits", "EVT-4.not-run", "APP-2.same", "APP-2.cancelled", "APP-3.edited", "APP-3.replaced", "APP-4"),
    *("CB-1.approval", "DUR-1.decisions", "DUR-2.waiting"),
)
def runs_before_approval() -> None:
    """A call that needs approval runs while it waits."""

    def around(original: Any) -> Any:
        def open_call(self: Any, call: Any, error: str | None, now: int) -> Outcome:
            outcome = original(self, call, error, now)
            waits = call.id in self._open and self._open[call.id].stage == "waiting_approval"
            return replace(outcome, effects=(*outcome.effects, RunTool(call))) if waits else outcome

        return open_call

    wrap(Turn, "_open_call", around)


@breaks("APP-1.approve", "APP-4", "APP-2.same", "APP-3.edited", "APP-3.shown-runs", "CB-1.approval")
def approved_call_fails() -> None:
    """A call that was approved fails instead of running."""

    def around(original: Any) -> Any:
        def decided(self: Any, decision: Any) -> Outcome:
            if type(decision).__name__ != "Approved":
                return original(self, decision)
            call = self.waiting_approval(decision.approval_id)
            if call is None:
                return original(self, decision)
            return self._decline(call, "approved", "This call was forgotten.") + self._continue()

        return decided

    wrap(Turn, "_resolve_approval", around)


@breaks("APP-1.reject")
def rejection_without_reason() -> None:
    """The result of a rejected call has no reason."""

    def around(original: Any) -> Any:
        def refused(self: Any, call: Any, status: str, sentence: str) -> Outcome:
            return original(self, call, status, "" if status == "rejected" else sentence)

        return refused

    wrap(Turn, "_decline", around)


def _decide(change: Any) -> None:
    """Change the effect of approve and reject."""
    for action in ("approve", "reject"):

        def around(original: Any, action: str = action) -> Any:
            async def decide(self: Any, approval_id: str, *args: Any) -> Any:
                return await change(action, self, approval_id, original(self, approval_id, *args))

            return decide

        wrap(SessionCommands, action, around)


@breaks("APP-2.same")
def repeated_decision_rejected() -> None:
    """The same decision again is rejected."""
    decided: set[tuple[str, str]] = set()

    async def change(action: str, _: Any, approval_id: str, decision: Any) -> Any:
        reply = await decision
        if (action, approval_id) in decided:
            raise AlreadyResolved(f"approval {approval_id!r}", "approved" if action == "approve" else "rejected")
        decided.add((action, approval_id))
        return reply

    _decide(change)


@breaks("APP-2.other", "APP-2.race", "DUR-1.decisions")
def different_decision_accepted() -> None:
    """A different decision on a resolved approval returns 200."""

    async def change(action: str, _: Any, approval_id: str, decision: Any) -> Any:
        try:
            return await decision
        except AlreadyResolved as error:
            if error.members()["status"] in ("approved", "rejected"):
                return Reply(DecisionTaken.model_validate({"ok": True, "action": action, "approvalId": approval_id}))
            raise

    _decide(change)


@breaks("APP-2.unknown", "WS-3.refusals")
def unknown_approval_accepted() -> None:
    """A decision on an unknown approval returns 200."""

    async def change(action: str, _: Any, approval_id: str, decision: Any) -> Any:
        try:
            return await decision
        except ApprovalNotFound:
            return Reply(DecisionTaken.model_validate({"ok": True, "action": action, "approvalId": approval_id}))

    _decide(change)


@breaks("APP-2.race")
def all_decisions_win() -> None:
    """All of several concurrent decisions return 200."""
    import asyncio

    deciding: dict[str, int] = {}

    async def change(action: str, _: Any, approval_id: str, decision: Any) -> Any:
        deciding[approval_id] = deciding.get(approval_id, 0) + 1
        await asyncio.sleep(0.05)
        together = deciding[approval_id] > 1
        try:
            return await decision
        except AlreadyResolved:
            if together:
                return Reply(DecisionTaken.model_validate({"ok": True, "action": action, "approvalId": approval_id}))
            raise
        finally:
            await asyncio.sleep(0.05)
            deciding[approval_id] -= 1

    _decide(change)


@breaks("APP-2.expired")
def approval_never_expires() -> None:
    """An approval does not expire at its timeout."""
    wrap(ApprovalTimers, "set", lambda _: lambda *_: None)


@breaks("APP-2.cancelled")
def cancelled_approval_unknown() -> None:
    """A decision on a cancelled approval returns 404."""

    async def change(_: str, __: Any, approval_id: str, decision: Any) -> Any:
        try:
            return await decision
        except AlreadyResolved as error:
            if error.members()["status"] == "cancelled":
                raise ApprovalNotFound(approval_id) from None
            raise

    _decide(change)


# -- APP-3, APP-5 ------------------------------------------------------------------------------------------------------


@breaks("APP-3.digest")
def digest_without_session() -> None:
    """The digest does not cover the session."""
    wrap(transitions, "digest", lambda original: lambda _, call: original("", call))


@breaks("APP-3.mismatch")
def digest_ignored() -> None:
    """A different digest is ignored."""
    change_arguments(SessionCommands, "approve", lambda given: given.update(digest=None))


@breaks("APP-3.edited")
def edited_arguments_ignored() -> None:
    """Edited arguments are accepted, and the call runs with the model's."""

    def around(original: Any) -> Any:
        def decided(self: Any, decision: Any) -> Outcome:
            if type(decision).__name__ == "Approved":
                decision = replace(decision, args=None)
            return original(self, decision)

        return decided

    wrap(Turn, "_resolve_approval", around)


@breaks("APP-3.edited-invalid", "EVT-1.grammar")
def edited_arguments_unvalidated() -> None:
    """Edited arguments are not validated."""

    def around(original: Any) -> Any:
        async def approve(self: Any, *given: Any) -> Any:
            kind: Any = toolset.Toolset
            checks = kind.call_error
            kind.call_error = lambda *_: None
            try:
                return await original(self, *given)
            finally:
                kind.call_error = checks

        return approve

    wrap(SessionCommands, "approve", around)


@breaks("APP-3.shown-runs")
def other_arguments_run() -> None:
    """An approved call runs with other arguments than those shown."""

    def around(original: Any) -> Any:
        def decided(self: Any, decision: Any) -> Outcome:
            outcome = original(self, decision)
            if type(decision).__name__ != "Approved" or decision.args is not None:
                return outcome
            effects = tuple(_altered(effect) if isinstance(effect, RunTool) else effect for effect in outcome.effects)
            return replace(outcome, effects=effects)

        return decided

    wrap(Turn, "_resolve_approval", around)


def _altered(effect: RunTool) -> RunTool:
    """The same call with its texts in upper case."""
    args = {name: value.upper() if isinstance(value, str) else value for name, value in effect.call.args.items()}
    return RunTool(replace(effect.call, args=args))


@breaks("APP-3.replaced")
def approval_survives_replacement() -> None:
    """Registering a tool again does not cancel its pending approval."""
    wrap(Turn, "_cancel_approvals", lambda _: lambda _, __: Outcome())


@breaks("APP-5")
def wildcard_is_a_name() -> None:
    """* in approval.tools is treated as the name of a tool."""
    wrap(toolset, "EVERY_TOOL", lambda _: "every tool")


# -- ASK-1 -------------------------------------------------------------------------------------------------------------


@breaks("ASK-1.asks", "EVT-1.grammar")
def question_reversed() -> None:
    """The text of a question is reversed."""
    from cmdc_gateway.kernel import turn

    after(turn, "_ask_user_event", lambda event: replace(event, question=event.question[::-1]))


@breaks("ASK-1.respond")
def answer_reversed() -> None:
    """The text of an answer is reversed."""

    def around(original: Any) -> Any:
        def answered(self: Any, ref: str, response: str) -> Outcome:
            return original(self, ref, response[::-1])

        return answered

    wrap(Turn, "_answer_question", around)


def _respond(change: Any) -> None:
    def around(original: Any) -> Any:
        async def respond(self: Any, ref: str, response: str, *rest: Any) -> Any:
            return await change(self, ref, response, lambda: original(self, ref, response, *rest))

        return respond

    wrap(SessionCommands, "respond", around)


@breaks("ASK-1.options")
def any_answer() -> None:
    """An answer that is not an option is accepted."""

    async def change(session: Any, ref: str, _: str, respond: Any) -> Any:
        lookup = session._actor._live.questions.get(ref)
        if lookup is not None:
            session._actor._live.questions[ref] = replace(lookup, options=None)
        return await respond()

    _respond(change)


@breaks("ASK-1.same")
def repeated_answer_rejected() -> None:
    """The same answer again is rejected."""
    answered: set[str] = set()

    async def change(_: Any, ref: str, __: str, respond: Any) -> Any:
        reply = await respond()
        if ref in answered:
            raise AlreadyResolved(f"question {ref!r}", "answered")
        answered.add(ref)
        return reply

    _respond(change)


@breaks("ASK-1.other")
def different_answer_accepted() -> None:
    """A different answer to a resolved question returns 200."""

    async def change(_: Any, ref: str, __: str, respond: Any) -> Any:
        try:
            return await respond()
        except AlreadyResolved:
            return Reply(ResponseTaken(ok=True, action="respond", ref=ref))

    _respond(change)


@breaks("ASK-1.unknown", "WS-3.refusals")
def unknown_question_accepted() -> None:
    """An answer to an unknown question returns 200."""

    async def change(_: Any, ref: str, __: str, respond: Any) -> Any:
        try:
            return await respond()
        except QuestionNotFound:
            return Reply(ResponseTaken(ok=True, action="respond", ref=ref))

    _respond(change)
