"""What may be spent, and what is: a budget that is only numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens, and money in US dollars."""

    tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.tokens + other.tokens, self.cost_usd + other.cost_usd)

    def __sub__(self, other: Spend) -> Spend:
        return Spend(self.tokens - other.tokens, self.cost_usd - other.cost_usd)


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget with what was spent of it, and what calls that still run may come to (MTR-2)."""

    max_tokens: int | None = None
    max_cost_usd: float | None = None
    spent: Spend = Spend()
    held: Spend = Spend()
    calls: int = 0

    @property
    def exhausted(self) -> bool:
        """Nothing more may be started."""
        return not _below(self.spent, self, strictly=True)

    def admits(self, amount: Spend) -> bool:
        """Whether a call that may come to this much can start now.

        A call that runs alone always can: so no more than one call goes over the budget.
        """
        if self.exhausted:
            return False
        return self.calls == 0 or _below(self.spent + self.held + amount, self, strictly=False)

    def hold(self, amount: Spend) -> Budget:
        return replace(self, held=self.held + amount, calls=self.calls + 1)

    def release(self, amount: Spend) -> Budget:
        return replace(self, held=self.held - amount, calls=self.calls - 1)

    def spend(self, amount: Spend) -> Budget:
        return replace(self, spent=self.spent + amount)

    def renewed(self) -> Budget:
        """The same budget in a new period."""
        return replace(self, spent=Spend())


def _below(amount: Spend, ledger: Budget, *, strictly: bool) -> bool:
    def fits(value: float, limit: float | None) -> bool:
        return limit is None or (value < limit if strictly else value <= limit)

    return fits(amount.tokens, ledger.max_tokens) and fits(amount.cost_usd, ledger.max_cost_usd)
