"""Mutants that call the model incorrectly (MODEL)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.sessions.state import LiveState

from broken_gateways.mutant import breaks
from broken_gateways.patching import wrap


def _ask(change: Any) -> None:
    """Change what the model receives."""

    def around(original: Any) -> Any:
        return lambda self: change(original(self))

    wrap(LiveState, "model_request", around)


@breaks("MODEL-history")
def no_system_prompt_for_the_model() -> None:
    """The model does not receive the system prompt."""

    def change(request: Any) -> Any:
        return replace(request, messages=tuple(message for message in request.messages if message.role != "system"))

    _ask(change)


@breaks("MODEL-tools")
def tools_without_schemas() -> None:
    """The model receives tools without their schemas."""

    def change(request: Any) -> Any:
        nothing = {"type": "object", "properties": {}}
        return replace(request, tools=tuple(replace(tool, parameters=nothing) for tool in request.tools))

    _ask(change)


def _retrying(**instead: Any) -> None:
    def around(original: Any) -> Any:
        def init(self: Any, *args: Any, **options: Any) -> None:
            original(self, *args, **{**options, **instead})

        return init

    wrap(RetryingProvider, "__init__", around)


@breaks("MODEL-retry.transient", "EVT-2.failure")
def transient_failure_not_retried() -> None:
    """A transient failure ends the run."""
    _retrying(delays=())


@breaks("MODEL-retry.final", "EVT-1.grammar", "EVT-2.failure", "MODEL-retry.at-once")
def lasting_failure_is_an_end() -> None:
    """A failure that persists ends the run with agent_end."""
    from cmdc_gateway.kernel.signals import ModelFinished
    from cmdc_gateway.kernel.turn import Turn

    def around(original: Any) -> Any:
        def receive(self: Any, signal: Any, now: int) -> Any:
            if type(signal).__name__ == "ModelFailed" and "status" in signal.reason:
                signal = ModelFinished(signal.usage, signal.cost_usd)
            return original(self, signal, now)

        return receive

    wrap(Turn, "receive", around)


@breaks("MODEL-retry.at-once")
def permanent_failure_retried() -> None:
    """A permanent failure is retried."""
    from cmdc_gateway.providers import provider

    def around(original: Any) -> Any:
        def init(self: Any, reason: str, **options: Any) -> None:
            original(self, reason, **{**options, "transient": True})

        return init

    wrap(provider.ModelError, "__init__", around)


@breaks("MODEL-retry.cut", "EVT-2.failure")
def cut_stream_is_complete() -> None:
    """A stream that is cut is treated as complete."""
    from cmdc_gateway.kernel.signals import ModelFinished
    from cmdc_gateway.kernel.turn import Turn

    def around(original: Any) -> Any:
        def receive(self: Any, signal: Any, now: int) -> Any:
            if type(signal).__name__ == "ModelFailed" and self._text:
                signal = ModelFinished(signal.usage, signal.cost_usd)
            return original(self, signal, now)

        return receive

    wrap(Turn, "receive", around)
