"""Gateways that talk to the model wrongly (MODEL, PROTOCOL §10)."""

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
    """Change what the model is told."""

    def around(original: Any) -> Any:
        return lambda self: change(original(self))

    wrap(LiveState, "model_request", around)


@breaks("MODEL-history")
def forgetful_of_what_was_said() -> None:
    """The model is not told the system prompt."""

    def change(request: Any) -> Any:
        return replace(request, messages=tuple(message for message in request.messages if message.role != "system"))

    _ask(change)


@breaks("MODEL-tools")
def tools_without_schemas() -> None:
    """The model is offered tools without their schemas."""

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
def gives_up_at_once() -> None:
    """A failure that may pass ends the run."""
    _retrying(delays=())


@breaks("MODEL-retry.final", "EVT-1.grammar", "EVT-2.failure", "MODEL-retry.at-once")
def failure_told_as_an_end() -> None:
    """A failure that stays ends the run as if the model had nothing to say."""
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
def stubborn() -> None:
    """A failure that will not pass is tried again."""
    from cmdc_gateway.providers import provider

    def around(original: Any) -> Any:
        def init(self: Any, reason: str, **options: Any) -> None:
            original(self, reason, **{**options, "transient": True})

        return init

    wrap(provider.ModelError, "__init__", around)


@breaks("MODEL-retry.cut", "EVT-2.failure")
def cut_and_done() -> None:
    """An answer that is cut off is taken for a whole one."""
    from cmdc_gateway.kernel.signals import ModelFinished
    from cmdc_gateway.kernel.turn import Turn

    def around(original: Any) -> Any:
        def receive(self: Any, signal: Any, now: int) -> Any:
            if type(signal).__name__ == "ModelFailed" and self._text:
                signal = ModelFinished(signal.usage, signal.cost_usd)
            return original(self, signal, now)

        return receive

    wrap(Turn, "receive", around)
