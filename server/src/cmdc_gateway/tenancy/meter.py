"""Budgets of API keys, tenants and sessions (MTR-2).

The store is the record of usage, written in the transaction of the event that reports it (MTR-1). This module keeps
running totals in memory and decides whether a model call may start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from cmdc_gateway.errors import BudgetExceeded
from cmdc_gateway.kernel.budget import Budget, Spend
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.tenancy.keys import Principal

_DAY_MS = 86_400_000

Period = Literal["day", "month", "total"]


class RecordedUsage(Protocol):
    """The usage of a key on one day (UTC, `YYYY-MM-DD`)."""

    @property
    def key_id(self) -> str: ...
    @property
    def day(self) -> str: ...
    @property
    def usage(self) -> TokenUsage: ...
    @property
    def cost_usd(self) -> float: ...


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """The operator's budget for a tenant or a key, renewed each period (UTC)."""

    max_tokens: int | None = None
    max_cost_usd: float | None = None
    period: Period = "total"


@dataclass(slots=True)
class BudgetAccount:
    """A budget in use. `window` is the current period, such as `2026-03`."""

    name: str
    budget: Budget
    period: Period = "total"
    window: str = "all"

    def turn_over(self, day: str) -> None:
        """Renew the budget if a new period has begun."""
        window = _window(self.period, day)
        if window != self.window:
            self.budget, self.window = self.budget.renewed(), window


@dataclass(slots=True)
class Reservation:
    """The estimate of one model call in flight, reserved on each account that pays for it."""

    accounts: tuple[BudgetAccount, ...]
    amount: Spend


class Meter:
    """Decides whether model calls may start, and keeps the running totals of the budgets."""

    def __init__(self, budgets: Mapping[str, BudgetConfig], *, clock: Callable[[], int]) -> None:
        """`budgets` are named `tenant:NAME` or `key:ID`; `clock` returns ms since 1970."""
        self._clock = clock
        self._accounts = {
            name: BudgetAccount(name, Budget(config.max_tokens, config.max_cost_usd), config.period)
            for name, config in budgets.items()
        }
        self.loaded: set[str] = set()
        self._changed = asyncio.Condition()
        self._day = -1, ""  # cached: needed for every batch
        self._notifying: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        """The names of the operator's budgets."""
        return list(self._accounts)

    def load_usage(self, tenant: str, usage: Iterable[RecordedUsage]) -> None:
        """Add a tenant's usage from the store. Must be called once, before any of its keys is used."""
        self.loaded.add(tenant)
        day = self.day()
        for row in usage:
            amount = Spend(row.usage.total_tokens, row.cost_usd)
            for account in self._paying(Principal(tenant, row.key_id)):
                if _window(account.period, row.day) == _window(account.period, day):
                    account.turn_over(day)
                    account.budget = account.budget.spend(amount)

    def check(self, principal: Principal, own: BudgetAccount | None) -> None:
        """Raise BudgetExceeded if a budget of the principal, or the session's own, is exhausted."""
        for account in self._accounts_of(principal, own):
            if account.budget.exhausted:
                raise BudgetExceeded(f"the budget of {account.name} is exhausted")

    def bounds(self, principal: Principal, own: BudgetAccount | None) -> bool:
        """Whether any budget applies to calls of this principal in a session with this account."""
        return own is not None or bool(self._paying(principal))

    async def reserve(self, principal: Principal, own: BudgetAccount | None, amount: Spend) -> Reservation:
        """Reserve the estimate of a model call (MTR-2).

        If it does not fit beside the calls in flight, wait for them: they may cost less than their estimates.

        Raises:
            BudgetExceeded: a budget is exhausted.
        """
        async with self._changed:
            while True:
                accounts = self._accounts_of(principal, own)
                self.check(principal, own)
                if all(account.budget.admits(amount) for account in accounts):
                    for account in accounts:
                        account.budget = account.budget.reserve(amount)
                    return Reservation(accounts, amount)
                await self._changed.wait()

    def count(self, principal: Principal, own: BudgetAccount | None, spent: Spend) -> None:
        """Add committed usage to the totals."""
        for account in self._accounts_of(principal, own):
            account.budget = account.budget.spend(spent)

    def release(self, reservation: Reservation) -> None:
        """Release the reservation of a call whose usage was counted, and admit waiting calls."""
        for account in reservation.accounts:
            account.budget = account.budget.release(reservation.amount)
        if reservation.accounts:
            task = asyncio.get_running_loop().create_task(self._notify_waiting())
            self._notifying.add(task)
            task.add_done_callback(self._notifying.discard)

    def day(self) -> str:
        """Today, in UTC, as `YYYY-MM-DD`."""
        number = self._clock() // _DAY_MS
        if number != self._day[0]:
            self._day = number, datetime.fromtimestamp(number * _DAY_MS / 1000, UTC).strftime("%Y-%m-%d")
        return self._day[1]

    async def _notify_waiting(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _accounts_of(self, principal: Principal, own: BudgetAccount | None) -> tuple[BudgetAccount, ...]:
        accounts = (*self._paying(principal), *((own,) if own else ()))
        for account in accounts:
            account.turn_over(self.day())
        return accounts

    def _paying(self, principal: Principal) -> list[BudgetAccount]:
        names = (f"tenant:{principal.tenant}", f"key:{principal.key_id}")
        return [self._accounts[name] for name in names if name in self._accounts]


def _window(period: Period, day: str) -> str:
    return {"day": day, "month": day[:7], "total": "all"}[period]
