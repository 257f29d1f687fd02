"""The kernel's outputs: events to publish, messages to store, and effects to start."""

from __future__ import annotations

from dataclasses import dataclass

from cmdc_gateway.protocol.events import Event
from cmdc_gateway.protocol.history import Message, TokenUsage, ToolCall


@dataclass(frozen=True, slots=True)
class AskModel:
    """Call the model with the current history."""


@dataclass(frozen=True, slots=True)
class RunTool:
    """Run a tool with exactly these arguments."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class StopWork:
    """Cancel the model call and every tool of this run."""


Effect = AskModel | RunTool | StopWork


@dataclass(slots=True)
class Outcome:
    """What follows from one signal. Treated as immutable.

    `events` are published once committed, `messages` are appended to the history, `usage` and `cost_usd` are added to
    the meters; `effects` start after the commit.
    """

    events: tuple[Event, ...] = ()
    messages: tuple[Message, ...] = ()
    effects: tuple[Effect, ...] = ()
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.events + other.events,
            self.messages + other.messages,
            self.effects + other.effects,
            self.usage + other.usage,
            self.cost_usd + other.cost_usd,
        )


def publish(*events: Event) -> Outcome:
    """An outcome of events only."""
    return Outcome(events=events)


def start(*effects: Effect) -> Outcome:
    """An outcome of effects only."""
    return Outcome(effects=effects)


def add_messages(*messages: Message) -> Outcome:
    """An outcome of messages for the history only."""
    return Outcome(messages=messages)
