"""What is still to do: the kernel's outputs beside events."""

from __future__ import annotations

from dataclasses import dataclass

from cmdc_gateway.protocol.events import Event
from cmdc_gateway.protocol.history import Message, TokenUsage, ToolCall


@dataclass(frozen=True, slots=True)
class AskModel:
    """Call the model with the history as it is now."""


@dataclass(frozen=True, slots=True)
class RunTool:
    """Run this tool with exactly these arguments."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class StopWork:
    """Stop the model call and every tool of this run."""


Effect = AskModel | RunTool | StopWork


@dataclass(slots=True)
class Outcome:
    """What follows from one signal: facts to commit and show, then work to start. Never changed once made.

    `messages` go to the end of the history; `usage` and `cost_usd` are to be counted.
    """

    events: tuple[Event, ...] = ()
    messages: tuple[Message, ...] = ()
    effects: tuple[Effect, ...] = ()
    usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0

    def __add__(self, then: Outcome) -> Outcome:
        return Outcome(
            self.events + then.events,
            self.messages + then.messages,
            self.effects + then.effects,
            self.usage + then.usage,
            self.cost_usd + then.cost_usd,
        )


def publish(*events: Event) -> Outcome:
    """Facts to show, and nothing else."""
    return Outcome(events=events)


def start(*effects: Effect) -> Outcome:
    """Work to start, and nothing else."""
    return Outcome(effects=effects)


def say(*messages: Message) -> Outcome:
    """Messages for the history, and nothing else."""
    return Outcome(messages=messages)
