"""What a mutant is, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Operation = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A gateway with one fault.

    `requirement` must fail because of it. `entails` are others that cannot hold either, because they say the same thing
    in other words. `shown_by` are requirements whose checks do what the fault shows itself in, where a monitor watches.
    `hidden_from_sdk` says why the fault does not show to whoever uses the Python client, where it does not.
    """

    name: str
    requirement: str
    entails: frozenset[str]
    fault: str
    operate: Operation
    shown_by: tuple[str, ...] = ()
    hidden_from_sdk: str | None = None


MUTANTS: dict[str, Mutant] = {}


def breaks(
    requirement: str, *entails: str, shown_by: Sequence[str] = (), hidden_from_sdk: str | None = None
) -> Callable[[Operation], Operation]:
    """A mutant; the function's docstring is its fault."""

    def enlist(operation: Operation) -> Operation:
        name = operation.__name__
        assert name not in MUTANTS, f"there are two mutants {name}"
        assert operation.__doc__, f"the mutant {name} does not say what is wrong with it"
        coupled, shown = frozenset(entails), tuple(shown_by)
        MUTANTS[name] = Mutant(name, requirement, coupled, operation.__doc__, operation, shown, hidden_from_sdk)
        return operation

    return enlist
