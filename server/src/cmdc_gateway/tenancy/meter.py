"""Budgets: what keys, tenants and sessions may spend, and how much of it is left (§8).

What was used is counted in the store, in the transaction of the event that tells it (MTR-1). This module only decides
whether a model call may start.
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
    """What a key used on a day, written `YYYY-MM-DD`."""

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
    """An operator's budget for a tenant or a key, renewed with each period (UTC)."""

    max_tokens: int | None = None
    max_cost_usd: float | None = None
    period: Period = "total"


@dataclass(slots=True)
class BudgetAccount:
    """A budget that is being spent."""

    name: str
    budget: Budget
    period: Period = "total"
    window: str = "all"

    def turn_over(self, day: str) -> None:
        """Begin a new period where one has begun."""
        window = _window(self.period, day)
        if window != self.window:
            self.budget, self.window = self.budget.renewed(), window


@dataclass(slots=True)
class Reservation:
    """What one running model call may come to, held on each account that pays for it."""

    accounts: tuple[BudgetAccount, ...]
    amount: Spend


class Meter:
    """Decides whether a model call may start, and remembers what is being spent."""

    def __init__(self, allowances: Mapping[str, BudgetConfig], *, clock: Callable[[], int]) -> None:
        """`allowances` are named `tenant:NAME` or `key:ID`; `clock` gives ms since 1970."""
        self._clock = clock
        self._accounts = {
            name: BudgetAccount(name, Budget(given.max_tokens, given.max_cost_usd), given.period)
            for name, given in allowances.items()
        }
        self.loaded: set[str] = set()
        self._changed = asyncio.Condition()
        self._day = -1, ""  # asked for with every piece of text
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        return list(self._accounts)

    def load_usage(self, tenant: str, used: Iterable[RecordedUsage]) -> None:
        """Take up what a tenant's keys have used, as the store has it. To be called once, before any of them is used."""
        self.loaded.add(tenant)
        day = self.day()
        for row in used:
            amount = Spend(row.usage.total_tokens, row.cost_usd)
            for account in self._paying(Principal(tenant, row.key_id)):
                if _window(account.period, row.day) == _window(account.period, day):
                    account.turn_over(day)
                    account.budget = account.budget.spend(amount)

    def check(self, caller: Principal, own: BudgetAccount | None) -> None:
        """Raise BudgetExceeded if a budget of this caller, or the session's own, is spent."""
        for account in self._accounts_of(caller, own):
            if account.budget.exhausted:
                raise BudgetExceeded(f"the budget of {account.name} is exhausted")

    def bounds(self, caller: Principal, own: BudgetAccount | None) -> bool:
        """Whether there is a budget that this caller's calls count against."""
        return own is not None or bool(self._paying(caller))

    async def reserve(self, caller: Principal, own: BudgetAccount | None, amount: Spend) -> Reservation:
        """Hold what a model call may come to, waiting for calls that run where they may yet come to less (MTR-2).

        Raises:
            BudgetExceeded: a budget is spent.
        """
        async with self._changed:
            while True:
                accounts = self._accounts_of(caller, own)
                self.check(caller, own)
                if all(account.budget.admits(amount) for account in accounts):
                    for account in accounts:
                        account.budget = account.budget.reserve(amount)
                    return Reservation(accounts, amount)
                await self._changed.wait()

    def count(self, caller: Principal, own: BudgetAccount | None, spent: Spend) -> None:
        """Take note of what was used, once it has been committed."""
        for account in self._accounts_of(caller, own):
            account.budget = account.budget.spend(spent)

    def release(self, reservation: Reservation) -> None:
        """Hold nothing any longer for a call that has ended, after what it came to was counted."""
        for account in reservation.accounts:
            account.budget = account.budget.release(reservation.amount)
        if reservation.accounts:
            task = asyncio.get_running_loop().create_task(self._tell())
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    def day(self) -> str:
        """Today, in UTC, as `YYYY-MM-DD`."""
        number = self._clock() // _DAY_MS
        if number != self._day[0]:
            self._day = number, datetime.fromtimestamp(number * _DAY_MS / 1000, UTC).strftime("%Y-%m-%d")
        return self._day[1]

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _accounts_of(self, caller: Principal, own: BudgetAccount | None) -> tuple[BudgetAccount, ...]:
        accounts = (*self._paying(caller), *((own,) if own else ()))
        for account in accounts:
            account.turn_over(self.day())
        return accounts

    def _paying(self, caller: Principal) -> list[BudgetAccount]:
        names = (f"tenant:{caller.tenant}", f"key:{caller.key_id}")
        return [self._accounts[name] for name in names if name in self._accounts]


def _window(period: Period, day: str) -> str:
    return {"day": day, "month": day[:7], "total": "all"}[period]
