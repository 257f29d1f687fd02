"""The registry of mutants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Patch = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A gateway with one fault.

    `requirement` must fail because of it, and `entails` lists other requirements that fail inevitably with it. If a
    monitor covers the requirement, `shown_by` lists requirements whose checks provoke the fault. `hidden_from_sdk` is the
    reason why users of the Python client do not see the fault.
    """

    name: str
    requirement: str
    entails: frozenset[str]
    fault: str
    apply: Patch
    shown_by: tuple[str, ...] = ()
    hidden_from_sdk: str | None = None


MUTANTS: dict[str, Mutant] = {}


def breaks(
    requirement: str, *entails: str, shown_by: Sequence[str] = (), hidden_from_sdk: str | None = None
) -> Callable[[Patch], Patch]:
    """Register the decorated function as a mutant; its docstring describes the fault."""

    def register(apply: Patch) -> Patch:
        name = apply.__name__
        assert name not in MUTANTS, f"duplicate mutant {name}"
        assert apply.__doc__, f"the mutant {name} has no docstring"
        MUTANTS[name] = Mutant(
            name, requirement, frozenset(entails), apply.__doc__, apply, tuple(shown_by), hidden_from_sdk
        )
        return apply

    return register
