"""Mutants that miscount usage (MTR)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.sessions import loader
from cmdc_gateway.sessions.commands import SessionCommands
from cmdc_gateway.sessions.transitions import RunTransitions
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.tenancy.meter import Meter

from broken_gateways.mutant import breaks
from broken_gateways.patching import change_arguments, wrap


@breaks("MTR-1.counted", "EP-session.counts", "EP-stats", "EP-usage.figures", "MTR-1.failed", "MTR-1.aborted")
def counted_twice() -> None:
    """The tokens of a model call are counted twice."""

    def around(original: Any) -> Any:
        return lambda self, key_id, usage, cost_usd: original(self, key_id, usage + usage, cost_usd)

    wrap(UnitOfWork, "add_usage", around)


def _forget(end: str) -> None:
    """Discard the usage of runs that end in this way."""

    def around(original: Any) -> Any:
        def receive(self: Any, live: Any, turn: Any, signal: Any, unit: Any) -> None:
            used = live.active.usage if live.active else TokenUsage()
            original(self, live, turn, signal, unit)
            if type(signal).__name__ == end:
                counted = unit.row.usage
                left = TokenUsage(
                    counted.prompt_tokens - used.prompt_tokens, counted.completion_tokens - used.completion_tokens
                )
                unit.row = replace(unit.row, usage=left)

        return receive

    wrap(RunTransitions, "receive", around)


@breaks("MTR-1.failed")
def failed_runs_not_counted() -> None:
    """The usage of a run that fails is discarded."""
    _forget("ModelFailed")


@breaks("MTR-1.aborted", "MTR-1.counted")
def aborted_runs_not_counted() -> None:
    """The usage of a run that is aborted is discarded."""
    _forget("Aborted")


@breaks("MTR-1.restart")
def usage_lost_at_restart() -> None:
    """The usage of a session is reset by a restart."""

    def change(given: dict[str, Any]) -> None:
        stored = given["stored"]
        given["stored"] = replace(stored, row=replace(stored.row, usage=TokenUsage(), prompts=0))

    change_arguments(loader, "restore", change)


@breaks("MTR-2.spent")
def budget_not_enforced_in_runs() -> None:
    """An exhausted budget rejects prompts, but does not end the run that exhausts it."""

    def around(original: Any) -> Any:
        async def reserve(self: Any, caller: Any, own: Any, amount: Any) -> Any:
            return await original(self, caller, None, amount)

        return reserve

    wrap(Meter, "reserve", around)


@breaks("MTR-2.refused")
def budget_not_enforced_for_prompts() -> None:
    """Prompts are accepted although the budget is exhausted."""

    def around(original: Any) -> Any:
        async def submit(self: Any, *given: Any) -> Any:
            kind = type(self._services.meter)
            checks = kind.check
            kind.check = lambda *_: None
            try:
                return await original(self, *given)
            finally:
                kind.check = checks

        return submit

    wrap(SessionCommands, "submit", around)
