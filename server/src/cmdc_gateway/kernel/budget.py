"""A spending budget as a pure value (MTR-2)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Spend:
    """An amount of tokens and US dollars."""

    tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.tokens + other.tokens, self.cost_usd + other.cost_usd)

    def __sub__(self, other: Spend) -> Spend:
        return Spend(self.tokens - other.tokens, self.cost_usd - other.cost_usd)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits, what has been spent, and what is reserved for the `calls` model calls in flight (MTR-2).

    A limit of None means unlimited.
    """

    max_tokens: int | None = None
    max_cost_usd: float | None = None
    spent: Spend = Spend()
    reserved: Spend = Spend()
    calls: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether a limit has been reached, so that no further call may start."""
        return not _below(self.spent, self, strictly=True)

    def admits(self, amount: Spend) -> bool:
        """Whether a call that may cost up to `amount` can start now.

        A call always may if no other is in flight, whatever its estimate; at most one call can therefore overrun
        the budget.
        """
        if self.exhausted:
            return False
        return self.calls == 0 or _below(self.spent + self.reserved + amount, self, strictly=False)

    def reserve(self, amount: Spend) -> Budget:
        return replace(self, reserved=self.reserved + amount, calls=self.calls + 1)

    def release(self, amount: Spend) -> Budget:
        return replace(self, reserved=self.reserved - amount, calls=self.calls - 1)

    def spend(self, amount: Spend) -> Budget:
        return replace(self, spent=self.spent + amount)

    def renewed(self) -> Budget:
        """The same budget at the start of a new period: nothing spent, reservations kept."""
        return replace(self, spent=Spend())


def _below(amount: Spend, budget: Budget, *, strictly: bool) -> bool:
    def within(value: float, limit: float | None) -> bool:
        return limit is None or (value < limit if strictly else value <= limit)

    return within(amount.tokens, budget.max_tokens) and within(amount.cost_usd, budget.max_cost_usd)
